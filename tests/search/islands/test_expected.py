"""Expected improvements against plain hypervolumes and random values, and batches against computing everything anew."""

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.front import hypervolume, nondominated
from search.islands.expected import _Batch, normal_sets, pick_by_expectation, volumes_added
from search.objective import LATENCY, MACS, TOP1
from search.predict.posterior import posteriors

SPACE = get_space("digits")
GENES = Genes(SPACE)
OBJECTIVES = (TOP1, MACS, LATENCY)
NONE = np.zeros((0, len(GENES.sizes_G)), dtype=np.int64)


def measured(count, seed=0):
    genes_BG = GENES.random(count, np.random.default_rng(seed))
    macs, params = (cost.astype(float) for cost in CostTable(SPACE, 10)(genes_BG))
    return genes_BG, np.stack([1 - 20 / macs**0.4, macs, macs / 1e5 + params / 1e4], axis=1)


def batch(objectives=2, candidates=60, wider=1.0):
    genes_NG, values_NM = measured(25)
    chosen, values_NM = OBJECTIVES[:objectives], values_NM[:, :objectives]
    genes_PG, _ = measured(candidates, seed=1)
    return _Batch(chosen, posteriors(SPACE, chosen, genes_NG, values_NM), genes_PG, NONE, values_NM, wider)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 8, 30])
def test_the_volume_that_a_point_adds_is_the_difference_of_hypervolumes(objectives, count):
    """Of rounded numbers, so that some are equal, and some beyond the reference point."""
    rng = np.random.default_rng(count)
    front, points = (np.round(rng.random((n, objectives)) * 1.2, 1) for n in (count, 40))
    front, reference = front[nondominated(front)], np.full(objectives, 1.1)
    before = hypervolume(front, reference)
    expected = [hypervolume(np.vstack([front, point]), reference) - before for point in points]
    assert volumes_added(points, front, reference) == pytest.approx(np.array(expected), abs=1e-12)


def test_sets_of_values_cover_a_normal_distribution_of_each_learned_objective():
    sets_KM = normal_sets(batch(3).posteriors)
    assert sets_KM[:, 1].tolist() == [0.0] * len(sets_KM)  # MACs are exact
    for m in (0, 2):
        assert sets_KM[:, m].mean() == pytest.approx(0, abs=1e-9)
        assert sets_KM[:, m].std() == pytest.approx(1, abs=0.08)
    assert abs(np.corrcoef(sets_KM[:, 0], sets_KM[:, 2])[0, 1]) < 0.2


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_expectation_is_the_mean_over_random_values(objectives):
    found = batch(objectives)
    everything = np.arange(found.count)
    expected = found.gains(everything, found.z_KM)
    random_KM = np.random.default_rng(0).normal(size=(2000, objectives))
    random_KM[:, 1] = 0
    assert expected == pytest.approx(found.gains(everything, random_KM), rel=0.25, abs=0.03 * expected.max())


@pytest.mark.parametrize("objectives", [2, 3])
def test_a_batch_is_greedy_with_what_was_picked_believed(objectives):
    """Against computing every expectation anew in every round."""
    lazy, full = batch(objectives), batch(objectives)
    picked = lazy.picked(6)
    left = np.arange(full.count)
    for i in picked:
        gains = full.gains(left, full.z_KM)
        assert gains[left == i] == pytest.approx(gains.max())
        left = left[left != i]
        full._believe(i)
        full._refresh()


def test_pending_archs_count_as_measured_with_their_expected_values():
    genes_NG, values_NM = measured(25)
    values_NM = values_NM[:, :2]
    known = posteriors(SPACE, OBJECTIVES[:2], genes_NG, values_NM)
    genes_PG, _ = measured(60, seed=1)

    def picked(pending_BG, count):
        return pick_by_expectation(OBJECTIVES[:2], known, genes_PG, pending_BG, values_NM, count)

    five = picked(NONE, 5)
    assert len(set(five)) == 5
    assert set(picked(genes_PG[five[:2]], 3)) == set(five[2:])


def test_archs_without_a_chance_are_not_picked():
    genes_NG, values_NM = measured(25)
    values_NM = values_NM[:, :2]
    known = posteriors(SPACE, OBJECTIVES[:2], genes_NG, values_NM)
    better_NM = np.concatenate([values_NM, [[1.0, 1.0]]])  # dominates all
    assert pick_by_expectation(OBJECTIVES[:2], known, measured(60, seed=1)[0], NONE, better_NM, 5) == []
    assert pick_by_expectation(OBJECTIVES[:2], known, NONE, NONE, values_NM, 5) == []


def test_an_arch_that_costs_more_than_the_whole_front_may_be_picked():
    """The measured ones that cost more are worse than the front, so the front does not reach so far."""
    genes_BG, values_NM = measured(60)
    order = np.argsort(values_NM[:, 1])
    genes_BG, values_NM = genes_BG[order], values_NM[order][:, :2]
    cheap, costly = slice(0, 20), slice(30, 60)
    values_NM[-1, 0] = 0.1  # the most costly one has learned nothing
    known = np.r_[0:20, 59]
    front_macs = values_NM[cheap, 1].max()
    posterior = posteriors(SPACE, OBJECTIVES[:2], genes_BG[known], values_NM[known])
    picked = pick_by_expectation(OBJECTIVES[:2], posterior, genes_BG[costly], NONE, values_NM[known], 3)
    assert len(picked) == 3
    assert (values_NM[costly, 1][picked] > 1.2 * front_macs).any()
