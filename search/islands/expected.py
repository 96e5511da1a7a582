"""Expected hypervolume improvement: how much archs are expected to add to what the front of the measured ones dominates.

Predicted values are normally distributed, exact costs without a spread. The expectation is the mean over some sets of values
that cover the distribution evenly; the volume that a point adds is computed exactly for each of them.
Source: Emmerich et al., doi:10.1109/TEVC.2005.859463; batches as by the kriging believer, doi:10.1007/978-3-642-10701-6_6.
Shape letters in this file: B archs, K sets of values, M objectives, N measured archs, P candidates, Q these and pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from ofa.compiled import compiled
from search.front import nondominated
from search.islands.proposal import volume_scale
from search.objective import Objective, minimised
from search.predict.posterior import Posterior

SETS = 16  # sets of values whose mean is taken
BLOCK = 128  # candidates whose expectations are computed at once
UPPER = 2.0  # standard deviations; above all of the sets
# Factors of the predicted spread; the next one where too few candidates may add anything. The first was found by measuring:
# with the whole spread too much of a batch goes where the spread is largest (docs/log.md).
WIDER = (0.25, 1.0, 4.0)
_NONE = 1e-12  # a volume, as a share of that between the front's extremes, which counts as nothing


def pick_by_expectation(
    objectives: Sequence[Objective],
    posteriors: Sequence[Posterior],
    genes_PG: np.ndarray,
    pending_BG: np.ndarray,
    there_NM: np.ndarray,
    count: int,
) -> list[int]:
    """Indices of at most `count` candidates, each with the largest expected improvement after those before it.

    posteriors: of each objective. pending_BG: the genes of archs that will be measured anyway. there_NM: the unscaled values
    of the measured archs. A pending arch and one that is picked count as if they had their expected values, and reduce the
    spread of archs like them. Fewer are picked where no other candidate may add anything.
    """
    picked: list[int] = []
    for wider in WIDER:
        left = np.setdiff1d(np.arange(len(genes_PG)), picked)
        if len(picked) < count and len(left):
            believed_BG = np.concatenate([pending_BG, genes_PG[picked]])
            batch = _Batch(objectives, posteriors, genes_PG[left], believed_BG, there_NM, wider)
            picked += left[batch.picked(count - len(picked))].tolist()
    return picked


class _Batch:
    """The selection of a batch from candidates, with spreads that are `wider` times those predicted."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        posteriors: Sequence[Posterior],
        genes_PG: np.ndarray,
        believed_BG: np.ndarray,
        there_NM: np.ndarray,
        wider: float,
    ) -> None:
        self.objectives, self.posteriors, self.wider = objectives, posteriors, wider
        self.z_KM = normal_sets(posteriors)
        self.upper_1M = UPPER * np.array([[posterior.better() for posterior in posteriors]])
        self.front_NM, self.low_M, self.span_M, self.reference_M = volume_scale(objectives, there_NM)
        self.count = len(genes_PG)
        self.beliefs = [posterior.joint(np.concatenate([genes_PG, believed_BG])) for posterior in posteriors]
        self.mean_QM = np.stack([beliefs.mean_B for beliefs in self.beliefs], axis=1)
        for b in range(len(genes_PG), len(self.mean_QM)):
            self._believe(b)
        self._refresh()

    def picked(self, count: int) -> list[int]:
        """Indices of at most `count` candidates, each the best after those before it.

        An expectation never grows while others are believed, and is at most the gain of values `UPPER` spreads better than
        the mean; so only the most promising ones are computed anew.
        """
        bound_P = self.gains(np.arange(self.count), self.upper_1M)
        picked: list[int] = []
        while len(picked) < count:
            fresh_P = np.zeros(self.count, dtype=bool)
            while True:
                least = bound_P[fresh_P].max() if fresh_P.any() else _NONE
                stale = np.flatnonzero(~fresh_P & (bound_P > least))
                if not len(stale):
                    break
                if len(stale) > BLOCK:
                    stale = stale[np.argsort(-bound_P[stale], kind="stable")[:BLOCK]]
                bound_P[stale] = self.gains(stale, self.z_KM)
                fresh_P[stale] = True
            best = int(bound_P.argmax())
            if bound_P[best] <= _NONE:
                break
            bound_P[best] = 0.0
            picked.append(best)
            self._believe(best)
            self._refresh()
        return picked

    def gains(self, chosen: np.ndarray, z_KM: np.ndarray) -> np.ndarray:
        """The mean volume that each chosen candidate adds [P] with values so many spreads from the mean."""
        values_KPM = self.mean_QM[chosen] + self.wider * z_KM[:, None, :] * self.spread_QM[chosen]
        points_RM = self._points(values_KPM.reshape(-1, len(self.objectives)))
        return volumes_added(points_RM, self.front_NM, self.reference_M).reshape(len(z_KM), -1).mean(axis=0)

    def _points(self, quantities_BM: np.ndarray) -> np.ndarray:
        """The scaled points to minimise [B, M] of quantities on the posteriors' scales."""
        values_BM = np.stack([p.value(q_B) for p, q_B in zip(self.posteriors, quantities_BM.T, strict=True)], axis=1)
        return (minimised(self.objectives, values_BM) - self.low_M) / self.span_M

    def _believe(self, b: int) -> None:
        """Takes an arch's expected values for measured ones: it joins the front, and the others' spreads shrink."""
        front_NM = np.concatenate([self.front_NM, self._points(self.mean_QM[b : b + 1])])
        self.front_NM = np.unique(front_NM[nondominated(front_NM)], axis=0)
        for beliefs in self.beliefs:
            beliefs.believe(b)

    def _refresh(self) -> None:
        self.spread_QM = np.stack([beliefs.spread_B for beliefs in self.beliefs], axis=1)


def normal_sets(posteriors: Sequence[Posterior]) -> np.ndarray:
    """Standard normal values [K, M] that cover the joint distribution evenly; 0 for exact objectives.

    Each objective has equal steps of the probability: the first one in order, the others in that of an additive sequence of
    the generalised golden ratio, which keeps neighbours apart.
    """
    learned = [m for m, posterior in enumerate(posteriors) if posterior.learned]
    z_KM = np.zeros((SETS if learned else 1, len(posteriors)))
    ratio = 2.0
    for _ in range(50):  # the root of x^d = x + 1, for d learned objectives
        ratio = (1 + ratio) ** (1 / max(len(learned), 2))
    for d, m in enumerate(learned):
        order_K = np.arange(len(z_KM)) if d == 0 else (np.arange(len(z_KM)) * ratio**-d % 1).argsort().argsort()
        z_KM[:, m] = [NormalDist().inv_cdf((place + 0.5) / len(z_KM)) for place in order_K.tolist()]
    return z_KM


def volumes_added(points_PM: np.ndarray, front_NM: np.ndarray, reference_M: np.ndarray) -> np.ndarray:
    """By how much each point alone enlarges the volume that a front dominates, up to the reference point: [P]."""
    added_P = np.zeros(len(points_PM))
    if points_PM.shape[1] == 1:
        return np.maximum(np.append(front_NM[:, 0], reference_M).min() - points_PM[:, 0], 0.0)
    if points_PM.shape[1] == 2:
        _areas_added(points_PM, front_NM[np.lexsort((front_NM[:, 1], front_NM[:, 0]))], reference_M, added_P)
        return added_P
    if points_PM.shape[1] == 3:
        _volumes_added(points_PM, front_NM[np.argsort(front_NM[:, 2], kind="stable")], reference_M, added_P)
        return added_P
    front_NM = front_NM[np.argsort(front_NM[:, -1], kind="stable")]  # slabs along the last objective
    edges = np.concatenate([[-np.inf], front_NM[:, -1], reference_M[-1:]]).clip(max=reference_M[-1])
    for i, (begin, end) in enumerate(pairwise(edges)):
        height_P = end - np.maximum(points_PM[:, -1], begin)
        inside = height_P > 0
        if inside.any():
            floor_NM = front_NM[:i, :-1]
            floor_NM = floor_NM[nondominated(floor_NM)]
            added_P[inside] += height_P[inside] * volumes_added(points_PM[inside, :-1], floor_NM, reference_M[:-1])
    return added_P


@compiled
def _areas_added(points_P2, front_N2, reference_2, added_P):  # type: ignore[no-untyped-def]
    """Fills `volumes_added` of two objectives; the front is in ascending order of the first."""
    for p in range(len(points_P2)):
        x, y = points_P2[p, 0], points_P2[p, 1]
        top, area = reference_2[1], 0.0  # the least second value of the front up to x
        for n in range(len(front_N2)):
            right = min(front_N2[n, 0], reference_2[0])
            if top <= y or x >= reference_2[0]:
                break
            if right > x:
                area += (right - x) * (top - y)
                x = right
            top = min(top, front_N2[n, 1])
        if top > y and x < reference_2[0]:
            area += (reference_2[0] - x) * (top - y)
        added_P[p] = area


@compiled
def _volumes_added(points_P3, front_N3, reference_3, added_P):  # type: ignore[no-untyped-def]
    """Fills `volumes_added` of three objectives; the front is in ascending order of the third.

    A plane moves along the third objective; what the front has dominated in it so far is a staircase, ascending in the first
    objective and descending in the second, of the front's points moved into the quadrant that the point dominates.
    """
    stair_x, stair_y = np.empty(len(front_N3)), np.empty(len(front_N3))
    for p in range(len(points_P3)):
        x, y, z = points_P3[p, 0], points_P3[p, 1], points_P3[p, 2]
        if x >= reference_3[0] or y >= reference_3[1] or z >= reference_3[2]:
            added_P[p] = 0.0
            continue
        free, volume, steps = (reference_3[0] - x) * (reference_3[1] - y), 0.0, 0
        for n in range(len(front_N3)):
            if front_N3[n, 2] >= reference_3[2]:
                break
            at_x, at_y = max(front_N3[n, 0], x), max(front_N3[n, 1], y)
            if at_x >= reference_3[0] or at_y >= reference_3[1]:
                continue
            if front_N3[n, 2] > z:
                volume += free * (front_N3[n, 2] - z)
                z = front_N3[n, 2]
            first = 0  # steps left of the new one
            while first < steps and stair_x[first] <= at_x:
                first += 1
            if first > 0 and stair_y[first - 1] <= at_y:
                continue
            if first > 0 and stair_x[first - 1] == at_x:
                first -= 1
            last = first  # steps that it hides
            while last < steps and stair_y[last] >= at_y:
                last += 1
            if last == first:
                for s in range(steps, first, -1):
                    stair_x[s], stair_y[s] = stair_x[s - 1], stair_y[s - 1]
                steps += 1
            elif last > first + 1:
                for s in range(last, steps):
                    stair_x[first + 1 + s - last], stair_y[first + 1 + s - last] = stair_x[s], stair_y[s]
                steps -= last - first - 1
            stair_x[first], stair_y[first] = at_x, at_y
            free = (stair_x[0] - x) * (reference_3[1] - y)
            for s in range(steps):
                right = stair_x[s + 1] if s + 1 < steps else reference_3[0]
                free += (right - stair_x[s]) * (stair_y[s] - y)
            if free <= 0:
                break
        added_P[p] = volume + max(free, 0.0) * (reference_3[2] - z)
