"""Predictions of each objective of a measured search: exact costs are counted, others are learned from the measured archs.

Shape letters in this file: B archs, G genes, M objectives, N measured archs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search.costs.exact import CostTable
from search.objective import Column, Objective
from search.predict.predictor import Averaged, architecture, totals
from search.predict.terms import EXACT, Learned


def optimistic_columns(
    space: Space, objectives: Sequence[Objective], genes_NG: np.ndarray, values_NM: np.ndarray, deviations: float
) -> list[Column]:
    """For each objective a Gaussian process of the measured values, better than expected by some standard deviations."""

    def learned(objective: Objective, values_N: np.ndarray) -> Column:
        top1 = objective.field == "top1"
        y_N = np.log(np.maximum(1 - values_N, 5e-4)) if top1 else values_N
        process = Learned(Genes(space), architecture if top1 else totals, genes_NG, y_N)
        # the model of top-1 predicts an error
        better = 1.0 if objective.direction == "maximize" and not top1 else -1.0

        def column(genes_BG: np.ndarray) -> np.ndarray:
            y_B = process.predict(genes_BG, better * deviations)
            return 1 - np.exp(y_B) if top1 else y_B

        return column

    return _columns(space, objectives, genes_NG, values_NM, learned)


def learned_columns(
    space: Space,
    objectives: Sequence[Objective],
    genes_NG: np.ndarray,
    values_NM: np.ndarray,
    kind: str,
    features: str,
) -> list[Column]:
    """For each objective the mean of ten experts of one of `KINDS` on one of `FEATURES`, fitted to the measured values.

    NATv2 has `boosting` on `integers`; NAT's code has `boosting` on `one-hot`, its paper radial basis functions.
    """

    def learned(objective: Objective, values_N: np.ndarray) -> Column:
        return Averaged(Genes(space), genes_NG, values_N, objective.field, kind, features).predict

    return _columns(space, objectives, genes_NG, values_NM, learned)


def _columns(
    space: Space,
    objectives: Sequence[Objective],
    genes_NG: np.ndarray,
    values_NM: np.ndarray,
    learned: Callable[[Objective, np.ndarray], Column],
) -> list[Column]:
    """For each objective its exact cost where it is one, else what `learned` makes of its measured values [N]."""

    def column(objective: Objective, values_N: np.ndarray) -> Column:
        if objective.exact is not None:
            return objective.exact(space)
        return exact_cost(space, objective.field, genes_NG, values_N) or learned(objective, values_N)

    return [column(objective, values_N) for objective, values_N in zip(objectives, values_NM.T, strict=True)]


def exact_cost(space: Space, field: str, genes_NG: np.ndarray, values_N: np.ndarray) -> Column | None:
    """A function that computes exactly these MACs or params.

    None for another field, and if no number of classes gives these values.
    """
    if field not in EXACT:
        return None
    which = EXACT.index(field)
    one, two = (CostTable(space, classes)(genes_NG[:1])[which][0] for classes in (1, 2))
    classes = 1 + (values_N[0] - one) / (two - one)
    if classes < 1 or classes != int(classes):
        return None
    costs = CostTable(space, int(classes))
    if not np.array_equal(costs(genes_NG)[which], values_N):
        return None
    return lambda genes_BG: costs(genes_BG)[which].astype(np.float64)
