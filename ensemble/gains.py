"""Test scores of chosen subsets: the gain of ensembles over single members, and the optimism of choosing the best.

Shape letters in this file: S subsets, M members, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemble.document import Optimism, ScoredSubset
from ensemble.intervals import difference_interval, interval
from ensemble.subsets import Chosen

if TYPE_CHECKING:
    from ensemble.score import SubsetScorer


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares subsets that were chosen on `images` images with single members, on the test split.

    test: a scorer of the test split. singles: all single members, with their scores on the split of the choice. rng: for
    the bootstrap.
    """

    images: int
    test: SubsetScorer
    singles: Sequence[Chosen]
    rng: np.random.Generator

    def scored(self, chosen: Sequence[Chosen]) -> tuple[ScoredSubset, ...]:
        """Each subset's scores, and the gain of each ensemble over the best single member within its cost."""
        named_SN = self.test.named_right(weights_of(chosen, self.test.members))
        return tuple(self._scored(subset, named_N) for subset, named_N in zip(chosen, named_SN, strict=True))

    def _scored(self, subset: Chosen, named_N: np.ndarray) -> ScoredSubset:
        gain: dict[str, Any] = {}
        correct = int(named_N.sum())
        cheaper = [single for single in self.singles if single.cost <= subset.cost * (1 + 1e-12)]
        if len(subset.members) > 1 and cheaper:
            rival = max(cheaper, key=lambda single: single.correct)
            rival_N = self.test.named_right(weights_of([rival], self.test.members))[0]
            gain = {
                "single": rival.members[0],
                "gain": (correct - int(rival_N.sum())) / self.test.images,
                "gain_interval": difference_interval(named_N, rival_N, self.rng),
            }
        return ScoredSubset(
            members=subset.members,
            cost=subset.cost,
            top1=subset.correct / self.images,
            test_top1=correct / self.test.images,
            test_interval=interval(correct, self.test.images),
            weights=subset.weights,
            **gain,
        )

    def optimism(self, best: Chosen) -> Optimism:
        """The score of the best subset on the split that it was chosen on, less its test score."""
        scores = self.test.correct_weighted(weights_of([best, *self.singles], self.test.members)) / self.test.images
        singles = np.array([single.correct for single in self.singles]) / self.images
        drop, typical = best.correct / self.images - float(scores[0]), float(np.mean(singles - scores[1:]))
        return Optimism(drop=drop, typical_drop=typical, gap=drop - typical)


def weights_of(chosen: Sequence[Chosen], members: int) -> np.ndarray:
    """The weight of each member in each subset's vote: float64 [S, M]; equal weights are 1, 0 is not a member."""
    weights_SM = np.zeros((len(chosen), members))
    for weights_M, subset in zip(weights_SM, chosen, strict=True):
        weights_M[list(subset.members)] = subset.weights or 1.0
    return weights_SM
