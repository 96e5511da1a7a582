"""Searches the best network for each of many limits on one cost.

`independent` runs Once-for-All's search for each limit. `top-down` and `bottom-up` (arXiv:2012.06748) run it in full for
the first limit, and for each next limit start from the last result: loosest limit first, the best arch pruned until it
fits; or tightest first, the population unchanged. `shared` is one archive for all limits: every evaluation counts for
every limit that it keeps. Where several costs have limits, such as the latencies of two devices, the archive handles
one after the other, each from the earlier results, and every result counts for every limit of each.

The published code of `top-down` corrupts the population that it starts from (its copies share one list); here they
are values. Shape letters in this file: B archs, G genes, M objectives, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa.arch import Arch
from search.algorithms.engine import Engine
from search.algorithms.evolution import POPULATION, Evolution, Population, evolution_under
from search.errors import InfeasibleError, ProblemError
from search.objective import Objective, minimised
from search.predicted import solve
from search.problem import Limit, Problem

STRATEGIES = ("shared", "independent", "top-down", "bottom-up")
GENERATIONS = 500  # of a search from scratch
WARM_GENERATIONS = 90  # of a search that starts from another's result
PRUNED = ("kernel", "depth", "expand")  # the genes that are reduced first, in the published order; other linked genes follow
SHARED_EVALUATIONS = 25_000


@dataclass(frozen=True, slots=True)
class Targets:
    """The best arch for each limit, in the order of the limits, with its unscaled objective values [T, M]."""

    archs: tuple[Arch, ...]
    values: np.ndarray
    evaluations: int
    generations: int  # total of all limits; 0 for `shared`, which has none


def search(
    problem: Problem,
    wanted: Mapping[Objective, Sequence[float]],
    *,
    strategy: str = "shared",
    seed: int,
    generations: int = GENERATIONS,
    warm_generations: int = WARM_GENERATIONS,
    evaluations: int = SHARED_EVALUATIONS,
    progress: Callable[[int], None] = lambda done: None,
) -> Targets:
    """For each target, the upper bound of a cost, the best arch in the one objective that is no such cost.

    wanted: the targets of each cost; the result is in this order. evaluations: the number that `shared` may use for
    each cost; the other strategies have generations of 100.
    """
    if strategy not in STRATEGIES:
        raise ProblemError(f"no strategy is called {strategy!r}; there are {', '.join(STRATEGIES)}")
    names = ", ".join(o.name for o in problem.objectives)
    others = [o for o in problem.objectives if o not in wanted]
    if not wanted or not set(wanted) <= set(problem.objectives) or len(others) != 1:
        given = ", ".join(o.name for o in wanted) or "nothing"
        raise ProblemError(f"targets are of {given}; expected all but one of the problem's objectives: {names}")
    for cost, targets in wanted.items():
        if not targets or cost.direction != "minimize" or not all(0 < t < float("inf") for t in targets):
            raise ProblemError(f"targets of {cost.name} are {list(targets)}; expected positive numbers")
    archs: list[Arch]
    if strategy == "shared":
        turns = 0
        archs, evaluated = _shared(problem, wanted, others[0], evaluations, seed, progress)
    else:
        archs, evaluated, turns = [], 0, 0
        for cost, targets in wanted.items():
            part = _part(problem, others[0], cost)
            engine = Engine.of(part, evaluations=0, members=POPULATION, seed=seed, progress=_after(evaluated, progress))
            found, taken = _in_turn(engine, others[0], cost, targets, strategy, generations, warm_generations)
            archs, evaluated, turns = [*archs, *found], evaluated + engine.done, turns + taken
    return Targets(tuple(archs), problem.evaluate(problem.genes.encode(archs)), evaluated, turns)


def _after(before: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    """The progress of one search that follows on others."""
    return lambda done: progress(before + done)


def _part(problem: Problem, quality: Objective, cost: Objective) -> Problem:
    """The problem with the quality, one cost, and all other objectives with a limit."""
    limited = {limit.objective for limit in problem.limits}
    return replace(problem, terms=tuple(t for t in problem.terms if t.objective in {quality, cost} | limited))


def _shared(
    problem: Problem,
    wanted: Mapping[Objective, Sequence[float]],
    quality: Objective,
    evaluations: int,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[list[Arch], int]:
    """One archive up to the loosest limit, which keeps every arch that may be best for some limit."""
    known: list[Arch] = []
    evaluated = 0
    for cost, targets in wanted.items():
        part = _part(problem, quality, cost)
        part = replace(part, limits=(*part.limits, Limit(cost, max(targets))))
        found = solve(
            part, algorithm="archive", evaluations=evaluations, members=evaluations, seed=seed, start=known,
            progress=_after(evaluated, progress),
        )  # fmt: skip
        known += found.archs
        evaluated += found.evaluations
    points = minimised(problem.objectives, problem.evaluate(problem.genes.encode(known)))
    column = {objective: points[:, m] for m, objective in enumerate(problem.objectives)}
    chosen = []
    for cost, target in ((cost, target) for cost, targets in wanted.items() for target in targets):
        fits = np.flatnonzero(column[cost] <= target)
        if not len(fits):
            raise InfeasibleError(
                f"no sub-network of {problem.space.name} with {cost.name} at most {target:g} among {evaluated} "
                f"evaluated: the least was {column[cost].min():g}; leave that target out"
            )
        chosen.append(known[fits[column[quality][fits].argmin()]])
    return chosen, evaluated


def _in_turn(
    engine: Engine,
    quality: Objective,
    cost: Objective,
    targets: Sequence[float],
    strategy: str,
    generations: int,
    warm_generations: int,
) -> tuple[list[Arch], int]:
    """The best arch for each target, from a search of its own each, and the total number of generations."""
    at = list(engine.objectives).index(cost)
    found: dict[float, np.ndarray] = {}
    taken, population = 0, None
    for target in sorted(set(targets), reverse=strategy == "top-down"):
        bounds_M = engine.bounds_M.copy()
        bounds_M[at] = min(bounds_M[at], target)
        evolution = replace(evolution_under(engine, list(engine.objectives).index(quality)), bounds_M=bounds_M)
        turns = generations
        if population is None or strategy == "independent":
            drawn = evolution.random()
            population = Population(drawn.genes[: POPULATION // 2], drawn.points[: POPULATION // 2])
        else:
            turns = warm_generations
            if strategy == "top-down":
                pruned_G = prune(evolution, population.genes[0], engine.rng)
                population = evolution.evaluated(pruned_G[None])
        population = evolution.run(population, turns)
        taken += turns
        found[target] = population.best[0]
        engine.progress(engine.done)
    return engine.genes.decode(np.array([found[target] for target in targets])), taken


def prune(evolution: Evolution, arch_G: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduces an arch, at least by one step, until it keeps the bounds (arXiv:2012.06748).

    Each step samples what is reduced, kernels, depths or expand ratios, and reduces the next place of it from the input on
    that is above the level, the second largest choice; when no place is left, the level is lowered. Resolutions, then
    widths, are reduced only when nothing else is left, where the published code would not end; after these an
    `InfeasibleError` is raised.
    """
    genes, arch_G = evolution.genes, arch_G.copy()
    linked = [name for name in genes.forest.fields if name in genes.forest.linked]
    order = sorted(linked, key=lambda name: (*PRUNED, name).index(name))
    places = {name: list(range(len(arch_G))[genes.of(name)]) for name in order}
    level = {name: int(genes.sizes_G[places[name]].max()) - 2 for name in places}
    pointer = dict.fromkeys(places, 0)
    reduced = False
    while not reduced or not evolution.keeps(arch_G[None])[0]:
        if not places:
            last = [g for g, gene in enumerate(genes.forest.genes) if gene.field not in linked]
            larger = [g for g in last if arch_G[g] > 0]
            if not larger:
                smallest = genes.decode(arch_G[None])[0].key
                raise InfeasibleError(
                    f"no sub-network of {genes.space.name}, not even {smallest}, keeps a target; loosen it"
                )
            arch_G[larger[0]] -= 1
            continue
        name = list(places)[int(rng.integers(len(places)))]
        while pointer[name] < len(places[name]) and arch_G[places[name][pointer[name]]] <= level[name]:
            pointer[name] += 1
        if pointer[name] == len(places[name]):
            pointer[name], level[name] = 0, level[name] - 1
            if level[name] < 0:
                del places[name]
            continue
        arch_G[places[name][pointer[name]]] = level[name]
        arch_G = evolution.pin(arch_G[None])[0]
        reduced = True
    return arch_G
