"""The progress of a search: the hypervolume of its non-dominated archs after every evaluation.

Shape letters in this file: B archs, N points, M objectives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa.documents import Document
from search.front import hypervolume, nondominated
from search.objective import Objective, minimised
from search.problem import Limit, bounds

BEYOND = 0.1  # distance of the reference point from the worst value, as a share of the values' range
SPACING = 1.25  # ratio of successive sampled counts; with three or more objectives every evaluation would be too slow


def reference_point(objectives: Sequence[Objective], values_NM: np.ndarray) -> tuple[float, ...]:
    """The reference point [M] of hypervolumes, in the objectives' own units.

    It is an objective's `worst`, where it has one; else a tenth of the range of `values_NM` beyond the worst of them. If
    the smallest and the largest sub-network are among them it depends on the space alone where costs are exact.
    """
    points_NM = minimised(objectives, values_NM)
    worst_M = points_NM.max(axis=0) + BEYOND * np.ptp(points_NM, axis=0)
    signs_M = minimised(objectives, np.ones(len(objectives)))
    rows = zip(objectives, signs_M, worst_M, strict=True)
    return tuple(float(sign * worst) if o.worst is None else o.worst for o, sign, worst in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis(Document):
    """An objective: its name and direction, and the reference point's value in its unit."""

    name: str
    direction: str
    reference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Document):
    """The curve of one search: `hypervolume[i]` is the hypervolume after `evaluations[i]` evaluations.

    known: the number of archs that were known before the first evaluation. between: how the hypervolume behaves between two
    entries, `unchanged` or `not sampled`.
    """

    search: str
    algorithm: str
    known: int
    between: str
    evaluations: tuple[int, ...]
    hypervolume: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History(Document):
    """The curves of several searches with the same objectives and reference point."""

    objectives: tuple[Axis, ...]
    searches: tuple[Progress, ...]

    @classmethod
    def of(cls, objectives: Sequence[Objective], reference: Sequence[float], searches: Sequence[Progress]) -> History:
        """The history of searches for these objectives."""
        rows = zip(objectives, reference, strict=True)
        axes = tuple(Axis(name=o.name, direction=o.direction, reference=worst) for o, worst in rows)
        return cls(objectives=axes, searches=tuple(searches))


class Curve:
    """The hypervolume of all archs so far that are within the limits, updated with every batch.

    With two objectives it is exact after every evaluation; with more it is if archs are added one by one.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        reference: Sequence[float],
        limits: Sequence[Limit] = (),
        *,
        every: bool = False,
    ) -> None:
        """every: an entry for every evaluation, also where nothing changed, unless the curve is sampled."""
        self.objectives, self.every = tuple(objectives), every
        self.reference_M = minimised(objectives, np.array(reference, dtype=np.float64))
        self.bounds_M = bounds(objectives, limits)
        self.front_NM = np.zeros((0, len(objectives)))  # more than two objectives: the non-dominated points
        self.x: list[float] = []  # two objectives: the non-dominated points, rising in the first
        self.y: list[float] = []  # and falling in the second
        self.volume = 0.0
        self.done = self.known = 0
        self.sampled = False
        self.evaluations, self.hypervolumes = [0], [0.0]

    def start(self, values_BM: np.ndarray) -> None:
        """Adds archs that are known before the first evaluation."""
        for row in values_BM:
            self.add(row[None])
        self.known, self.done, self.evaluations, self.hypervolumes = self.known + len(values_BM), 0, [0], [self.volume]

    def add(self, values_BM: np.ndarray) -> None:
        """Adds the values [B, M] of the archs that were evaluated next, in their order."""
        points_BM = minimised(self.objectives, values_BM)
        inside_B: np.ndarray = np.all((points_BM < self.reference_M) & (points_BM <= self.bounds_M), axis=1)
        if len(self.objectives) == 2:
            self._add_pairs(points_BM, inside_B)
        else:
            self._add_batch(points_BM[inside_B], len(points_BM))

    def progress(self, search: str, algorithm: str) -> Progress:
        """The curve up to now."""
        if self.sampled and self.evaluations[-1] < self.done:
            self.volume = hypervolume(self.front_NM, self.reference_M)
        if self.evaluations[-1] < self.done:
            self._note(self.done)
        done, volumes = np.array(self.evaluations), np.array(self.hypervolumes)
        if self.every and not self.sampled:
            whole = np.arange(self.done + 1)
            done, volumes = whole, volumes[np.searchsorted(done, whole, side="right") - 1]
        return Progress(
            search=search,
            algorithm=algorithm,
            known=self.known,
            between="not sampled" if self.sampled else "unchanged",
            evaluations=tuple(done.tolist()),
            hypervolume=tuple(volumes.tolist()),
        )

    def _note(self, done: int) -> None:
        self.evaluations.append(done)
        self.hypervolumes.append(self.volume)

    def _add_pairs(self, points_B2: np.ndarray, inside_B: np.ndarray) -> None:
        if self.x:  # most are dominated by earlier points
            at_B = np.searchsorted(self.x, points_B2[:, 0], side="right") - 1
            inside_B &= (at_B < 0) | (np.array(self.y)[at_B] > points_B2[:, 1])
        for b in np.flatnonzero(inside_B).tolist():
            if self._insert(*points_B2[b].tolist()):
                self._note(self.done + b + 1)
        self.done += len(points_B2)

    def _insert(self, x: float, y: float) -> bool:
        """Adds a point, unless another dominates it, and the area that it adds."""
        end = bisect_right(self.x, x)
        if end and self.y[end - 1] <= y:
            return False
        first = last = bisect_left(self.x, x)
        top, left, gain = self.y[first - 1] if first else float(self.reference_M[1]), x, 0.0
        while last < len(self.x) and self.y[last] >= y:
            gain += (self.x[last] - left) * (top - y)
            left, top = self.x[last], self.y[last]
            last += 1
        right = self.x[last] if last < len(self.x) else float(self.reference_M[0])
        self.volume += gain + (right - left) * (top - y)
        self.x[first:last], self.y[first:last] = [x], [y]
        return True

    def _add_batch(self, points_BM: np.ndarray, evaluated: int) -> None:
        self.done += evaluated
        new_BM = points_BM[~(self.front_NM[:, None] <= points_BM).all(axis=2).any(axis=0)]
        new_BM = np.unique(new_BM[nondominated(new_BM)], axis=0)
        if evaluated == 1 and not self.sampled:
            if len(new_BM):
                self.volume += self._own_volume(new_BM[0])
        else:
            self.sampled = True
        stays_N = ~(new_BM[:, None] <= self.front_NM).all(axis=2).any(axis=0)
        self.front_NM = np.concatenate([self.front_NM[stays_N], new_BM])
        if self.sampled and self.done >= SPACING * self.evaluations[-1]:
            self.volume = hypervolume(self.front_NM, self.reference_M)
            self._note(self.done)
        elif not self.sampled and len(new_BM):
            self._note(self.done)

    def _own_volume(self, point_M: np.ndarray) -> float:
        """The volume that a point adds to the hypervolume of the present ones."""
        covered_NM = np.unique(np.maximum(self.front_NM, point_M), axis=0)
        return float((self.reference_M - point_M).prod()) - hypervolume(covered_NM, self.reference_M)
