"""Problems on gene arrays: objectives from exact costs, latency tables, predictors, or what was measured.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.errors import ProblemError
from search.objective import Column, Objective, minimised

Evaluate = Callable[[np.ndarray], np.ndarray]  # genes [B, G] to unscaled objective values [B, M]


@dataclass(frozen=True, slots=True)
class Term:
    """One objective of a problem. `exact` values are a sum with negligible cost; others need a predictor."""

    objective: Objective
    values: Column
    exact: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on an objective's value, which members must keep: at most, or at least if it is maximised."""

    objective: Objective
    bound: float

    def __str__(self) -> str:
        return f"{self.objective.name} {'at most' if self.objective.direction == 'minimize' else 'at least'} {self.bound:g}"


def own_limits(objectives: Sequence[Objective]) -> tuple[Limit, ...]:
    """The limits that are the bounds of the objectives themselves."""
    return tuple(Limit(o, o.bound) for o in objectives if o.bound is not None)


def bounds(objectives: Sequence[Objective], limits: Sequence[Limit]) -> np.ndarray:
    """The upper bound of a point to minimise in each objective [M] that keeps all limits; infinity for no limit.

    The limits are the given ones and the objectives' own bounds.
    """
    bounds_M = np.full(len(objectives), np.inf)
    signs = minimised(objectives, np.ones(len(objectives)))
    for limit in (*limits, *own_limits(objectives)):
        m = list(objectives).index(limit.objective)
        bounds_M[m] = min(bounds_M[m], signs[m] * limit.bound)
    return bounds_M


@dataclass(frozen=True, slots=True)
class Problem:
    """The input of a predicted search: a space, its objectives, limits, and genes with a fixed value.

    `pinned` maps the index of a gene to the index of its choice; it has no effect in a slot that an arch does not use.
    """

    space: Space
    terms: tuple[Term, ...]
    limits: tuple[Limit, ...] = ()
    pinned: Mapping[int, int] = field(default_factory=dict)
    genes: Genes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", Genes(self.space))
        sizes = self.genes.sizes_G
        for limit in self.limits:
            if limit.objective not in self.objectives:
                names = ", ".join(o.name for o in self.objectives)
                raise ProblemError(f"limit {limit}: no objective is {limit.objective.name}; there are {names}")
        for gene, choice in self.pinned.items():
            if not (0 <= gene < len(sizes) and 0 <= choice < sizes[gene]):
                raise ProblemError(f"gene {gene} is to be choice {choice}; {self.space.name} has no such gene or choice")

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, in the order of the values' columns."""
        return tuple(term.objective for term in self.terms)

    def evaluate(self, genes_BG: np.ndarray) -> np.ndarray:
        """The objective values [B, M] of the canonical form of any genes; a `ProblemError` if one is not finite."""
        return self.values(self.genes.canonical(genes_BG))

    def costs(self, genes_BG: np.ndarray) -> np.ndarray:
        """The values [B, M] where they are exact, NaN where a predictor is needed."""
        return self.exact_values(self.genes.canonical(genes_BG))

    def values(self, canonical_BG: np.ndarray) -> np.ndarray:
        """`evaluate` of canonical genes."""
        return self._values(canonical_BG, only_exact=False)

    def exact_values(self, canonical_BG: np.ndarray) -> np.ndarray:
        """`costs` of canonical genes."""
        return self._values(canonical_BG, only_exact=True)

    def _values(self, canonical_BG: np.ndarray, *, only_exact: bool) -> np.ndarray:
        values_BM = np.full((len(canonical_BG), len(self.terms)), np.nan)
        for m, term in enumerate(self.terms):
            if only_exact and not term.exact:
                continue
            values_BM[:, m] = term.values(canonical_BG)
            wrong = np.flatnonzero(~np.isfinite(values_BM[:, m]))
            if len(wrong):
                [arch] = self.genes.decode(canonical_BG[wrong[:1]])
                raise ProblemError(
                    f"{term.objective.name} of {arch.key} is {values_BM[wrong[0], m]}; expected a number; "
                    "check the table or predictor that it comes from"
                )
        return values_BM


def recorded(space: Space, objective: Objective, measured: Sequence[Measured]) -> Term:
    """An objective from measured records; raises a `ProblemError` for an arch without a record."""
    genes = Genes(space)
    known = {
        row.tobytes(): objective.of(m) for row, m in zip(genes.encode([m.arch for m in measured]), measured, strict=True)
    }

    def values(genes_BG: np.ndarray) -> np.ndarray:
        rows = [row.tobytes() for row in genes_BG.astype(np.int64)]
        for i, row in enumerate(rows):
            if row not in known:
                [arch] = genes.decode(genes_BG[i : i + 1])
                raise ProblemError(f"{objective.name} of {arch.key} was not measured; {len(known)} archs were")
        return np.array([known[row] for row in rows], dtype=np.float64)

    return Term(objective, values, exact=True)
