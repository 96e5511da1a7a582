from itertools import combinations

import numpy as np
import pytest

from search.adapt.pick import PICKS, _uneven_with_each, unevenness
from search.objective import MACS, PARAMS, TOP1


def candidates(count, objectives, seed):
    rng = np.random.default_rng(seed)
    scale = np.array([{"top1": 1.0, "macs": 1e8, "params": 1e6}[o.field] for o in objectives])
    return rng.random((count, len(objectives))) * scale, rng.random((15, len(objectives))) * scale


def scaled_costs(objectives, values_PM, there_NM):
    """The costs of the candidates and of the measured front, each objective in units of its range over both."""
    sign = np.array([-1.0 if o.direction == "maximize" else 1.0 for o in objectives])
    kept = [not any((o * sign <= p * sign).all() and (o != p).any() for o in there_NM) for p in there_NM]
    costs = [m for m, o in enumerate(objectives) if o is not TOP1]
    both = np.concatenate([there_NM[kept], values_PM])[:, costs]
    both = both / np.ptp(both, axis=0)
    return both[: sum(kept)], both[sum(kept) :]


@pytest.mark.parametrize("objectives", [(TOP1, MACS), (TOP1, MACS, PARAMS), (MACS, TOP1, PARAMS)])
@pytest.mark.parametrize("seed", range(4))
def test_a_spread_subset_is_the_most_even_of_all(objectives, seed):
    """Against every subset; the quality is left out wherever it stands among the objectives."""
    values, there = candidates(12, objectives, seed)
    front, points = scaled_costs(objectives, values, there)
    picked = PICKS["spread"](objectives, values, there, 4)
    assert len(set(picked)) == 4
    every = [unevenness(np.concatenate([front, points[list(s)]])) for s in combinations(range(12), 4)]
    assert unevenness(np.concatenate([front, points[picked]])) == pytest.approx(min(every))


def test_costs_are_matched_to_the_measured_ones_by_objective():
    """The same archs with their objectives in another order are picked."""
    values, there = candidates(40, (TOP1, MACS, PARAMS), 0)
    picked = PICKS["spread"]((TOP1, MACS, PARAMS), values, there, 6)
    assert picked == PICKS["spread"]((PARAMS, TOP1, MACS), values[:, [2, 0, 1]], there[:, [2, 0, 1]], 6)


def test_the_largest_gap_of_the_front_is_filled():
    there = np.array([[0.5, 0.0], [0.6, 1.0], [0.7, 2.0], [0.8, 10.0]])
    values = np.array([[0.9, 0.5], [0.1, 1.5], [0.2, 4.0], [0.3, 6.0], [0.4, 8.0]])
    assert PICKS["spread"]((TOP1, MACS), values, there, 3) == [2, 3, 4]


def test_dominated_measured_archs_leave_gaps():
    there = np.array([[0.5, 0.0], [0.8, 10.0], [0.1, 5.0]])
    values = np.array([[0.6, 5.0], [0.6, 2.0]])
    assert PICKS["spread"]((TOP1, MACS), values, there, 1) == [0]


def test_all_candidates_are_picked_where_there_are_no_more():
    values, there = candidates(3, (TOP1, MACS), 0)
    assert PICKS["spread"]((TOP1, MACS), values, there, 8) == [0, 1, 2]
    assert PICKS["spread"]((TOP1, MACS), values[:0], there, 8) == []


def test_of_a_quality_alone_the_best_are_picked():
    values = np.array([[0.1], [0.9], [0.5], [0.7]])
    assert PICKS["spread"]((TOP1,), values, np.array([[0.3]]), 2) == [1, 3]


def test_hypervolume_leaves_out_what_adds_nothing():
    there = np.array([[0.9, 10.0], [0.1, 1.0]])
    values = np.array([[0.5, 2.0], [0.4, 5.0]])
    assert PICKS["hypervolume"]((TOP1, MACS), values, there, 2) == [0]


@pytest.mark.parametrize("seed", range(3))
def test_the_unevenness_with_each_point_is_that_of_the_joined_values(seed):
    rng = np.random.default_rng(seed)
    values, points = rng.integers(0, 9, (7, 2)) / 8, rng.integers(-2, 11, (20, 2)) / 8
    wanted = [unevenness(np.vstack([values, point])) for point in points]
    np.testing.assert_allclose(_uneven_with_each(values, points), wanted, atol=1e-7)
