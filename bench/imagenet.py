"""DyNAS-T's measurements of sub-networks on ImageNet, and a surrogate of them for comparing searches.

The CSV is from its published search logs; OFA_REFERENCE_DATA is the folder that holds it.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.front import hypervolume
from search.predict.predictor import architecture

SPACE = get_space("ofa_mbv3_w1.0").only(resolutions=(224,))
GENES = Genes(SPACE)
COSTS = CostTable(SPACE, classes=1000)


def reference_data() -> Path:
    """The folder of the reference data."""
    return Path(os.environ.get("OFA_REFERENCE_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@dataclass(frozen=True)
class Rows:
    """The genes of 2,162 networks, and their top-1 on ImageNet's validation images in percent."""

    genes_BG: np.ndarray
    top1_B: np.ndarray


def rows() -> Rows:
    """The published measurements, in the order of the file."""
    with open(reference_data() / "imagenet_measured" / "ofa_mbv3_w1.0_r224.csv") as file:
        table = list(csv.DictReader(file))
    entries = [[tuple(int(c) for c in row[name]) for name in ("d", "ks", "e")] for row in table]
    archs = [Arch(224, depth, kernel, expand) for depth, kernel, expand in entries]
    return Rows(GENES.encode(archs), np.array([float(row["top1"]) for row in table]))


class Surrogate:
    """Top-1 in percent of any network of the space, fitted to all rows.

    `ridge+svr`: a ridge and support vectors for its residual, as in the published comparison of searches; its values are
    70.77 % for the smallest network and 77.41 % for the largest, as published. `boosting`: gradient boosting, another
    family of functions, which tests that a search does not profit from a predictor of the surrogate's own kind.
    """

    def __init__(self, known: Rows, kind: str = "ridge+svr") -> None:
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.linear_model import RidgeCV
        from sklearn.svm import SVR

        x = _features(known.genes_BG)
        self.mean_F = x.mean(axis=0)
        x = x - self.mean_F
        self.ridge = RidgeCV(np.logspace(-3, 3, 25)).fit(x, known.top1_B)
        left_B = known.top1_B - self.ridge.predict(x)
        self.scale = left_B.std()
        rest = {
            "ridge+svr": SVR(C=10, epsilon=0.02, gamma="scale"),
            "boosting": GradientBoostingRegressor(n_estimators=1500, max_depth=4, learning_rate=0.05, subsample=0.5,
                                                  max_features=0.3, random_state=0),
        }[kind]  # fmt: skip
        self.linear = kind == "ridge+svr"
        self.rest = rest.fit(x, (left_B if self.linear else known.top1_B - known.top1_B.mean()) / self.scale)
        self.centre = known.top1_B.mean()

    def __call__(self, genes_BG: np.ndarray) -> np.ndarray:
        x = _features(genes_BG) - self.mean_F
        return (self.ridge.predict(x) if self.linear else self.centre) + self.scale * self.rest.predict(x)


def _features(genes_BG: np.ndarray) -> np.ndarray:
    """One-hot choices that have an effect, and sums and means of every stage divided by 10."""
    x = architecture(GENES, genes_BG)
    sums = x[:, -1 - 4 * SPACE.stage_count :]
    return np.concatenate([x[:, : -sums.shape[1]], sums / 10], axis=1)


def volume(macs_B: np.ndarray, top1_B: np.ndarray) -> float:
    """The published hypervolume: MACs in units of 600 M, error above 20 % in units of 10 %, reference (600 M, 70 %)."""
    return hypervolume(np.stack([macs_B / 600e6, (80 - top1_B) / 10], axis=1), np.ones(2))
