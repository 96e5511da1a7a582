from dataclasses import replace

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.front import hypervolume
from search.islands.breeder import Individual
from search.islands.proposal import bred, pick_by_hypervolume, propose, volume_scale
from search.objective import MACS, PARAMS, TOP1, minimised

SPACE = get_space("digits")
GENES = Genes(SPACE)


def macs(genes_BG):
    return CostTable(SPACE, 10)(genes_BG)[0].astype(float)


def top1(genes_BG):
    return 1 - 0.2 * (4e4 / macs(genes_BG)) ** 0.5 - 0.02 * (genes_BG[:, 1] == 0)


def proposed(taken=(), count=5, **settings):
    genes_NG = GENES.random(20, np.random.default_rng(0))
    values_NM = np.stack([top1(genes_NG), macs(genes_NG)], axis=1)
    chosen = {"columns": [top1, macs], "pick": all_of_them, "evaluations": 500, "members": 30} | settings
    return propose(
        SPACE, (TOP1, MACS), values_NM, {*GENES.pack_all(genes_NG), *taken}, count, rng=np.random.default_rng(1), **chosen
    )


def all_of_them(objectives, values_PM, there_NM, count):
    return list(range(min(count, len(values_PM))))


def test_a_pick_gets_new_candidates_with_the_values_of_the_columns():
    seen = {}

    def pick(objectives, values_PM, there_NM, count):
        seen.update(values=values_PM, there=there_NM, count=count)
        return list(range(len(values_PM)))

    found = proposed(pick=pick)
    genes_BG = GENES.unpack_all(found)
    assert np.array_equal(seen["values"], np.stack([top1(genes_BG), macs(genes_BG)], axis=1))
    assert len(found) <= 30
    assert seen["count"] == 5
    assert not set(found) & set(proposed(pick=pick, taken=found))


def test_others_are_bred_from_the_known_ones_and_are_new():
    genes_NG = GENES.random(20, np.random.default_rng(0))
    known = [Individual(p, (t, m)) for p, t, m in zip(GENES.pack_all(genes_NG), top1(genes_NG), macs(genes_NG), strict=True)]
    taken = {individual.packed for individual in known}
    found = bred(GENES, (TOP1, MACS), known, taken, 7, np.random.default_rng(2))
    assert len(set(found)) == 7
    assert not set(found) & {individual.packed for individual in known}
    assert taken >= set(found)


@pytest.mark.parametrize("objectives", [(MACS, PARAMS), (TOP1, MACS), (TOP1, MACS, PARAMS)])
def test_a_batch_is_greedy_for_the_hypervolume(objectives):
    """Against computing every gain anew in every round."""
    rng = np.random.default_rng(7)
    there, points = rng.random((8, len(objectives))), rng.random((25, len(objectives))) * 0.9
    picked = pick_by_hypervolume(objectives, points, there, 6)
    there, points = minimised(objectives, there), minimised(objectives, points)
    front = there[[not any((o <= p).all() and (o < p).any() for o in there) for p in there]]
    worst = [(there if o.direction == "minimize" else front)[:, m].max() for m, o in enumerate(objectives)]
    low, span = front.min(axis=0), front.max(axis=0) - front.min(axis=0)
    grown, reference = (there - low) / span, (worst - low) / span + 0.1
    for i in picked:
        gains = [hypervolume(np.vstack([grown, (p - low) / span]), reference) for p in points]
        assert gains[i] == pytest.approx(max(gains))
        grown = np.vstack([grown, (points[i] - low) / span])


def test_points_that_add_nothing_are_not_picked():
    there = np.array([[0.0, 1.0], [1.0, 0.0], [0.4, 0.4]])
    points = np.array([[0.5, 0.5], [0.2, 0.2], [0.9, 0.9], [0.4, 0.4]])
    assert pick_by_hypervolume((MACS, PARAMS), points, there, 4) == [1]
    assert pick_by_hypervolume((MACS, PARAMS), np.zeros((0, 2)), there, 4) == []


def test_a_candidate_that_costs_more_than_the_front_is_picked_if_it_is_better():
    there = np.array([[0.5, 1.0], [0.7, 2.0], [0.6, 9.0]])  # the last one is dominated, and shows what costs there are
    points = np.array([[0.65, 1.9], [0.8, 8.0], [0.69, 7.0]])
    assert pick_by_hypervolume((TOP1, MACS), points, there, 3) == [1, 0]


def test_the_reference_point_is_beyond_all_measured_costs_and_the_quality_of_the_front():
    measured = np.array([[0.5, 1.0], [0.7, 3.0], [0.1, 11.0]])
    front, low, span, reference = volume_scale((TOP1, MACS), measured)
    assert front == pytest.approx(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert low == pytest.approx([-0.7, 1.0])
    assert span == pytest.approx([0.2, 2.0])
    assert reference == pytest.approx([1.1, 5.1])
    _, _, span, reference = volume_scale((TOP1, MACS), measured[:1])
    assert (span.tolist(), reference.tolist()) == ([1.0, 1.0], [0.1, 0.1])


def test_with_a_bound_the_volume_counts_up_to_it_or_to_the_most_costly_measured_arch():
    measured = np.array([[0.5, 1.0], [0.7, 3.0], [0.9, 11.0]])
    for bound, reference in ((5.0, 2.1), (100.0, 1.1), (11.0, 1.1)):
        front, _, _, found = volume_scale((TOP1, replace(MACS, bound=bound)), measured)
        assert len(front) == 2 + (bound > 10)  # what is beyond the bound is not of the front, but shows what costs there are
        assert found[1] == pytest.approx(reference)
