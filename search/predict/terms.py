"""Predicted objectives of a run: exact costs are computed, top-1 has a predictor, the others are learned from measurements.

Shape letters in this file: B archs, F features, N measured archs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.costs.exact import CostTable
from search.objective import TOP1, Column, Objective
from search.predict.models import GaussianProcess
from search.predict.predictor import Features, architecture
from search.problem import Problem, Term

EXACT = ("macs", "params")  # the results of a `CostTable`, in their order


class Learned:
    """A Gaussian process of one quantity on standardised features of archs."""

    def __init__(self, genes: Genes, features: Features, genes_NG: np.ndarray, truth_N: np.ndarray) -> None:
        self.genes, self.features = genes, features
        x_NF = features(genes, genes_NG).astype(np.float64)
        self.mean_F, spread_F = x_NF.mean(axis=0), x_NF.std(axis=0)
        self.scale_F = np.where(spread_F > 1e-9 * (1 + np.abs(self.mean_F)), spread_F, 1.0)
        self.centre, self.unit = truth_N.mean(), truth_N.std() or 1.0
        self.process = GaussianProcess((x_NF - self.mean_F) / self.scale_F, (truth_N - self.centre) / self.unit)

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """The expected quantity [B]."""
        x_BF = (self.features(self.genes, genes_BG) - self.mean_F) / self.scale_F
        return np.asarray(self.process.predict(x_BF) * self.unit + self.centre)


def predicted_problem(
    space: Space, top1: Column, objectives: Sequence[Objective], classes: int, measured: Sequence[Measured]
) -> Problem:
    """The problem of a run's predicted search. top1: predicts it. measured: archs of the space, with their values."""
    costs = CostTable(space, classes)
    return Problem(space, tuple(_term(o, top1, costs, space, measured) for o in objectives))


def _term(objective: Objective, top1: Column, costs: CostTable, space: Space, measured: Sequence[Measured]) -> Term:
    if objective.exact is not None:
        return Term(objective, objective.exact(space), exact=True)
    if objective.field in EXACT:
        which = EXACT.index(objective.field)
        return Term(objective, lambda genes_BG: costs(genes_BG)[which].astype(np.float64), exact=True)
    if objective == TOP1:
        return Term(objective, top1, exact=False)
    genes = Genes(space)
    truth_N = np.array([objective.of(m) for m in measured])
    return Term(
        objective, Learned(genes, architecture, genes.encode([m.arch for m in measured]), truth_N).predict, exact=False
    )
