import numpy as np
import pytest

from ofa.record import Measured
from ofa.spaces import get_space
from search.choose import choose
from search.errors import InfeasibleError, ProblemError
from search.objective import LATENCY, MACS, TOP1, Objective
from search.problem import Limit

ARCH = get_space("digits").smallest()
PHONE, LAPTOP = Objective("latency_ms", "minimize", "phone"), Objective("latency_ms", "minimize", "laptop")


def members(rows):
    return [
        Measured(ARCH, top1, macs, 1, ms, device="phone", latencies_ms=(("phone", ms), ("laptop", other)))
        for top1, macs, ms, other in rows
    ]


FRONT = members([(0.70, 10, 5.0, 9.0), (0.80, 20, 10.0, 8.0), (0.84, 40, 20.0, 12.0), (0.85, 80, 40.0, 30.0)])


def test_a_limit_takes_the_best_that_keeps_it_and_says_what_is_lost():
    choice = choose(FRONT, (TOP1, LATENCY), limits=[Limit(LATENCY, 25)])
    assert choice.member.top1 == 0.84
    assert choice.gives_up == pytest.approx({"top1": 0.01, "latency_ms": 15.0})
    assert [m.top1 for m in choice.next] == [0.85, 0.80]


def test_several_devices_limit_at_once():
    limits = [Limit(PHONE, 25), Limit(LAPTOP, 10)]
    assert choose(FRONT, (TOP1, PHONE, LAPTOP), limits=limits).member.top1 == 0.80


def test_a_limit_that_none_keeps_is_answered():
    with pytest.raises(InfeasibleError, match="no member has latency_ms at most 1; the best there are: latency_ms 5"):
        choose(FRONT, (TOP1, LATENCY), limits=[Limit(LATENCY, 1)])


def test_weights_choose_between_the_ends():
    def by(top1, macs):
        return choose(FRONT, (TOP1, MACS), weights={"top1": top1, "macs": macs}).member.top1

    assert (by(1, 0), by(0, 1), by(1, 1)) == (0.85, 0.70, 0.80)


def test_the_knee_is_where_the_front_bends():
    assert choose(FRONT, (TOP1, MACS), at_knee=True).member.top1 == 0.80


def test_a_direction_chooses_as_pymoo_s_asf():
    from pymoo.decomposition.asf import ASF

    points = np.array([[-m.top1, m.macs] for m in FRONT])
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    for share in ((0.5, 0.5), (0.9, 0.1), (0.2, 0.8), (0.02, 0.98)):
        theirs = int(ASF().do(scaled, np.array(share)).argmin())
        ours = choose(FRONT, (TOP1, MACS), direction={"top1": share[0], "macs": share[1]})
        assert ours.member is FRONT[theirs], share


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": {"speed": 1.0}}, "the weight speed=1 fits none of top1, macs"),
        ({"weights": {"top1": 0.0}}, "every weight is 0"),
        ({"weights": {"top1": 1.0}, "at_knee": True}, "not by several"),
    ],
)
def test_bad_rules_get_their_line(settings, says):
    with pytest.raises(ProblemError, match=says):
        choose(FRONT, (TOP1, MACS), **settings)


def test_a_device_that_nobody_measured_gets_its_line():
    watch = Objective("latency_ms", "minimize", "watch")
    with pytest.raises(ProblemError, match=r"has no latency_ms on watch; .* known: phone, laptop"):
        choose(FRONT, (TOP1, watch))
    with pytest.raises(ProblemError, match="no members"):
        choose([], (TOP1, MACS))
