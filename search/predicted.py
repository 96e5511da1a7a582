"""Search whose objectives take microseconds: whole arrays of genes against predictors and cost tables.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.space import Space
from search.algorithms.archive import archive_search
from search.algorithms.engine import Engine, no_progress
from search.algorithms.evolution import evolution_search
from search.algorithms.generations import generational_search
from search.algorithms.random import random_search
from search.errors import InfeasibleError, ProblemError
from search.front import nondominated
from search.objective import Objective, minimised
from search.problem import Evaluate, Limit, Problem, own_limits
from search.selection import SURVIVAL, thinned

Algorithm = Callable[[Engine], tuple[np.ndarray, np.ndarray]]  # genes [N, G] and points [N, M] of possible members

ALGORITHMS: dict[str, Algorithm] = {
    "default": archive_search,
    "archive": archive_search,
    **{name: partial(generational_search, survival=survival) for name, survival in SURVIVAL.items()},
    "evolution": evolution_search,
    "random": random_search,
}
NEED_LIMITS = ("evolution",)  # limits on all objectives but one


@dataclass(frozen=True, slots=True)
class Predicted:
    """The non-dominated archs, their unscaled objective values [N, M], and the number of evaluated archs."""

    archs: tuple[Arch, ...]
    values: np.ndarray
    evaluations: int


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluate: Evaluate,
    *,
    costs: Evaluate | None = None,
    limits: Sequence[Limit] = (),
    pinned: Mapping[int, int] | None = None,
    algorithm: str = "default",
    evaluations: int,
    members: int,
    seed: int,
    start: Sequence[Arch] = (),
    progress: Callable[[int], None] = no_progress,
    evaluated: Callable[[np.ndarray], None] | None = None,
) -> Predicted:
    """At most `members` non-dominated archs within all limits, from `evaluations` evaluated archs.

    evaluate: gets canonical genes only, as `costs` does.
    algorithm: one of `ALGORITHMS`: `archive` (the default, search/algorithms/archive.py), `nsga2`, `sms-emoa`, `spea2` or
    `nsga3` with a population of `members`, `evolution` (Once-for-All's search under one limit; one member), or `random`.
    limits: beside the objectives' own bounds, which members keep too.
    costs: the values that need no predictor, NaN for the others; they make the search more efficient and change no value.
    pinned: the index of the choice of each fixed gene, by the gene's index. start: archs that `archive` evaluates first.
    evaluated: called with the values [B, M] of every batch of archs, in the order of their evaluation.
    Raises an `InfeasibleError` if no arch is within the limits, a `ProblemError` for an unknown algorithm.
    """
    if algorithm not in ALGORITHMS:
        raise ProblemError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    if evaluations < 1 or members < 1:
        raise ProblemError(f"evaluations are {evaluations} and members {members}; both must be at least 1")
    limits = (*limits, *own_limits(objectives))
    engine = Engine(
        space, objectives, evaluate, costs, limits, dict(pinned or {}), evaluations, members, seed, progress, start,
        evaluated,
    )  # fmt: skip
    genes_BG, points_BM = ALGORITHMS[algorithm](engine)
    within = (points_BM <= engine.bounds_M).all(axis=1)
    if not within.any():
        raise InfeasibleError(engine.why_infeasible())
    points, rows = points_BM[within], genes_BG[within]
    _, first = np.unique(points, axis=0, return_index=True)
    first = first[nondominated(points[first])]
    kept = first[thinned(points[first], members)]
    return Predicted(tuple(Genes(space).decode(rows[kept])), minimised(objectives, points[kept]), engine.done)


def solve(problem: Problem, **settings: object) -> Predicted:
    """Runs `search` on a problem, which defines space, objectives, costs, limits and pinned genes."""
    return search(
        problem.space,
        problem.objectives,
        problem.values,
        costs=problem.exact_values,
        limits=problem.limits,
        pinned=problem.pinned,
        **settings,  # type: ignore[arg-type]
    )
