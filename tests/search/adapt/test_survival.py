import numpy as np
import pytest

from search.adapt.directions import energy_directions
from search.adapt.survival import survivors
from search.front import ranks
from search.objective import LATENCY, MACS, PARAMS, TOP1
from search.selection import nsga2

MANY = (TOP1, MACS, PARAMS, LATENCY)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_exactly_as_many_survive_also_with_duplicates(objectives):
    values = np.random.default_rng(0).random((10, objectives))
    values = np.concatenate([values] * 5)
    for count in (1, 7, 12, 50):
        kept = survivors(MANY[:objectives], values, count, 0)
        assert len(kept) == len(set(kept)) == count
    assert sorted(survivors(MANY[:objectives], values, 99, 0)) == list(range(50))
    assert survivors(MANY[:objectives], values, 0, 0) == []
    assert len(survivors(MANY[:objectives], np.ones((6, objectives)), 4, 0)) == 4


def test_of_one_quality_the_best_survive():
    assert survivors((TOP1,), np.array([[0.2], [0.9], [0.5]]), 2, 0) == [1, 2]


def test_of_two_objectives_rank_and_crowding_select():
    values = np.random.default_rng(1).random((40, 2))
    kept, _ = nsga2(values * [-1, 1], 15, np.random.default_rng(0))
    assert survivors((TOP1, MACS), values, 15, 0) == kept.tolist()


@pytest.mark.parametrize("objectives", [3, 4])
def test_of_more_objectives_those_near_the_energy_directions_survive(objectives):
    """One point at each direction, and a crowd of equals at one corner of the same front."""
    count = 24
    spread = energy_directions(objectives, count)
    crowd = spread[:1] * 0.98 + np.random.default_rng(2).dirichlet(np.ones(objectives), 60) * 0.02
    values = np.concatenate([crowd, spread]) * np.array([-1.0, 1.0, 1.0, 1.0])[:objectives]
    kept = survivors(MANY[:objectives], values, count, 3)
    assert sum(i >= 60 for i in kept) >= count - 4
    assert kept == survivors(MANY[:objectives], values, count, 3)


def test_better_fronts_survive_first():
    values = np.random.default_rng(3).random((60, 3))
    points = values * [-1, 1, 1]
    first = np.flatnonzero(ranks(points) == 0)
    kept = survivors((TOP1, MACS, PARAMS), values, len(first) + 5, 0)
    assert set(first.tolist()) <= set(kept)
