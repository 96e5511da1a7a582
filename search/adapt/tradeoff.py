"""The members of a front that a decision should look at first: those from which every step costs more than it gains.

Shape letters in this file: M objectives, N members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.objective import Objective, minimised

EPSILON = 0.125  # radius of a neighbourhood, in objectives scaled to 0..1


def high_tradeoff(objectives: Sequence[Objective], values_NM: np.ndarray, count: int = 4) -> list[int]:
    """Indices of the `count` members of a front with the highest trade-off, the highest first.

    The trade-off of a member is the least ratio of sacrifice to gain of moving to a neighbour, each summed over objectives
    scaled to 0..1. Neighbours are the members within `EPSILON`, or the 2 M nearest if those are fewer.
    Source: Rachmawati and Srinivasan, doi:10.1109/TEVC.2009.2017515, as NAT (arXiv:2005.05859) uses it.
    """
    mu_N = tradeoffs(minimised(objectives, values_NM))
    return np.argsort(-mu_N, kind="stable")[:count].tolist()


def tradeoffs(points_NM: np.ndarray) -> np.ndarray:
    """The trade-off [N] of each non-dominated point, less being better; 0 for one without a different neighbour.

    It is infinite for a point that no neighbour is better than in any objective.
    """
    span = np.ptp(points_NM, axis=0)
    scaled = (points_NM - points_NM.min(axis=0)) / np.where(span > 0, span, 1.0)
    least = min(2 * points_NM.shape[1], len(scaled) - 1)
    mu_N = np.zeros(len(scaled))
    for i, point_M in enumerate(scaled):
        distance = np.linalg.norm(scaled - point_M, axis=1)
        distance[(scaled == point_M).all(axis=1)] = np.inf  # the point itself, and its equals
        nearest = np.argsort(distance, kind="stable")
        number = max(least, int((distance <= EPSILON).sum()))
        change = scaled[[n for n in nearest[:number] if np.isfinite(distance[n])]] - point_M
        if len(change):
            sacrifice, gain = np.maximum(change, 0).sum(axis=1), np.maximum(-change, 0).sum(axis=1)
            with np.errstate(divide="ignore"):
                mu_N[i] = (sacrifice / gain).min()
    return mu_N
