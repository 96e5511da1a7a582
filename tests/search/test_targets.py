from dataclasses import replace

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.algorithms.evolution import Evolution
from search.costs.exact import CostTable
from search.errors import InfeasibleError, ProblemError
from search.objective import LATENCY, MACS, PARAMS, TOP1, Objective
from search.problem import Problem, Term
from search.targets import STRATEGIES, prune, search

SPACE = get_space("digits")
GENES, COSTS = Genes(SPACE), CostTable(SPACE, 10)
TARGETS = (60_000.0, 120_000.0, 250_000.0)


def macs(genes_BG):
    return COSTS(genes_BG)[0].astype(float)


def top1(genes_BG):
    used = GENES.used(genes_BG)
    return 1 - 0.2 * np.sqrt(4e4 / macs(genes_BG)) + ((genes_BG[:, GENES.of("kernel")] == 1) & used).sum(axis=1) * 0.004


PROBLEM = Problem(SPACE, (Term(TOP1, top1, exact=False), Term(MACS, macs, exact=True)))


def run(strategy, targets=TARGETS, **settings):
    settings = {"generations": 12, "warm_generations": 4, "evaluations": 2000, "seed": 1, **settings}
    return search(PROBLEM, {MACS: targets}, strategy=strategy, **settings)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_target_is_kept_in_the_order_asked(strategy):
    for targets in (TARGETS, TARGETS[::-1]):
        found = run(strategy, targets)
        assert (found.values[:, 1] <= targets).all()
        np.testing.assert_array_equal(found.values, PROBLEM.evaluate(GENES.encode(found.archs)))
        order = np.argsort(targets)
        assert (np.diff(found.values[order, 0]) > 0).all()


def test_shared_is_as_good_as_a_search_each_for_fewer_evaluations():
    alone, shared = run("independent"), run("shared", evaluations=1000)
    assert shared.evaluations <= 1000 < alone.evaluations
    assert (shared.values[:, 0] > alone.values[:, 0] - 0.002).all()


def test_generations_are_those_of_the_published_strategies():
    assert run("independent").generations == 3 * 12
    assert run("top-down").generations == run("bottom-up").generations == 12 + 2 * 4


def test_the_same_target_twice_is_found_once():
    found = run("independent", (60_000.0, 60_000.0))
    assert found.archs[0] == found.archs[1]
    assert found.generations == 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_impossible_target_is_answered(strategy):
    with pytest.raises(InfeasibleError, match=r"digits"):
        run(strategy, (1000.0, 60_000.0))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_costs_have_targets_in_one_search(strategy):
    other = Objective("latency_ms", "minimize", "a device where large images are dear")
    both = replace(PROBLEM, terms=(*PROBLEM.terms, Term(other, lambda g: macs(g) / 1e4 * (1 + g[:, 0]), exact=True)))
    settings = {"generations": 12, "warm_generations": 4, "evaluations": 1000, "seed": 1}
    found = search(both, {MACS: TARGETS[:2], other: (9.0, 30.0)}, strategy=strategy, **settings)
    assert (found.values[:2, 1] <= TARGETS[:2]).all()
    assert (found.values[2:, 2] <= (9.0, 30.0)).all()
    np.testing.assert_array_equal(found.values, both.evaluate(GENES.encode(found.archs)))
    if strategy == "shared":
        assert found.evaluations <= 2000
        alone = run("shared", TARGETS[:2], evaluations=1000)
        assert (found.values[:2, 0] >= alone.values[:, 0]).all(), "the first cost's search is the one it is alone"


def test_bad_targets_get_their_line():
    with pytest.raises(ProblemError, match="no strategy is called 'sideways'"):
        run("sideways")
    with pytest.raises(ProblemError, match=r"targets are of latency_ms; expected all but one of .*: top1, macs"):
        search(PROBLEM, {LATENCY: (1.0,)}, seed=1)
    with pytest.raises(ProblemError, match="expected positive numbers"):
        run("shared", (0.0,))


def test_pruning_reduces_from_the_input_on_level_by_level():
    bounds = np.array([np.inf, 90_000.0])
    evolution = Evolution(GENES, PROBLEM.evaluate, PROBLEM.costs, 0, bounds, GENES.canonical, np.random.default_rng(0))
    largest = GENES.encode([SPACE.largest()])[0]
    pruned = prune(evolution, largest, np.random.default_rng(0))
    assert macs(pruned[None])[0] <= 90_000
    assert pruned[0] == largest[0], "the resolution is pruned last"
    assert (pruned <= largest).all()
    for group in (GENES.of("kernel"), GENES.of("expand")):
        used = GENES.used(pruned[None])[0]
        levels = pruned[group][used]
        assert (np.diff(levels) >= 0).all() or len(set(levels.tolist())) <= 2
    with pytest.raises(InfeasibleError, match="keeps a target"):
        prune(replace(evolution, bounds_M=np.array([np.inf, 10.0])), largest, np.random.default_rng(0))


def test_pruning_comes_down_to_the_smallest_network_of_a_space_with_widths():
    space = get_space("ofa_resnet50")
    genes, costs = Genes(space), CostTable(space, 1000)

    def cost(genes_BG):
        return np.stack([np.zeros(len(genes_BG)), costs(genes_BG)[0].astype(float)], axis=1)

    least = cost(genes.encode([space.smallest()]))[0, 1]
    evolution = Evolution(genes, cost, cost, 0, np.array([np.inf, least]), genes.canonical, np.random.default_rng(0))
    pruned = prune(evolution, genes.encode([space.largest()])[0], np.random.default_rng(0))
    assert genes.decode(pruned[None]) == [space.smallest()]


def test_shared_needs_a_fiftieth_of_the_evaluations_also_for_four_costs():
    """At no target it is more than 0.05 points worse than a search each, in the mean of two seeds."""

    def params(genes_BG):
        return COSTS(genes_BG)[1].astype(float)

    columns = {
        MACS: macs,
        PARAMS: params,
        replace(LATENCY, device="large images are slow"): lambda g: macs(g) / 1e4 * (1 + g[:, 0]),
        replace(LATENCY, device="every block takes time"): lambda g: params(g) / 1e3 + GENES.used(g).sum(axis=1),
    }
    four = Problem(SPACE, (Term(TOP1, top1, exact=False), *(Term(o, f, exact=True) for o, f in columns.items())))
    some_BG = GENES.random(2000, np.random.default_rng(0))
    wanted = {o: tuple(np.quantile(column(some_BG), np.linspace(0.1, 0.7, 10))) for o, column in columns.items()}
    better = []
    for seed in (1, 2):
        alone = search(four, wanted, strategy="independent", generations=100, seed=seed)
        shared = search(four, wanted, strategy="shared", evaluations=alone.evaluations // 4 // 50, seed=seed)
        assert alone.evaluations >= 50 * shared.evaluations > 0
        better.append(shared.values[:, 0] - alone.values[:, 0])
    assert (np.mean(better, axis=0) > -0.0005).all()
