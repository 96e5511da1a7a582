import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.front import hypervolume, nondominated
from search.objective import MACS, TOP1, minimised
from search.predicted import search
from search.problem import CostTable

SPACE = get_space("digits")
GENES, COSTS = Genes(SPACE), CostTable(SPACE, 10)
OBJECTIVES = (TOP1, MACS)


def toy(genes_BG):
    macs, _ = COSTS(genes_BG)
    used = GENES.used(genes_BG)
    bonus = ((genes_BG[:, GENES.kernel] == 1) & used).sum(axis=1) * 0.004
    return np.stack([1 - 0.2 * np.sqrt(4e4 / macs) + bonus, macs], axis=1)


def volume(found):
    return hypervolume(minimised(OBJECTIVES, found.values) / np.array([1.0, 1e6]), np.array([-0.7, 1.1]))


def run(**settings):
    return search(SPACE, OBJECTIVES, toy, **{"evaluations": 5000, "members": 50, "seed": 1, **settings})


@pytest.mark.parametrize("algorithm", ["default", "archive", "random"])
def test_members_are_nondominated_distinct_and_not_too_many(algorithm):
    found = run(algorithm=algorithm, members=20)
    assert 2 <= len(found.archs) <= 20
    assert len(set(found.archs)) == len(found.archs)
    assert nondominated(minimised(OBJECTIVES, found.values)).all()
    np.testing.assert_array_equal(toy(GENES.encode(found.archs)), found.values)


def test_the_smallest_network_is_always_a_member():
    assert SPACE.smallest() in run(members=5).archs


def test_one_seed_gives_one_result():
    assert run(seed=3).archs == run(seed=3).archs
    assert run(seed=3).archs != run(seed=4).archs


def test_the_archive_beats_random_search_on_the_same_budget():
    ours = [volume(run(seed=seed)) for seed in range(3)]
    random_search = [volume(run(seed=seed, algorithm="random")) for seed in range(3)]
    assert min(ours) > max(random_search)


def test_the_budget_is_kept():
    counted = []

    def evaluate(genes_BG):
        counted.append(len(genes_BG))
        return toy(genes_BG)

    search(SPACE, OBJECTIVES, evaluate, evaluations=1234, members=10, seed=1)
    assert sum(counted) == 1234


def test_a_tiny_space_is_solved():
    tiny = SPACE.only(resolutions=(24,), depths=(1,), kernels=(3, 5), expands=(1, 2))
    genes = Genes(tiny)
    costs = CostTable(tiny, 10)

    def evaluate(genes_BG):
        macs, _ = costs(genes_BG)
        return np.stack([genes_BG[:, genes.kernel].sum(axis=1) + 0.5 * genes_BG[:, genes.expand].sum(axis=1), macs], axis=1)

    rows = np.unique(genes.random(5000, np.random.default_rng(0)), axis=0)
    assert len(rows) == tiny.size
    every = minimised(OBJECTIVES, evaluate(rows))
    best = np.unique(every[nondominated(every)], axis=0)
    found = search(tiny, OBJECTIVES, evaluate, evaluations=3000, members=64, seed=1)
    np.testing.assert_array_equal(np.unique(minimised(OBJECTIVES, found.values), axis=0), best)
