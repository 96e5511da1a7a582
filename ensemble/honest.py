"""What a score on so many images is worth, and what a choice among many scores costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def interval(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson's, doi:10.1080/01621459.1927.10502953), as fractions."""
    from scipy.stats import binomtest

    found = binomtest(int(correct), int(images)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def difference_interval(
    named_N: np.ndarray, other_N: np.ndarray, rng: np.random.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """The 95 % bootstrap interval of how much more often `named_N` is right than `other_N`, on the same images.

    Images are drawn anew with both answers, so what both get right or wrong does not blur the difference: an ensemble and
    one of its members differ on few images, and intervals of each alone would be far too wide to compare them.
    """
    images = len(named_N)
    gained, lost = int((named_N & ~other_N).sum()), int((~named_N & other_N).sum())
    drawn = rng.multinomial(images, [gained / images, lost / images, (images - gained - lost) / images], size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Curse:
    """What choosing the best of many on one split promised too much, in fractions of the images."""

    chosen: float  # score on the split it was chosen on, less that on the test split
    typical: float  # the same for a member that nobody chose: how much harder the test split is

    @property
    def gap(self) -> float:
        """The winner's curse: the part of the drop that comes from choosing."""
        return self.chosen - self.typical


def curse(chosen: tuple[float, float], singles_M: tuple[np.ndarray, np.ndarray]) -> Curse:
    """From (selection, test) scores of what was chosen, and of all single members."""
    return Curse(chosen[0] - chosen[1], float(np.mean(singles_M[0] - singles_M[1])))
