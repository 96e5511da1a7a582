"""Non-dominated sets and their hypervolume, and the front of a search.

Shape letters in this file: N points, M objectives. Less is better in every objective of an array of points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa.arch import ArchError
from ofa.checks import shown
from ofa.record import Measured
from ofa.spaces import get_space
from search.objective import Objective, first_cost, minimised, values, violations


@dataclass(frozen=True, slots=True)
class Front:
    """The non-dominated sub-networks of a space, in ascending order of the first cost."""

    space: str
    members: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """The front as a JSON document."""
        return {"space": self.space, "members": [member.to_json() for member in self.members]}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Front:
        """The front that `to_json` wrote; raises an `ArchError` if a member is not of its space."""
        if not isinstance(doc, Mapping) or not {"space", "members"} <= set(doc):
            raise ArchError('a front is {"space": ..., "members": [...]}; this file holds something else')
        if not isinstance(doc["space"], str) or not isinstance(doc["members"], list):
            name, kind = ("space", "the name of a space") if not isinstance(doc["space"], str) else ("members", "a list")
            raise ArchError(f"{name} of the front is {shown(doc[name])}; expected {kind}")
        space, members = get_space(doc["space"]), []
        for i, member in enumerate(doc["members"]):
            try:
                members.append(Measured.from_json(member))
            except ArchError as error:
                raise ArchError(f"member {i}: {error}") from None
        if members:  # a run may have other resolutions than its space has by default
            space = space.at([member.arch.resolution for member in members])
        for member in members:
            space.checked(member.arch)
        return cls(doc["space"], tuple(members))


def front(space: str, objectives: Sequence[Objective], seen: Sequence[Measured]) -> Front:
    """The non-dominated records of `seen`; of equal ones the one with fewer parameters, then the first by name.

    Where objectives have bounds, only records within them are members; there may be none.
    """
    inside = violations(objectives, values(objectives, seen)) <= 0
    kept_within = [m for m, within in zip(seen, inside, strict=True) if within]
    if not kept_within:
        return Front(space, ())
    points, place_N = np.unique(minimised(objectives, values(objectives, kept_within)), axis=0, return_inverse=True)
    best_N = nondominated(points)[place_N]
    chosen: dict[int, Measured] = {}
    for m, place, best in zip(kept_within, place_N.tolist(), best_N, strict=True):
        if best and (place not in chosen or (m.params, m.arch.key) < (chosen[place].params, chosen[place].arch.key)):
            chosen[place] = m
    return Front(space, tuple(sorted((chosen[place] for place in sorted(chosen)), key=first_cost(objectives).of)))


def nondominated(points_NM: np.ndarray) -> np.ndarray:
    """Whether each point is non-dominated: bool [N]. Equal points do not dominate each other."""
    n, m = points_NM.shape
    if m == 2:
        return _nondominated_2d(points_NM)
    keep = np.ones(n, dtype=bool)
    for i in range(n):
        better = (points_NM <= points_NM[i]).all(axis=1) & (points_NM < points_NM[i]).any(axis=1)
        keep[i] = not better.any()
    return keep


def _nondominated_2d(points_N2: np.ndarray) -> np.ndarray:
    """Sorted by the first objective, a point stays if its second is below all before, or it equals the last such point."""
    order = np.lexsort((points_N2[:, 1], points_N2[:, 0]))
    x, y = points_N2[order, 0], points_N2[order, 1]
    best_before = np.concatenate(([np.inf], np.minimum.accumulate(y)[:-1]))
    stays = y < best_before
    leader = np.maximum.accumulate(np.where(stays, np.arange(len(x)), 0))  # the last point that was kept
    stays |= (x == x[leader]) & (y == y[leader])
    keep = np.zeros(len(x), dtype=bool)
    keep[order] = stays
    return keep


def ranks(points_NM: np.ndarray) -> np.ndarray:
    """Ranks of non-dominated sorting: int64 [N], 0 for the first front, 1 for the front without those, and so on."""
    rank = np.zeros(len(points_NM), dtype=np.int64)
    left = np.arange(len(points_NM))
    while len(left):
        best = nondominated(points_NM[left])
        left = left[~best]
        rank[left] += 1
    return rank


def crowding(points_NM: np.ndarray) -> np.ndarray:
    """Crowding distances [N]: of each point the distance between its neighbours, summed over objectives scaled to 0..1.

    It is infinite for the extremes. Source: NSGA-II, doi:10.1109/4235.996017, sec. III-B.
    """
    distance = np.zeros(len(points_NM))
    for x in points_NM.T:
        order = np.argsort(x, kind="stable")
        span = x[order[-1]] - x[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (x[order[2:]] - x[order[:-2]]) / span
    return distance


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The exact volume between the points [N, M] and the reference point [M]; points beyond it add nothing."""
    points, reference = np.asarray(points, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if points.ndim != 2 or reference.shape != points.shape[1:]:
        raise ValueError(f"points are {points.shape}, the reference {reference.shape}; expected [N, M] and [M]")
    return _volume(points[(points < reference).all(axis=1)], reference)


def _volume(points_NM: np.ndarray, reference_M: np.ndarray) -> float:
    """Slabs along the last objective, each with the volume of the points that reach it."""
    if not len(points_NM):
        return 0.0
    if points_NM.shape[1] == 1:
        return float(reference_M[0] - points_NM.min())
    points_NM = points_NM[np.argsort(points_NM[:, -1], kind="stable")]
    if points_NM.shape[1] == 2:
        edges = np.append(points_NM[1:, 1], reference_M[1])
        return float(((reference_M[0] - np.minimum.accumulate(points_NM[:, 0])) * (edges - points_NM[:, 1])).sum())
    points_NM = points_NM[nondominated(points_NM)]
    edges = np.append(points_NM[1:, -1], reference_M[-1])
    heights = edges - points_NM[:, -1]
    slabs = [i for i, height in enumerate(heights) if height > 0]
    return float(sum(heights[i] * _volume(points_NM[: i + 1, :-1], reference_M[:-1]) for i in slabs))


def knee(points_NM: np.ndarray) -> int:
    """The index of the point farthest from the line (or plane) through the extremes, all objectives scaled to 0..1.

    Source: normal-boundary-intersection knees, Das 1999, doi:10.1007/BF01195985. Ties are broken by the lowest index.
    """
    low, span = points_NM.min(axis=0), np.ptp(points_NM, axis=0)
    scaled = (points_NM - low) / np.where(span > 0, span, 1.0)
    return int(scaled.sum(axis=1).argmin())
