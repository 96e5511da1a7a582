"""Non-dominated sets and hypervolume against brute force and against pymoo."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa.arch import ArchError
from ofa.record import Measured
from ofa.spaces import get_space
from search.front import Front, front, hypervolume, knee, nondominated
from search.objective import MACS, TOP1

SPACE = get_space("digits")


def points_of(dimensions):
    """Small grids, so that ties and duplicates are common."""
    coordinate = st.integers(0, 5).map(float)
    return st.lists(st.tuples(*[coordinate] * dimensions), min_size=1, max_size=25).map(np.array)


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_nondominated_is_what_brute_force_says(dimensions):
    @settings(max_examples=150, deadline=None)
    @given(points_of(dimensions))
    def check(points):
        wanted = [not any(dominates(other, point) for other in points) for point in points]
        assert nondominated(points).tolist() == wanted

    check()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_hypervolume_is_what_counting_cells_says(dimensions):
    """On an integer grid the volume is the number of unit cells that some point dominates."""

    @settings(max_examples=60, deadline=None)
    @given(points_of(dimensions))
    def check(points):
        corners = itertools.product(range(5), repeat=dimensions)
        cells = sum(any(all(p <= c for p, c in zip(point, corner, strict=True)) for point in points) for corner in corners)
        assert hypervolume(points, np.full(dimensions, 5.0)) == pytest.approx(cells)

    check()


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_hypervolume_is_what_pymoo_says(dimensions):
    from pymoo.indicators.hv import HV

    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((40, dimensions))
        assert hypervolume(points, np.ones(dimensions)) == pytest.approx(HV(ref_point=np.ones(dimensions))(points))


def test_points_beyond_the_reference_count_nothing():
    assert hypervolume(np.array([[0.5, 2.0], [2.0, 0.5]]), np.array([1.0, 1.0])) == 0
    assert hypervolume(np.zeros((0, 2)), np.array([1.0, 1.0])) == 0


def measured(count, seed=0):
    rng = random.Random(seed)
    return [Measured(SPACE.sample(rng), round(rng.random(), 1), rng.randint(1, 9), rng.randint(1, 3)) for _ in range(count)]


def test_a_front_holds_one_of_every_nondominated_value_pair():
    seen = measured(200)
    found = front("digits", (TOP1, MACS), seen)
    values = {(m.top1, m.macs) for m in seen}
    wanted = {v for v in values if not any(dominates((-o[0], o[1]), (-v[0], v[1])) for o in values)}
    assert {(m.top1, m.macs) for m in found.members} == wanted
    assert len(found.members) == len(wanted)
    assert [m.macs for m in found.members] == sorted(m.macs for m in found.members)


def test_a_front_does_not_depend_on_the_order_of_what_was_seen():
    seen = measured(200)
    shuffled = random.Random(5).sample(seen, len(seen))
    assert front("digits", (TOP1, MACS), seen) == front("digits", (TOP1, MACS), shuffled)


def test_a_front_survives_json():
    found = front("digits", (TOP1, MACS), measured(50))
    assert Front.from_json(found.to_json()) == found
    assert set(found.to_json()) == {"space", "members"}
    assert {"arch", "top1", "macs", "params"} <= set(found.to_json()["members"][0])


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ({}, "a front is"),
        ({"space": "nowhere", "members": []}, "no space is called"),
        ({"space": "digits", "members": [{"arch": {}, "top1": 1, "macs": 1, "params": 1}]}, "expected exactly"),
        ({"space": "digits", "members": [{"top1": 1}]}, "missing"),
    ],
)
def test_what_is_no_front_gets_one_line(doc, says):
    with pytest.raises(ArchError, match=says):
        Front.from_json(doc)


def test_the_knee_is_the_point_farthest_from_the_line_through_the_ends():
    assert knee(np.array([[0, 10.0], [1, 3], [4, 2], [10, 0]])) == 1
    assert knee(np.array([[5.0, 5.0]])) == 0


def test_a_front_may_have_resolutions_that_its_space_comes_without():
    space = get_space("digits").at((16,))
    member = Measured(space.smallest(), 0.5, 1000, 10)
    left = Front("digits", (member,))
    assert Front.from_json(left.to_json()) == left
