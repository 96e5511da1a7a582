"""Many limits on one cost at once: the best network for each.

`independent` runs Once-for-All's search for each limit. `top-down` and `bottom-up` (arXiv:2012.06748) run it in full for
the first limit, and for each next start from what the last found: loosest limit first, the best arch pruned until it
fits; or tightest first, the population as it is. `shared` is one archive for all limits: every evaluation counts for
every limit that it keeps.

The published code of `top-down` corrupts the population that it starts from (its copies share one list); here they
are values. Shape letters in this file: B archs, G genes, M objectives, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from search.errors import InfeasibleError, ProblemError
from search.evolution import POPULATION, Evolution, Population
from search.objective import Objective, minimised
from search.predicted import Engine, solve
from search.problem import Limit, Problem

STRATEGIES = ("shared", "independent", "top-down", "bottom-up")
GENERATIONS = 500  # of a search from scratch
WARM_GENERATIONS = 90  # of one that starts from another's result
SHARED_EVALUATIONS = 25_000


@dataclass(frozen=True, slots=True)
class Targets:
    """The best arch for each limit, in the order of the limits, with its objectives' values [T, M] as they are."""

    archs: tuple[Arch, ...]
    values: np.ndarray
    evaluations: int
    generations: int  # of all limits together; 0 for `shared`, which has none


def search(
    problem: Problem,
    cost: Objective,
    targets: Sequence[float],
    *,
    strategy: str = "shared",
    seed: int,
    generations: int = GENERATIONS,
    warm_generations: int = WARM_GENERATIONS,
    evaluations: int = SHARED_EVALUATIONS,
    progress: Callable[[int], None] = lambda done: None,
) -> Targets:
    """For each of the `targets` (most that `cost` may be) the arch that is best in the one other objective.

    evaluations: how many `shared` may take; the other strategies have generations of 100.
    """
    if strategy not in STRATEGIES:
        raise ProblemError(f"no strategy is called {strategy!r}; there are {', '.join(STRATEGIES)}")
    others = [o for o in problem.objectives if o != cost]
    if len(others) != 1 or cost not in problem.objectives:
        names = ", ".join(o.name for o in problem.objectives)
        raise ProblemError(f"targets need {cost.name} and one objective beside it; the problem has {names}")
    if not targets or cost.direction != "minimize" or not all(0 < t < float("inf") for t in targets):
        raise ProblemError(f"targets are {list(targets)}; expected positive numbers")
    quality = problem.objectives.index(others[0])
    if strategy == "shared":
        return _shared(problem, cost, targets, quality, evaluations, seed, progress)
    return _in_turn(problem, cost, targets, quality, strategy, generations, warm_generations, seed, progress)


def _shared(
    problem: Problem,
    cost: Objective,
    targets: Sequence[float],
    quality: int,
    evaluations: int,
    seed: int,
    progress: Callable[[int], None],
) -> Targets:
    """One archive up to the loosest limit, in which everything is kept that may be best for some limit."""
    within = replace(problem, limits=(*problem.limits, Limit(cost, max(targets))))
    found = solve(within, algorithm="archive", evaluations=evaluations, members=evaluations, seed=seed, progress=progress)
    points = minimised(problem.objectives, found.values)
    at = problem.objectives.index(cost)
    chosen = []
    for target in targets:
        fits = np.flatnonzero(points[:, at] <= target)
        if not len(fits):
            raise InfeasibleError(
                f"no sub-network of {problem.space.name} with {cost.name} at most {target:g} among {found.evaluations} "
                f"evaluated: the least was {points[:, at].min():g}; leave that target out"
            )
        chosen.append(int(fits[points[fits, quality].argmin()]))
    return Targets(tuple(found.archs[i] for i in chosen), found.values[chosen], found.evaluations, 0)


def _in_turn(
    problem: Problem,
    cost: Objective,
    targets: Sequence[float],
    quality: int,
    strategy: str,
    generations: int,
    warm_generations: int,
    seed: int,
    progress: Callable[[int], None],
) -> Targets:
    engine = Engine.of(problem, evaluations=0, members=POPULATION, seed=seed, progress=progress)
    at = problem.objectives.index(cost)
    found: dict[float, tuple[np.ndarray, np.ndarray]] = {}
    taken, population = 0, None
    for target in sorted(set(targets), reverse=strategy == "top-down"):
        bounds_M = engine.bounds_M.copy()
        bounds_M[at] = min(bounds_M[at], target)
        evolution = replace(engine.evolution_under(quality), bounds_M=bounds_M)
        turns = generations
        if population is None or strategy == "independent":
            drawn = evolution.random()
            population = Population(drawn.genes[: POPULATION // 2], drawn.points[: POPULATION // 2])
        else:
            turns = warm_generations
            if strategy == "top-down":
                pruned_G = prune(evolution, population.genes[0], engine.rng)
                population = evolution.asked(pruned_G[None])
        population = evolution.run(population, turns)
        taken += turns
        found[target] = population.best
        progress(engine.done)
    genes_TG = np.array([found[target][0] for target in targets])
    points_TM = np.array([found[target][1] for target in targets])
    values = minimised(problem.objectives, points_TM)
    return Targets(tuple(Genes(problem.space).decode(genes_TG)), values, engine.done, taken)


def prune(evolution: Evolution, arch_G: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smaller and smaller until it keeps the bounds, at least by one step (arXiv:2012.06748).

    Each step draws what is reduced, kernels, depths or expansions, and reduces the next place of it from the input on
    that is above the level, the second largest choice; when no place is left, the level goes down. Resolutions are
    reduced only when nothing else is left, where the published code would not end; then follows an `InfeasibleError`.
    """
    genes, arch_G = evolution.genes, arch_G.copy()
    groups = {"kernel": genes.kernel, "depth": genes.depth, "expand": genes.expand}
    places = {name: list(range(g.start, g.stop)) for name, g in groups.items() if g.stop > g.start}
    level = {name: int(genes.sizes_G[places[name]].max()) - 2 for name in places}
    pointer = dict.fromkeys(places, 0)
    reduced = False
    while not reduced or not evolution.keeps(arch_G[None])[0]:
        if not places:
            if arch_G[0] == 0:
                smallest = genes.decode(arch_G[None])[0].key
                raise InfeasibleError(
                    f"no sub-network of {genes.space.name}, not even {smallest}, keeps a target; loosen it"
                )
            arch_G[0] -= 1
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
