"""Predictions of each objective of a measured search: exact costs are counted, others are learned from the measured archs.

Shape letters in this file: B archs, G genes, M objectives, N measured archs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search.costs.exact import CostTable
from search.objective import Column, Objective
from search.predict.predictor import Averaged
from search.predict.terms import EXACT


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

    return [
        exact_column(space, objective, genes_NG, values_N)
        or Averaged(Genes(space), genes_NG, values_N, objective.field, kind, features).predict
        for objective, values_N in zip(objectives, values_NM.T, strict=True)
    ]


def exact_column(space: Space, objective: Objective, genes_NG: np.ndarray, values_N: np.ndarray) -> Column | None:
    """A function that computes an objective's values exactly; None if they have to be learned from the measured ones [N]."""
    if objective.exact is not None:
        return objective.exact(space)
    return exact_cost(space, objective.field, genes_NG, values_N)


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
