"""Names, devices and bounds of objectives."""

from dataclasses import replace

import numpy as np
import pytest

from ofa.record import Measured
from ofa.spaces import get_space
from search.errors import ProblemError
from search.objective import LATENCY, MACS, OBJECTIVES, TOP1, beyond_bounds, objective_named, violations

ARCH = get_space("digits").smallest()
PHONE = replace(LATENCY, device="phone")


@pytest.mark.parametrize("name", ["latency_ms.phone", "latency_ms@phone", "latency_ms on phone"])
def test_a_latency_is_named_with_its_device(name):
    found = objective_named(name)
    assert found == PHONE
    assert (found.key, found.name, found.title) == ("latency_ms.phone", "latency_ms on phone", "latency on phone, ms")


def test_names_of_no_objective_are_none():
    assert all(objective_named(name) is None for name in ("", "energy", "macs.phone", "latency_ms.", "latency_ms on "))
    assert {name: objective_named(name) for name in OBJECTIVES} == OBJECTIVES


def test_a_latency_is_that_of_its_own_device_only():
    one = Measured(ARCH, 0.5, 1, 2, latency_ms=3.0, device="phone")
    two = Measured(ARCH, 0.5, 1, 2, latency_ms=4.0, device="cpu", latencies_ms=(("cpu", 4.0), ("phone", 5.0)))
    assert (PHONE.of(one), PHONE.of(two), LATENCY.of(two)) == (3.0, 5.0, 4.0)
    with pytest.raises(ProblemError, match="no latency_ms on phone"):
        PHONE.of(Measured(ARCH, 0.5, 1, 2, latency_ms=3.0, device="cpu"))


def test_violations_are_shares_of_the_bounds_on_the_worse_side():
    objectives = (replace(TOP1, bound=0.5), replace(MACS, bound=100.0))
    beyond = violations(objectives, np.array([[0.5, 100.0], [0.9, 50.0], [0.4, 100.0], [0.4, 150.0]]))
    assert beyond.tolist() == pytest.approx([0, 0, 0.2, 0.7])
    assert beyond_bounds((TOP1, MACS)) is None
    assert violations((TOP1, MACS), np.ones((3, 2))).tolist() == [0, 0, 0]
