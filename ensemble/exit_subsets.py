"""Exit ensembles: which exits of one network to keep, all subsets scored in one pass over its predictions.

Source: AEP, arXiv:2301.12168.

Shape letters in this file: E exits, N images, C classes, S subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, slots=True)
class ExitSubset:
    """Exits that are kept, counted from 1, and the number of images that their weighted sum classifies correctly."""

    exits: tuple[int, ...]
    correct: int


def subsets(count: int) -> list[tuple[int, ...]]:
    """All 2^count - 1 subsets of the exits 1 to count, by their last exit, then by their size: the cheapest first."""
    found = [exits for size in range(1, count + 1) for exits in combinations(range(1, count + 1), size)]
    return sorted(found, key=lambda exits: (exits[-1], len(exits), exits))


def scored(logits_ENC: np.ndarray, labels_N: np.ndarray, weights_E: Sequence[float]) -> list[ExitSubset]:
    """Every subset of exits, the most accurate first, of equals the cheapest.

    A subset predicts the argmax of the sum of its exits' logits, each times its weight; weights are not normalised again for
    a subset, as published, and ties go to the lowest class.
    """
    weighted = [weight * logits_NC for weight, logits_NC in zip(weights_E, logits_ENC.astype(np.float64), strict=True)]
    found = [
        ExitSubset(exits, int((sum(weighted[i - 1] for i in exits).argmax(axis=1) == labels_N).sum()))
        for exits in subsets(len(weighted))
    ]
    return sorted(found, key=lambda subset: -subset.correct)
