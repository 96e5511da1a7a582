"""What a score on so many images is worth."""

from __future__ import annotations


def interval(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (Wilson's, doi:10.1080/01621459.1927.10502953), as fractions."""
    from scipy.stats import binomtest

    found = binomtest(int(correct), int(images)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
