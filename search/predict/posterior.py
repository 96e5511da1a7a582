"""What is known of an objective after some measurements: an exact cost, or a Gaussian process of the measured values.

Shape letters in this file: B archs, C costs, F features, G genes, M objectives, N measured archs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search.objective import Column, Objective, minimised
from search.predict.columns import exact_column
from search.predict.models import GaussianProcess, Joint
from search.predict.predictor import Features, architecture, learnable, totals

WIDTHS = (0.03, 0.1, 0.3, 1.0)  # of the kernel; tables of operations need narrower kernels than supernets
WORST = 0.3  # largest learned distance of a logarithm of the error from the least one that costs no more


class Beliefs(Protocol):
    """The joint distribution of the quantities of some archs."""

    mean_B: np.ndarray

    @property
    def spread_B(self) -> np.ndarray:
        """The standard deviations [B]."""
        ...

    def believe(self, b: int) -> None:
        """Takes the mean of one arch for its measured quantity: the others' spreads shrink."""
        ...


class Posterior(Protocol):
    """The normal distribution of a quantity, on a scale of its own; `learned` says whether it has a spread."""

    learned: bool

    def moments(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of each arch's quantity: [B] and [B]."""
        ...

    def joint(self, genes_BG: np.ndarray) -> Beliefs:
        """The joint distribution of the archs' quantities."""
        ...

    def value(self, y_B: np.ndarray) -> np.ndarray:
        """The objective's unscaled values [B] of the quantity; any shape."""
        ...

    def better(self) -> float:
        """The sign of a change of the quantity that makes the objective better."""
        ...


class Exact:
    """An objective that is computed."""

    learned = False

    def __init__(self, objective: Objective, column: Column) -> None:
        self.objective, self.column = objective, column

    def moments(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Posterior.moments`."""
        return self.column(genes_BG), np.zeros(len(genes_BG))

    def joint(self, genes_BG: np.ndarray) -> Beliefs:
        """See `Posterior.joint`."""
        return _Certain(self.column(genes_BG))

    def value(self, y_B: np.ndarray) -> np.ndarray:
        """See `Posterior.value`."""
        return y_B

    def better(self) -> float:
        """See `Posterior.better`."""
        return 1.0 if self.objective.direction == "maximize" else -1.0


class Learned:
    """An objective that is learned: of top-1 the logarithm of the error, of others the quantity itself.

    Errors far above those of archs that cost no more are learned as `WORST` above them: how bad a bad arch is does not
    matter for the front, and on NAS-Bench-201, where some networks learn nothing, it hides differences between good ones.
    """

    learned = True

    def __init__(
        self, space: Space, objective: Objective, genes_NG: np.ndarray, values_N: np.ndarray, costs_NC: np.ndarray
    ) -> None:
        """costs_NC: the other objectives' values, to minimise."""
        self.genes, self.objective, self.top1 = Genes(space), objective, objective.field == "top1"
        self.features: Features = architecture if self.top1 else totals
        y_N = learnable(values_N, objective.field)
        if self.top1:
            y_N = np.minimum(y_N, _least_at_no_more(costs_NC, y_N) + WORST)
        x_NF = self.features(self.genes, genes_NG).astype(np.float64)
        mean_F, spread_F = x_NF.mean(axis=0), x_NF.std(axis=0)
        self.varying = spread_F > 1e-9 * (1 + np.abs(mean_F))
        if not self.varying.any():
            self.varying = np.ones_like(self.varying)
        self.mean_F, self.scale_F = mean_F[self.varying], np.where(spread_F > 0, spread_F, 1.0)[self.varying]
        self.centre, self.unit = float(y_N.mean()), float(y_N.std()) or 1.0
        self.process = GaussianProcess(self._standard(x_NF), (y_N - self.centre) / self.unit, widths=WIDTHS)

    def moments(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Posterior.moments`."""
        x_BF = self._standard(self.features(self.genes, genes_BG))
        return self.process.predict(x_BF) * self.unit + self.centre, self.process.spread(x_BF) * self.unit

    def joint(self, genes_BG: np.ndarray) -> Beliefs:
        """See `Posterior.joint`."""
        return _Normal(self.process.joint(self._standard(self.features(self.genes, genes_BG))), self.centre, self.unit)

    def value(self, y_B: np.ndarray) -> np.ndarray:
        """See `Posterior.value`."""
        return 1 - np.exp(y_B) if self.top1 else y_B

    def better(self) -> float:
        """See `Posterior.better`."""
        return 1.0 if self.objective.direction == "maximize" and not self.top1 else -1.0

    def _standard(self, x_BF: np.ndarray) -> np.ndarray:
        return np.asarray((x_BF[:, self.varying] - self.mean_F) / self.scale_F)


@dataclass
class _Certain:
    """The `Beliefs` of an exact cost."""

    mean_B: np.ndarray

    @property
    def spread_B(self) -> np.ndarray:
        return np.zeros(len(self.mean_B))

    def believe(self, b: int) -> None:
        """It is certain already."""


class _Normal:
    """The `Beliefs` of a Gaussian process of a standardised quantity."""

    def __init__(self, joint: Joint, centre: float, unit: float) -> None:
        self._joint, self._unit = joint, unit
        self.mean_B = joint.mean_B * unit + centre

    @property
    def spread_B(self) -> np.ndarray:
        return np.asarray(np.sqrt(self._joint.variance_B) * self._unit)

    def believe(self, b: int) -> None:
        self._joint.observe(b)


def posteriors(
    space: Space, objectives: Sequence[Objective], genes_NG: np.ndarray, values_NM: np.ndarray
) -> list[Posterior]:
    """For each objective its exact cost where it is one, else a Gaussian process of the measured values."""
    found: list[Posterior] = []
    points_NM = minimised(objectives, values_NM)
    for m, objective in enumerate(objectives):
        column = exact_column(space, objective, genes_NG, values_NM[:, m])
        if column is not None:
            found.append(Exact(objective, column))
        else:
            found.append(Learned(space, objective, genes_NG, values_NM[:, m], np.delete(points_NM, m, axis=1)))
    return found


def _least_at_no_more(costs_NC: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """For each row the least `y` of the rows that cost no more: [N]."""
    within_NN = (costs_NC[None, :, :] <= costs_NC[:, None, :]).all(axis=2)
    return np.where(within_NN, y_N, np.inf).min(axis=1)
