"""The candidates of a search's predictions that are measured next: `PICKS` has the ways to pick them.

`hypervolume` picks what adds most to the front, by every objective. `spread` is the subset selection of NAT
(arXiv:2005.05859): the costs of the measured front and of the picked candidates are spread evenly, whatever their accuracy.
Shape letters in this file: C cheap objectives, M objectives, N measured archs, P candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.front import nondominated
from search.islands.proposal import Pick, inside, pick_by_hypervolume
from search.objective import Objective, first_quality, minimised

_STARTS = 10  # random subsets that the exchange starts from, beside the greedy one


def pick_by_spread(objectives: Sequence[Objective], values_PM: np.ndarray, there_NM: np.ndarray, count: int) -> list[int]:
    """A `Pick`: `count` candidates that make the gaps between costs as equal as possible; all if they are no more.

    What is minimised is the largest standard deviation, over the objectives but the first quality, of the gaps between the
    sorted values of the measured front and the picked candidates. Each objective is scaled by its range over both, without
    which only the one with the largest numbers would count. A greedy subset and some random ones are improved by exchanging
    one member at a time; equal arguments have equal results. Of a quality alone, the best candidates are picked.
    """
    count = min(count, len(values_PM))
    points_PM, there_NM = minimised(objectives, values_PM), minimised(objectives, inside(objectives, there_NM))
    quality = first_quality(objectives)
    cheap = [m for m, objective in enumerate(objectives) if objective != quality]
    if not cheap:
        return np.argsort(points_PM[:, 0], kind="stable")[:count].tolist()
    front_NC, points_PC = there_NM[nondominated(there_NM)][:, cheap], points_PM[:, cheap]
    both = np.concatenate([front_NC, points_PC])
    span_C = np.where(np.ptp(both, axis=0) > 0, np.ptp(both, axis=0), 1.0)
    front_NC, points_PC = front_NC / span_C, points_PC / span_C
    rng = np.random.default_rng([*b"pick/spread"])
    starts = [_greedy(front_NC, points_PC, count)]
    starts += [rng.permutation(len(points_PC))[:count].tolist() for _ in range(_STARTS)]
    found = [_exchanged(front_NC, points_PC, start) for start in starts]
    uneven = [unevenness(np.concatenate([front_NC, points_PC[picked]])) for picked in found]
    return sorted(found[int(np.argmin(uneven))])


def unevenness(values_NC: np.ndarray) -> float:
    """The largest standard deviation, over the columns, of the gaps between their sorted values; 0 for fewer than two."""
    if len(values_NC) < 2:
        return 0.0
    return float(np.diff(np.sort(values_NC, axis=0), axis=0).std(axis=0).max())


def _greedy(front_NC: np.ndarray, points_PC: np.ndarray, count: int) -> list[int]:
    """Candidates added one at a time, each with the least unevenness."""
    picked: list[int] = []
    while len(picked) < count:
        after_P = _uneven_with_each(np.concatenate([front_NC, points_PC[picked]]), points_PC)
        after_P[picked] = np.inf
        picked.append(int(after_P.argmin()))
    return picked


def _exchanged(front_NC: np.ndarray, points_PC: np.ndarray, picked: list[int]) -> list[int]:
    """`picked` after exchanges of one member for the best other candidate, until none lowers the unevenness."""
    picked = list(picked)
    best = unevenness(np.concatenate([front_NC, points_PC[picked]]))
    unchanged = 0
    while unchanged < len(picked):
        others = picked[1:]
        after_P = _uneven_with_each(np.concatenate([front_NC, points_PC[others]]), points_PC)
        after_P[others] = np.inf
        candidate = int(after_P.argmin())
        better = after_P[candidate] < best - 1e-12
        unchanged = 0 if better else unchanged + 1
        best = after_P[candidate] if better else best
        picked = [*others, candidate if better else picked[0]]
    return picked


def _uneven_with_each(values_NC: np.ndarray, points_PC: np.ndarray) -> np.ndarray:
    """The unevenness [P] of the values with each of the points added.

    A point changes one gap into two, so the sums of the gaps and of their squares are enough.
    """
    if not len(values_NC):
        return np.zeros(len(points_PC))
    gaps = len(values_NC)
    worst_P = np.zeros(len(points_PC))
    for values_N, points_P in zip(np.sort(values_NC, axis=0).T, points_PC.T, strict=True):
        place_P = np.searchsorted(values_N, points_P)
        left_P, right_P = values_N[np.maximum(place_P - 1, 0)], values_N[np.minimum(place_P, gaps - 1)]
        inside_P = (place_P > 0) & (place_P < gaps)
        squares_P = np.where(place_P > 0, (points_P - left_P) ** 2, 0.0) + np.where(
            place_P < gaps, (right_P - points_P) ** 2, 0.0
        )
        squares_P = squares_P + (np.diff(values_N) ** 2).sum() - np.where(inside_P, (right_P - left_P) ** 2, 0.0)
        range_P = np.maximum(points_P, values_N[-1]) - np.minimum(points_P, values_N[0])
        variance_P = np.maximum(squares_P / gaps - (range_P / gaps) ** 2, 0.0)
        worst_P = np.maximum(worst_P, np.sqrt(variance_P))
    return worst_P


PICKS: dict[str, Pick] = {"hypervolume": pick_by_hypervolume, "spread": pick_by_spread}
