from itertools import combinations

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.front import hypervolume
from search.islands.breeder import Individual
from search.islands.guided import Guided, exact_cost, hypervolume_greedy
from search.objective import MACS, TOP1

SPACE = get_space("digits")
GENES = Genes(SPACE)


def test_exact_costs_are_counted_not_learned():
    genes_BG = GENES.random(30, np.random.default_rng(0))
    macs, params = CostTable(SPACE, 10)(genes_BG)
    for field, truth in (("macs", macs), ("params", params)):
        counter = exact_cost(SPACE, field, genes_BG[:5], truth[:5].astype(float))
        assert counter is not None
        assert np.array_equal(counter(genes_BG), truth)


def test_costs_that_somebody_else_counted_are_not_taken_for_ours():
    genes_BG = GENES.random(5, np.random.default_rng(0))
    macs = CostTable(SPACE, 10)(genes_BG)[0].astype(float)
    assert exact_cost(SPACE, "macs", genes_BG, macs + np.arange(5)) is None
    assert exact_cost(SPACE, "macs", genes_BG, macs * 2.01) is None


@pytest.mark.parametrize("objectives", [2, 3])
def test_a_batch_is_greedy_for_the_hypervolume(objectives):
    """Against computing every gain anew in every round."""
    rng = np.random.default_rng(objectives)
    there, points = rng.random((8, objectives)), rng.random((25, objectives)) * 0.9
    picked = hypervolume_greedy(points, there, 6)
    low = np.concatenate([there, points]).min(axis=0)
    front = there[[not any((o <= p).all() and (o < p).any() for o in there) for p in there]]
    span = front.max(axis=0) - low
    grown, reference = (there - low) / span, np.full(objectives, 1.1)
    for i in picked:
        gains = [hypervolume(np.vstack([grown, (p - low) / span]), reference) for p in points]
        assert gains[i] == pytest.approx(max(gains))
        grown = np.vstack([grown, (points[i] - low) / span])


def test_points_that_add_nothing_are_not_picked():
    there = np.array([[0.0, 1.0], [1.0, 0.0], [0.4, 0.4]])
    assert hypervolume_greedy(np.array([[0.5, 0.5], [0.2, 0.2], [0.9, 0.9], [0.4, 0.4]]), there, 4) == [1]
    assert hypervolume_greedy(np.zeros((0, 2)), there, 4) == []


def test_it_never_asks_for_what_is_known_or_pending_and_asks_anew_for_another_seed():
    guides = [Guided(SPACE, (TOP1, MACS), seed) for seed in ("a", "a", "b")]
    genes_BG = GENES.random(40, np.random.default_rng(0))
    macs = CostTable(SPACE, 10)(genes_BG)[0]
    known = [
        Individual(p, (float(1 - 0.2 * (4e4 / m) ** 0.5), float(m)))
        for p, m in zip(GENES.pack_all(genes_BG), macs, strict=True)
    ]
    for guide in guides:
        guide.tell(known)
    first, same, other = (guide.ask(10) for guide in guides)
    assert first == same != other
    assert len(set(first)) == 10
    second = guides[0].ask(10)
    taken = [{i.packed for i in known}, set(first), set(second)]
    assert not any(a & b for a, b in combinations(taken, 2))
