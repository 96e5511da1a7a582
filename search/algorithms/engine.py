"""The shared part of all predicted searches: counted and checked evaluations, limits, pinned genes, first archs.

An algorithm is a function of an `Engine`: it samples archs, has them evaluated until `engine.left` is 0, and returns
the candidates for members, as genes [N, G] and points [N, M].
Shape letters in this file: B archs, G genes, M objectives. Points are objective values to minimise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.space import Space
from search.errors import ProblemError
from search.objective import Objective, minimised
from search.problem import Evaluate, Limit, Problem, bounds


def starting_points(space: Space) -> list[Arch]:
    """The smallest and the largest arch, then those that have one value everywhere."""
    return [
        space.smallest(),
        space.largest(),
        *(space.uniform(*values) for values in product(*(space.values(field) for field in space.forest.fields))),
    ]


def no_progress(done: int) -> None:
    """Reports nothing."""


@dataclass
class Engine:
    """One running predicted search.

    values: unscaled objective values [B, M] of canonical genes [B, G]. exact: those without a predictor, else NaN.
    pinned: the index of the choice of each fixed gene, by the gene's index. start: archs that the archive evaluates first.
    progress: called with the number of evaluations so far. evaluated: called with the values [B, M] of each batch, in order.
    """

    space: Space
    objectives: Sequence[Objective]
    values: Evaluate
    exact: Evaluate | None
    limits: Sequence[Limit]
    pinned: dict[int, int]
    evaluations: int
    members: int
    seed: int
    progress: Callable[[int], None] = no_progress
    start: Sequence[Arch] = ()
    evaluated: Callable[[np.ndarray], None] | None = None
    genes: Genes = field(init=False)
    rng: np.random.Generator = field(init=False)
    done: int = field(init=False, default=0)
    bounds_M: np.ndarray = field(init=False)  # upper bound of a point, infinity for no limit
    least_M: np.ndarray = field(init=False)  # the minimum of all points so far

    @classmethod
    def of(cls, problem: Problem, *, evaluations: int, members: int, seed: int, progress: Callable[[int], None]) -> Engine:
        """An engine on a problem, which defines space, objectives, costs, limits and pinned genes."""
        p, pinned = problem, dict(problem.pinned)
        return cls(p.space, p.objectives, p.values, p.exact_values, p.limits, pinned, evaluations, members, seed, progress)

    def __post_init__(self) -> None:
        self.genes = Genes(self.space)
        self.rng = np.random.default_rng([*f"{self.seed}/predicted".encode()])
        self.bounds_M = bounds(self.objectives, self.limits)
        self.least_M = np.full(len(self.objectives), np.inf)

    @property
    def left(self) -> int:
        """The number of archs that may still be evaluated."""
        return self.evaluations - self.done

    def evaluate(self, genes_BG: np.ndarray) -> np.ndarray:
        """Points [B, M] of archs, which count as evaluations; raises a `ProblemError` for a value that is not finite."""
        self.done += len(genes_BG)
        values_BM = self.values(genes_BG)
        points_BM = minimised(self.objectives, values_BM)
        if not np.isfinite(points_BM).all():
            row, m = np.argwhere(~np.isfinite(points_BM))[0]
            [arch] = self.genes.decode(genes_BG[row : row + 1])
            raise ProblemError(f"{self.objectives[m].name} of {arch.key} is {points_BM[row, m]}; expected a number")
        self.least_M = np.minimum(self.least_M, points_BM.min(axis=0))
        if self.evaluated is not None:
            self.evaluated(values_BM)
        return points_BM

    def costs(self, genes_BG: np.ndarray) -> np.ndarray:
        """Points [B, M] where they are exact, else NaN; this does not count as evaluating."""
        if self.exact is None:
            return np.full((len(genes_BG), len(self.objectives)), np.nan)
        return minimised(self.objectives, self.exact(genes_BG))

    def pin(self, genes_BG: np.ndarray) -> np.ndarray:
        """Canonical genes that have the pinned choices; changes its argument."""
        for gene, choice in self.pinned.items():
            genes_BG[:, gene] = choice
        return self.genes.canonical(genes_BG)

    def first(self, count: int) -> np.ndarray:
        """`count` archs to start from: the extremes and the uniform ones, at most half, and random ones."""
        archs = starting_points(self.space)
        if len(archs) > max(2, count // 2):
            steps = np.linspace(2, len(archs) - 1, max(0, count // 2 - 2)).round().astype(int)
            archs = [*archs[:2], *(archs[i] for i in sorted(set(steps.tolist())))]
        seeds_BG = self.pin(self.genes.encode(archs))[:count]
        return np.concatenate([seeds_BG, self.pin(self.genes.random(count - len(seeds_BG), self.rng))])

    def beyond(self, points_BM: np.ndarray) -> np.ndarray:
        """The violation of the limits by each point [B], summed over objectives; 0 within them."""
        return np.maximum(points_BM - self.bounds_M, 0).sum(axis=1)

    def why_infeasible(self) -> str:
        """The message for limits that no evaluated arch keeps."""
        wanted = " and ".join(map(str, self.limits))
        least = minimised(self.objectives, self.least_M)
        found = ", ".join(
            f"{o.name} {v:g}" for o, v, b in zip(self.objectives, least, self.bounds_M, strict=True) if np.isfinite(b)
        )
        return (
            f"no sub-network of {self.space.name} with {wanted} among {self.done} evaluated; "
            f"the nearest to each limit had {found}; loosen a limit"
        )
