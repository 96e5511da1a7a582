"""Predictors of what is slow to measure, learned from what was measured.

Shape letters in this file: B archs, G genes, F features, S stages, L block slots of all stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ofa import npz
from ofa.genes import Genes
from ofa.space import Space
from search.problem import CostTable

Target = Literal["top1", "latency_ms"]


class PredictorError(ValueError):
    """A predictor file that cannot be used; the message is one line for the user."""


def choices(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """For accuracy: one-hot resolution, depths, and kernel and expansion of every slot, 0 where it is not used.

    So genes without effect are features without effect: on DyNAS-T's ImageNet measurements this masking is worth
    more than twice the data.
    """
    space = genes.space
    used_BL1 = genes.used(genes_BG)[:, :, None]
    slotted = [(genes.expand, space.expands), *([(genes.kernel, space.kernels)] if space.kernels else [])]
    whole = [genes_BG[:, [0]], genes_BG[:, genes.depth], genes_BG[:, genes.width]]
    sizes = [genes.sizes_G[[0]], genes.sizes_G[genes.depth], genes.sizes_G[genes.width]]
    parts = [
        _one_hot(part[:, i], count) for part, counts in zip(whole, sizes, strict=True) for i, count in enumerate(counts)
    ] + [_one_hot(genes_BG[:, where], len(values)) * used_BL1 for where, values in slotted]
    return np.concatenate([part.reshape(len(genes_BG), -1) for part in parts], axis=1)


def totals(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """For latency, which is timed for few archs: the pixels, and of every stage its blocks and its MACs."""
    stage_LS = np.eye(genes.space.stage_count)[[slot.stage for slot in genes.space.slots]]
    blocks_BS = genes.used(genes_BG) @ stage_LS
    macs_BS = CostTable(genes.space, classes=1).block_macs(genes_BG) @ stage_LS
    pixels_B1 = np.array(genes.space.resolutions)[genes_BG[:, :1]] ** 2
    return np.concatenate([pixels_B1, blocks_BS, macs_BS], axis=1).astype(np.float64)


def _one_hot(genes_BL: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count)[genes_BL]


_FEATURES = {"top1": choices, "latency_ms": totals}


@dataclass(frozen=True, slots=True)
class Ridge:
    """A ridge regression on standardised features: of the logarithm of the error, or of the latency itself."""

    space: Space
    target: Target
    mean_F: np.ndarray
    scale_F: np.ndarray
    coef_F: np.ndarray
    intercept: float

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """Top-1 (fractions) or latency (ms) of archs [B]."""
        features_BF = _FEATURES[self.target](Genes(self.space), genes_BG)
        y_B = (features_BF - self.mean_F) / self.scale_F @ self.coef_F + self.intercept
        return 1 - np.exp(y_B) if self.target == "top1" else y_B

    def to_npz(self) -> bytes:
        return npz.pack(target=self.target, mean=self.mean_F, scale=self.scale_F, coef=self.coef_F, intercept=self.intercept)

    @classmethod
    def from_npz(cls, data: bytes, space: Space, where: str) -> Ridge:
        """The predictor that `to_npz` wrote, if it fits `space`; else a `PredictorError`."""
        try:
            name, mean, scale, coef, intercept = npz.unpack(data, ("target", "mean", "scale", "coef", "intercept"))
        except ValueError as error:
            raise PredictorError(f"{where}: is no predictor: {error}; run `ofa fit` again") from None
        target = str(name)
        if target not in _FEATURES:
            raise PredictorError(f"{where}: predicts {target!r}; expected one of {', '.join(_FEATURES)}")
        genes = Genes(space)
        width = _FEATURES[target](genes, genes.encode([space.smallest()])).shape[1]
        if not mean.shape == scale.shape == coef.shape == (width,):
            raise PredictorError(
                f"{where}: has {coef.size} inputs, the space {space.name} needs {width}; fit it on this space"
            )
        return cls(space, "top1" if target == "top1" else "latency_ms", mean, scale, coef, float(intercept))


def fit(space: Space, genes_BG: np.ndarray, truth_B: np.ndarray, target: Target) -> Ridge:
    """A predictor of top-1 (fractions) or latency (ms); the penalty is the one with the least leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    features_BF = _FEATURES[target](Genes(space), genes_BG)
    mean_F, spread_F = features_BF.mean(axis=0), features_BF.std(axis=0)
    scale_F = np.where(spread_F > 0, spread_F, 1.0)
    # A network without a mistake has the error of half an image in a thousand, not minus infinity.
    y_B = np.log(np.maximum(1 - truth_B, 5e-4)) if target == "top1" else truth_B
    model = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit((features_BF - mean_F) / scale_F, y_B)
    return Ridge(space, target, mean_F, scale_F, model.coef_, float(model.intercept_))


@dataclass(frozen=True, slots=True)
class Quality:
    """How a predictor does on rows that it did not see."""

    rows: int  # it learned from
    held_out: int
    rmse: float  # in the unit of the truth
    kendall_tau: float
    truth: tuple[float, ...]  # of the held-out rows
    predicted: tuple[float, ...]


def judge(
    space: Space, genes_BG: np.ndarray, truth_B: np.ndarray, target: Target, held_out: float, rng: np.random.Generator
) -> Quality:
    """Fits on a random part and predicts the rest."""
    from scipy.stats import kendalltau

    order = rng.permutation(len(truth_B))
    count = max(2, round(held_out * len(truth_B)))
    test, train = order[:count], order[count:]
    predicted = fit(space, genes_BG[train], truth_B[train], target).predict(genes_BG[test])
    truth = truth_B[test]
    tau = float(kendalltau(truth, predicted).statistic)
    rmse = float(np.sqrt(np.mean((truth - predicted) ** 2)))
    return Quality(len(train), count, rmse, 0.0 if np.isnan(tau) else tau, tuple(truth.tolist()), tuple(predicted.tolist()))
