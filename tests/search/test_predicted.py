from dataclasses import replace

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.record import Measured
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.errors import InfeasibleError, ProblemError
from search.front import hypervolume, nondominated
from search.objective import MACS, PARAMS, TOP1, minimised
from search.predicted import ALGORITHMS, search, solve
from search.problem import Limit, Problem, Term, recorded

SPACE = get_space("digits")
GENES, COSTS = Genes(SPACE), CostTable(SPACE, 10)
OBJECTIVES = (TOP1, MACS)


def toy(genes_BG):
    macs, _ = COSTS(genes_BG)
    used = GENES.used(genes_BG)
    bonus = ((genes_BG[:, GENES.of("kernel")] == 1) & used).sum(axis=1) * 0.004
    return np.stack([1 - 0.2 * np.sqrt(4e4 / macs) + bonus, macs], axis=1)


def volume(found):
    return hypervolume(minimised(OBJECTIVES, found.values) / np.array([1.0, 1e6]), np.array([-0.7, 1.1]))


def run(**settings):
    return search(SPACE, OBJECTIVES, toy, **{"evaluations": 5000, "members": 50, "seed": 1, **settings})


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "evolution"])
def test_members_are_nondominated_distinct_and_not_too_many(algorithm):
    found = run(algorithm=algorithm, members=20, evaluations=2000)
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
        kernels, expands = genes_BG[:, genes.of("kernel")].sum(axis=1), genes_BG[:, genes.of("expand")].sum(axis=1)
        return np.stack([kernels + 0.5 * expands, macs], axis=1)

    rows = np.unique(genes.random(5000, np.random.default_rng(0)), axis=0)
    assert len(rows) == tiny.size
    every = minimised(OBJECTIVES, evaluate(rows))
    best = np.unique(every[nondominated(every)], axis=0)
    found = search(tiny, OBJECTIVES, evaluate, evaluations=3000, members=64, seed=1)
    np.testing.assert_array_equal(np.unique(minimised(OBJECTIVES, found.values), axis=0), best)


TOY = Problem(
    SPACE,
    (
        Term(TOP1, lambda genes_BG: toy(genes_BG)[:, 0], exact=False),
        Term(MACS, lambda genes_BG: COSTS(genes_BG)[0].astype(float), exact=True),
        Term(PARAMS, lambda genes_BG: COSTS(genes_BG)[1].astype(float), exact=True),
    ),
)
PAIR = replace(TOY, terms=TOY.terms[:2])


def test_exact_costs_make_the_archive_better_and_no_worse_than_its_rivals():
    def volumes(**settings):
        return [volume(solve(PAIR, evaluations=2000, members=50, seed=seed, **settings)) for seed in range(3)]

    ours = volumes()
    for algorithm in ("nsga2", "sms-emoa", "spea2"):
        assert np.mean(ours) > np.mean(volumes(algorithm=algorithm)), algorithm


@pytest.mark.parametrize("algorithm", ["archive", "nsga2", "sms-emoa", "spea2", "nsga3", "random"])
def test_every_limit_and_every_pinned_gene_holds_on_every_member(algorithm):
    depth0, kernel0 = GENES.of("depth").start, GENES.of("kernel").start
    limits = (Limit(MACS, 300_000), Limit(PARAMS, 16_000), Limit(TOP1, 0.92))
    problem = replace(TOY, limits=limits, pinned={0: 1, depth0: 2, kernel0: 1})
    found = solve(problem, algorithm=algorithm, evaluations=1500, members=16, seed=2)
    assert 1 <= len(found.archs) <= 16
    assert (found.values[:, 0] >= 0.92).all()
    assert (found.values[:, 1] <= 300_000).all()
    assert (found.values[:, 2] <= 16_000).all()
    for arch in found.archs:
        assert (arch.resolution, arch.depth[0], arch.kernel[0]) == (28, 3, 5)
    assert found.evaluations <= 1500


@pytest.mark.parametrize("algorithm", ["archive", "nsga2", "spea2"])
def test_an_infeasible_limit_is_answered(algorithm):
    smallest = COSTS(GENES.encode([SPACE.smallest()]))[0][0]
    problem = replace(PAIR, limits=(Limit(MACS, 1000),))
    with pytest.raises(InfeasibleError, match=rf"with macs at most 1000 among \d+ evaluated.*had macs {smallest:g}"):
        solve(problem, algorithm=algorithm, evaluations=500, members=10, seed=1)


def test_evolution_finds_the_best_under_a_limit():
    problem = replace(PAIR, limits=(Limit(MACS, 200_000),))
    found = solve(problem, algorithm="evolution", evaluations=5000, members=10, seed=1)
    front = solve(PAIR, evaluations=5000, members=100, seed=1)
    best = max(top1 for top1, macs in front.values if macs <= 200_000)
    assert len(found.archs) == 1
    assert found.values[0, 1] <= 200_000
    assert found.values[0, 0] >= best - 0.005
    assert found.evaluations == 5000
    with pytest.raises(InfeasibleError, match="keeps the limit 1000: the smallest has"):
        solve(replace(PAIR, limits=(Limit(MACS, 1000),)), algorithm="evolution", evaluations=500, members=1, seed=1)
    with pytest.raises(ProblemError, match="2 of the 2 objectives have no limit"):
        solve(PAIR, algorithm="evolution", evaluations=500, members=1, seed=1)


def test_no_arch_is_evaluated_twice_by_the_archive():
    seen = []

    def evaluate(genes_BG):
        seen.extend(map(bytes, genes_BG.astype(np.int8)))
        return PAIR.evaluate(genes_BG)

    search(SPACE, OBJECTIVES, evaluate, costs=PAIR.costs, evaluations=3000, members=10, seed=1)
    assert len(seen) == 3000
    assert len(set(seen)) == 3000


def test_archs_are_evaluated_in_their_canonical_form():
    genes_BG = np.random.default_rng(0).integers(0, GENES.sizes_G, (200, len(GENES.sizes_G)))
    canonical = GENES.canonical(genes_BG)
    assert (canonical != genes_BG).any()
    np.testing.assert_array_equal(GENES.canonical(canonical), canonical)
    np.testing.assert_array_equal(PAIR.evaluate(genes_BG), PAIR.evaluate(canonical))
    np.testing.assert_array_equal(GENES.encode(GENES.decode(genes_BG)), canonical)


def test_nan_objectives_get_their_line():
    def nan(genes_BG):
        return np.where(genes_BG[:, 0] == 1, np.nan, 0.5)

    broken = replace(PAIR, terms=(Term(TOP1, nan, exact=False), PAIR.terms[1]))
    with pytest.raises(ProblemError, match=r"top1 of r28-\S+ is nan; expected a number"):
        solve(broken, evaluations=500, members=10, seed=1)
    with pytest.raises(ProblemError, match=r"top1 of r28-\S+ is nan; expected a number"):
        search(SPACE, OBJECTIVES, lambda g: np.stack([nan(g), toy(g)[:, 1]], axis=1), evaluations=500, members=10, seed=1)


def test_limits_on_what_is_no_objective_and_impossible_genes_get_their_line():
    with pytest.raises(ProblemError, match="no objective is params; there are top1, macs"):
        replace(PAIR, limits=(Limit(PARAMS, 1),))
    with pytest.raises(ProblemError, match="gene 0 is to be choice 7"):
        replace(PAIR, pinned={0: 7})
    with pytest.raises(ProblemError, match="no algorithm is called 'magic'"):
        run(algorithm="magic")


def test_what_was_measured_is_an_objective():
    archs = GENES.decode(GENES.random(20, np.random.default_rng(3)))
    measured = [Measured(arch, 0.5 + i / 100, 1, 1) for i, arch in enumerate(archs)]
    term = recorded(SPACE, TOP1, measured)
    assert term.values(GENES.encode(archs)).tolist() == [m.top1 for m in measured]
    with pytest.raises(ProblemError, match=r"top1 of \S+ was not measured; 20 archs were"):
        term.values(GENES.encode([SPACE.largest()]))
