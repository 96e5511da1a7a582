"""95 % intervals of an accuracy, and of the difference of two accuracies on the same images.

Shape letter in this file: N images.
"""

from __future__ import annotations

import numpy as np


def interval(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson's, doi:10.1080/01621459.1927.10502953), as fractions."""
    from scipy.stats import binomtest

    found = binomtest(int(correct), int(images)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def difference_interval(
    named_N: np.ndarray, other_N: np.ndarray, rng: np.random.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """The 95 % paired bootstrap interval of the accuracy of `named_N` less that of `other_N`, as fractions.

    named_N, other_N: bool, the images that each classifies correctly. Images are resampled with both results: an ensemble
    and one of its members differ on few images, and the intervals of each alone are far too wide to compare them.
    """
    images = len(named_N)
    gained, lost = int((named_N & ~other_N).sum()), int((~named_N & other_N).sum())
    drawn = rng.multinomial(images, [gained / images, lost / images, (images - gained - lost) / images], size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    return float(low), float(high)
