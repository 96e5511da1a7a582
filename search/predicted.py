"""Search whose objectives take microseconds: whole arrays of genes against predictors and cost tables.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.space import Space
from search.algorithms.archive import Archive
from search.algorithms.evolution import Evolution, evolve
from search.errors import InfeasibleError, ProblemError
from search.front import nondominated
from search.objective import Objective, minimised
from search.problem import Evaluate, Limit, Problem
from search.selection import SURVIVAL, constrained, thinned

ALGORITHMS = ("default", "archive", *SURVIVAL, "evolution", "random")
MUTATION = 0.1  # of each gene, in the evolutionary multi-objective algorithms, as OFA² has it (arXiv:2303.13683)


@dataclass(frozen=True, slots=True)
class Predicted:
    """The non-dominated archs that were found, their objective values [N, M] as they are, and how many were evaluated."""

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
    progress: Callable[[int], None] = lambda done: None,
) -> Predicted:
    """At most `members` non-dominated archs within all limits, out of `evaluations`.

    algorithm: `archive` (the default, search/algorithms/archive.py), `nsga2`, `sms-emoa`, `spea2` or `nsga3` with a
    population of `members`, `evolution` (Once-for-All's search under one limit; one member), or `random`.
    costs: the values that need no predictor, NaN for the others; knowing them makes the search better, not other.
    pinned: genes, by index, that must have a choice, by index. Nothing within the limits is an `InfeasibleError`.
    start: archs that `archive` evaluates first, beside its own.
    """
    if algorithm not in ALGORITHMS:
        raise ProblemError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    if evaluations < 1 or members < 1:
        raise ProblemError(f"evaluations are {evaluations} and members {members}; both must be at least 1")
    engine = Engine(space, objectives, evaluate, costs, limits, dict(pinned or {}), evaluations, members, seed, progress)
    if algorithm in ("default", "archive"):
        genes_BG, points_BM = engine.archive(start)
    elif algorithm == "evolution":
        genes_BG, points_BM = engine.evolution()
    elif algorithm == "random":
        genes_BG, points_BM = engine.random()
    else:
        genes_BG, points_BM = engine.generations(algorithm)
    within = (points_BM <= engine.bounds_M).all(axis=1)
    if not within.any():
        raise InfeasibleError(engine.why_infeasible())
    points, rows = points_BM[within], genes_BG[within]
    _, first = np.unique(points, axis=0, return_index=True)
    first = first[nondominated(points[first])]
    kept = first[thinned(points[first], members)]
    return Predicted(tuple(Genes(space).decode(rows[kept])), minimised(objectives, points[kept]), engine.done)


def solve(problem: Problem, **settings: object) -> Predicted:
    """`search` on a problem, which brings its space, objectives, costs, limits and pinned genes."""
    return search(
        problem.space,
        problem.objectives,
        problem.evaluate,
        costs=problem.costs,
        limits=problem.limits,
        pinned=problem.pinned,
        **settings,  # type: ignore[arg-type]
    )


def starting_points(space: Space) -> list[Arch]:
    """The smallest and the largest arch, then those that have one value everywhere."""
    return [
        space.smallest(),
        space.largest(),
        *(
            space.uniform(r, d, k, e, w)
            for r in space.resolutions
            for d in space.depths
            for k in space.kernels or (0,)
            for e in space.expands
            for w in (space.width_choices[0] if space.width_choices else (0,))
        ),
    ]


@dataclass
class Engine:
    """What all algorithms share: points that are minimised, bounds, pinned genes, and the count of evaluations."""

    space: Space
    objectives: Sequence[Objective]
    values: Evaluate
    free: Evaluate | None
    limits: Sequence[Limit]
    pinned: dict[int, int]
    evaluations: int
    members: int
    seed: int
    progress: Callable[[int], None]

    @classmethod
    def of(cls, problem: Problem, *, evaluations: int, members: int, seed: int, progress: Callable[[int], None]) -> Engine:
        p, pinned = problem, dict(problem.pinned)
        return cls(p.space, p.objectives, p.evaluate, p.costs, p.limits, pinned, evaluations, members, seed, progress)

    def __post_init__(self) -> None:
        self.genes = Genes(self.space)
        self.rng = np.random.default_rng([*f"{self.seed}/predicted".encode()])
        self.done = 0
        self.bounds_M = np.full(len(self.objectives), np.inf)
        for limit in self.limits:
            m = list(self.objectives).index(limit.objective)
            sign = minimised(self.objectives, np.ones(len(self.objectives)))[m]
            self.bounds_M[m] = min(self.bounds_M[m], sign * limit.bound)
        self.least_M = np.full(len(self.objectives), np.inf)

    def ask(self, genes_BG: np.ndarray) -> np.ndarray:
        """Points of archs [B, M]; this is what counts as evaluating."""
        self.done += len(genes_BG)
        points_BM = minimised(self.objectives, self.values(genes_BG))
        if not np.isfinite(points_BM).all():
            row, m = np.argwhere(~np.isfinite(points_BM))[0]
            [arch] = self.genes.decode(genes_BG[row : row + 1])
            raise ProblemError(f"{self.objectives[m].name} of {arch.key} is {points_BM[row, m]}; expected a number")
        self.least_M = np.minimum(self.least_M, points_BM.min(axis=0))
        return points_BM

    def costs(self, genes_BG: np.ndarray) -> np.ndarray:
        if self.free is None:
            return np.full((len(genes_BG), len(self.objectives)), np.nan)
        return minimised(self.objectives, self.free(genes_BG))

    def pin(self, genes_BG: np.ndarray) -> np.ndarray:
        for gene, choice in self.pinned.items():
            genes_BG[:, gene] = choice
        return self.genes.canonical(genes_BG)

    def first(self, count: int) -> np.ndarray:
        """Archs to start from: the extremes and the uniform ones, at most half, and random ones."""
        archs = starting_points(self.space)
        if len(archs) > max(2, count // 2):
            steps = np.linspace(2, len(archs) - 1, max(0, count // 2 - 2)).round().astype(int)
            archs = [*archs[:2], *(archs[i] for i in sorted(set(steps.tolist())))]
        seeds_BG = self.pin(self.genes.encode(archs))[:count]
        return np.concatenate([seeds_BG, self.pin(self.genes.random(count - len(seeds_BG), self.rng))])

    def archive(self, start: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        if len(self.objectives) < 2:
            raise ProblemError("the archive needs two objectives or more; for one under a limit there is `evolution`")
        found = Archive(
            self.genes,
            self.ask,
            self.costs,
            bounds_M=self.bounds_M,
            pinned=self.pinned,
            evaluations=self.evaluations,
            members=self.members,
            rng=self.rng,
        )
        count = int(np.clip(self.evaluations // 20, 50, 500))
        first_BG = np.concatenate([self.pin(self.genes.encode(start)), self.first(min(count, self.evaluations))])
        return found.run(first_BG, self.progress)

    def random(self) -> tuple[np.ndarray, np.ndarray]:
        genes_BG = np.zeros((0, len(self.genes.sizes_G)), dtype=np.int64)
        points_BM = np.zeros((0, len(self.objectives)))
        while self.done < self.evaluations:
            asked_BG = self.pin(self.genes.random(min(1000, self.evaluations - self.done), self.rng))
            new_BM = np.concatenate([points_BM, self.ask(asked_BG)])
            new_BG = np.concatenate([genes_BG, asked_BG])
            order = np.argsort(self._beyond(new_BM) > 0, kind="stable")
            inside = order[: max(1, (self._beyond(new_BM) <= 0).sum())]
            kept = inside[nondominated(new_BM[inside])]
            genes_BG, points_BM = new_BG[kept], new_BM[kept]
            self.progress(self.done)
        return genes_BG, points_BM

    def generations(self, algorithm: str) -> tuple[np.ndarray, np.ndarray]:
        """Tournaments, uniform crossover, mutation of a tenth of the genes, and the algorithm's own survival."""
        survival, size = SURVIVAL[algorithm], max(self.members, 4)
        pool_BG = np.unique(self.first(min(size, self.evaluations)), axis=0)
        pool_BM = self.ask(pool_BG)
        rating = np.zeros(len(pool_BG))
        fruitless = 0
        while self.done < self.evaluations and fruitless < 100:
            child_BG = self._children(pool_BG, rating, min(size, self.evaluations - self.done))
            fruitless = 0 if len(child_BG) else fruitless + 1
            if not len(child_BG):
                continue
            pool_BG = np.concatenate([pool_BG, child_BG])
            pool_BM = np.concatenate([pool_BM, self.ask(child_BG)])
            kept, rating = constrained(survival, pool_BM, self._beyond(pool_BM), size, self.rng)
            pool_BG, pool_BM = pool_BG[kept], pool_BM[kept]
            self.progress(self.done)
        return pool_BG, pool_BM

    def _children(self, pool_BG: np.ndarray, rating: np.ndarray, count: int) -> np.ndarray:
        """At most `count` archs that are not in the pool."""
        rng, width = self.rng, pool_BG.shape[1]
        rounds = rng.integers(0, len(pool_BG), (4, count))
        mother = np.where(rating[rounds[0]] <= rating[rounds[1]], rounds[0], rounds[1])
        father = np.where(rating[rounds[2]] <= rating[rounds[3]], rounds[2], rounds[3])
        child_BG = np.where(rng.random((count, width)) < 0.5, pool_BG[mother], pool_BG[father])
        drawn_BG = rng.integers(0, self.genes.sizes_G, (count, width))
        child_BG = self.pin(np.where(rng.random((count, width)) < MUTATION, drawn_BG, child_BG))
        both = np.concatenate([pool_BG, child_BG])
        _, first = np.unique(both, axis=0, return_index=True)
        return both[np.sort(first[first >= len(pool_BG)])]

    def evolution(self) -> tuple[np.ndarray, np.ndarray]:
        """Once-for-All's search: the best of the one objective that has no limit."""
        free = np.flatnonzero(~np.isfinite(self.bounds_M))
        if len(free) != 1:
            raise ProblemError(
                f"evolution maximises one objective under limits on all others; {len(free)} of the "
                f"{len(self.objectives)} objectives have no limit; give limits such as latency_ms at most 25"
            )
        found = evolve(self.evolution_under(int(free[0])), self.evaluations)
        self.progress(self.done)
        return found.genes[:1], found.points[:1]

    def evolution_under(self, quality: int) -> Evolution:
        """Once-for-All's search for one objective, under the bounds on the others."""
        return Evolution(self.genes, self.ask, self.costs, quality, self.bounds_M, self.pin, self.rng)

    def _beyond(self, points_BM: np.ndarray) -> np.ndarray:
        return np.maximum(points_BM - self.bounds_M, 0).sum(axis=1)

    def why_infeasible(self) -> str:
        wanted = " and ".join(map(str, self.limits))
        least = minimised(self.objectives, self.least_M)
        found = ", ".join(
            f"{o.name} {v:g}" for o, v, b in zip(self.objectives, least, self.bounds_M, strict=True) if np.isfinite(b)
        )
        return (
            f"no sub-network of {self.space.name} with {wanted} among {self.done} evaluated; "
            f"the nearest to each limit had {found}; loosen a limit"
        )
