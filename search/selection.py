"""Survival selection of each multi-objective evolutionary algorithm, on arrays of points.

Both the vectorised engine (search/predicted.py) and the Optuna samplers (search/islands/samplers.py) use these.
Every `Survival` takes points [N, M] to minimise, and returns the indices of the `count` survivors, best first, and a rating
of each, by which tournaments between parents are decided (less is better).
Shape letters in this file: N points, M objectives, R reference directions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from search.front import crowding, hypervolume, ranks

Survival = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def nsga2(points_NM: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Selects by front, then by crowding within each. Source: NSGA-II, doi:10.1109/4235.996017."""
    rank = ranks(points_NM)
    crowd = np.zeros(len(points_NM))
    for front in range(rank.max() + 1):
        here = np.flatnonzero(rank == front)
        crowd[here] = crowding(points_NM[here])
    order = np.lexsort((-crowd, rank))[:count]
    return order, np.arange(len(order), dtype=np.float64)


def sms_emoa(points_NM: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Selects by front; from the last one, the points with the least hypervolume contribution are removed one by one.

    Objectives are scaled to 0..1 over the last front, the reference point is 11, so its extremes stay.
    Source: SMS-EMOA, doi:10.1016/j.ejor.2006.08.008.
    """
    rank = ranks(points_NM)
    order = np.argsort(rank, kind="stable")
    last = rank[order[min(count, len(order)) - 1]]
    kept, edge = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
    span = np.ptp(points_NM[edge], axis=0)
    scaled = (points_NM[edge] - points_NM[edge].min(axis=0)) / np.where(span > 0, span, 1.0)
    while len(kept) + len(edge) > count:
        out = own_volumes(scaled, np.full(points_NM.shape[1], 11.0)).argmin()
        edge, scaled = np.delete(edge, out), np.delete(scaled, out, axis=0)
    kept = np.concatenate([kept[np.argsort(rank[kept], kind="stable")], edge])
    return kept, rank[kept].astype(np.float64)


def spea2(points_NM: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Selects the non-dominated points, thinned where they are densest; if they are too few, the least dominated too.

    Source: SPEA2, doi:10.3929/ethz-a-004284029. Distances are between objectives scaled to 0..1.
    """
    worse_NN = (points_NM[:, None] <= points_NM).all(axis=2) & (points_NM[:, None] < points_NM).any(axis=2)
    strength = worse_NN.sum(axis=1)
    raw = (strength[:, None] * worse_NN).sum(axis=0)
    distance_NN = _distances(points_NM)
    nearest = np.sort(distance_NN, axis=1)
    fitness = raw + 1 / (nearest[:, min(int(np.sqrt(len(raw))), len(raw) - 1)] + 2)
    kept = np.flatnonzero(raw == 0)
    if len(kept) > count:
        kept = kept[_truncated(distance_NN[np.ix_(kept, kept)], count)]
    elif len(kept) < count:
        kept = np.argsort(fitness, kind="stable")[:count]
    kept = kept[np.argsort(fitness[kept], kind="stable")]
    return kept, fitness[kept]


def nsga3(
    points_NM: np.ndarray, count: int, rng: np.random.Generator, directions_RM: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Selects by front; from the last one, the points nearest to the reference directions with the fewest survivors so far.

    directions_RM: the reference directions; by default as many Das-Dennis directions as `count` allows.
    Source: NSGA-III, doi:10.1109/TEVC.2013.2281535.
    """
    rank = ranks(points_NM)
    last = np.sort(rank)[min(count, len(rank)) - 1]
    kept, edge = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
    if len(kept) + len(edge) > count:
        both = np.concatenate([kept, edge])
        scaled = _to_hyperplane(points_NM[both], rank[both] == 0)
        if directions_RM is None:
            directions_RM = directions(points_NM.shape[1], count)
        nearest, distance = _associated(scaled, directions_RM)
        chosen = _niched(nearest, distance, len(kept), count, rng)
        kept = both[chosen]
    else:
        kept = np.concatenate([kept, edge])
    kept = kept[np.argsort(rank[kept], kind="stable")]
    return kept, rank[kept].astype(np.float64)


SURVIVAL: dict[str, Survival] = {"nsga2": nsga2, "sms-emoa": sms_emoa, "spea2": spea2, "nsga3": nsga3}


def constrained(
    survival: Survival, points_NM: np.ndarray, beyond_N: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Applies `survival` to the points within all limits; only if they are too few, adds the least infeasible ones."""
    inside, outside = np.flatnonzero(beyond_N <= 0), np.flatnonzero(beyond_N > 0)
    outside = outside[np.argsort(beyond_N[outside], kind="stable")][: max(0, count - len(inside))]
    if not len(inside):
        return outside, beyond_N[outside]
    kept, rating = survival(points_NM[inside], min(count, len(inside)), rng)
    worst = rating.max() + 1
    return np.concatenate([inside[kept], outside]), np.concatenate([rating, worst + beyond_N[outside]])


def own_volumes(points_NM: np.ndarray, reference_M: np.ndarray) -> np.ndarray:
    """The hypervolume contribution of each of some non-dominated points: float64 [N]."""
    if points_NM.shape[1] == 2:
        order = np.lexsort((points_NM[:, 1], points_NM[:, 0]))
        x, y = points_NM[order].T
        own = np.empty(len(order))
        own[order] = (np.append(x[1:], reference_M[0]) - x) * (np.append(reference_M[1], y[:-1]) - y)
        return np.maximum(own, 0)
    whole = hypervolume(points_NM, reference_M)
    return np.array([whole - hypervolume(np.delete(points_NM, i, axis=0), reference_M) for i in range(len(points_NM))])


def thinned(points_NM: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` of some non-dominated points, which together lose little hypervolume, in order of the last.

    With two objectives, the point with the least contribution is removed repeatedly; extremes stay. With more, the most
    crowded one.
    """
    order = np.argsort(points_NM[:, -1], kind="stable")
    if len(order) <= count:
        return order
    if points_NM.shape[1] != 2:
        return order[np.sort(_truncated(_distances(points_NM[order]), count))]
    return order[_thinned_2d(points_NM[order], count)]


def _thinned_2d(points_N2: np.ndarray, count: int) -> np.ndarray:
    """`thinned` for points in ascending order of the second objective, and so in descending order of the first."""
    left = np.arange(len(points_N2))
    while len(left) > max(count, 1):
        x, y = points_N2[left].T
        if count == 1:
            return left[:1]
        own = np.full(len(left), np.inf)
        own[1:-1] = (x[:-2] - x[1:-1]) * (y[2:] - y[1:-1])
        surplus = len(left) - count
        out = np.argsort(own, kind="stable")[: max(1, surplus // 8)]
        if len(out) > 1:  # while many are left, several at a time, but no neighbours of each other
            out = out[~np.isin(out - 1, out)]
        left = np.delete(left, out)
    return left


def _distances(points_NM: np.ndarray) -> np.ndarray:
    """Distances [N, N] between all points, objectives scaled to 0..1; infinite from a point to itself."""
    span = np.ptp(points_NM, axis=0)
    scaled = (points_NM - points_NM.min(axis=0)) / np.where(span > 0, span, 1.0)
    square_NN = np.zeros((len(scaled), len(scaled)))
    for x in scaled.T:
        square_NN += (x[:, None] - x) ** 2
    np.fill_diagonal(square_NN, np.inf)
    return np.sqrt(square_NN)


def _truncated(distance_NN: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` points that stay when the one nearest to another is removed repeatedly.

    Of two with equal distances, the one whose next neighbours are nearer is removed.
    """
    distance_NN = distance_NN.copy()
    alive = np.ones(len(distance_NN), dtype=bool)
    known = min(8, len(distance_NN))
    nearest_NK = np.sort(distance_NN, axis=1)[:, :known]
    for _ in range(len(distance_NN) - count):
        first = np.where(alive, nearest_NK[:, 0], np.inf)
        tied = np.flatnonzero(alive & (first == first.min()))
        out = tied[np.lexsort(nearest_NK[tied].T[::-1])[0]]
        alive[out] = False
        touched = np.flatnonzero(alive & (distance_NN[out] <= nearest_NK[:, -1]))
        distance_NN[:, out] = np.inf
        nearest_NK[touched] = np.sort(np.partition(distance_NN[touched], known - 1, axis=1)[:, :known], axis=1)
    return np.flatnonzero(alive)


def directions(objectives: int, count: int) -> np.ndarray:
    """Das and Dennis's directions [R, M]: all integer shares of the finest division with at most `count`."""
    parts = 1
    while len(list(combinations(range(parts + objectives), objectives - 1))) <= count and parts < 1000:
        parts += 1
    bars = np.array(list(combinations(range(parts + objectives - 1), objectives - 1))).reshape(-1, objectives - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + objectives - 1)], axis=1)
    return (np.diff(edges, axis=1) - 1) / parts


def _to_hyperplane(points_NM: np.ndarray, best_N: np.ndarray) -> np.ndarray:
    """Points scaled so that the ideal is 0 and the plane through the extremes of the `best_N` meets each axis at 1."""
    objectives = points_NM.shape[1]
    moved = points_NM - points_NM.min(axis=0)
    span = np.where(np.ptp(moved, axis=0) > 0, np.ptp(moved, axis=0), 1.0)
    weights = np.where(np.eye(objectives, dtype=bool), 1.0, 1e-6)
    first = moved[best_N]
    extreme = np.array([first[(first / span / w).max(axis=1).argmin()] for w in weights])
    try:
        with np.errstate(divide="ignore", over="ignore"):  # a plane parallel to an axis does not meet it
            intercepts = 1 / np.linalg.solve(extreme, np.ones(objectives))
    except np.linalg.LinAlgError:
        intercepts = np.full(objectives, np.nan)
    fits = np.isfinite(intercepts) & (intercepts > 1e-6 * span)
    return moved / np.where(fits.all(), intercepts, np.maximum(first.max(axis=0), 1e-12))


def _associated(scaled_NM: np.ndarray, directions_RM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The direction nearest to each point [N], and the point's distance from it [N]."""
    unit_RM = directions_RM / np.linalg.norm(directions_RM, axis=1, keepdims=True)
    along_NR = scaled_NM @ unit_RM.T
    off_NR = np.sqrt(np.maximum((scaled_NM**2).sum(axis=1)[:, None] - along_NR**2, 0))
    nearest = off_NR.argmin(axis=1)
    return nearest, off_NR[np.arange(len(nearest)), nearest]


def _niched(nearest: np.ndarray, distance: np.ndarray, sure: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The first `sure`, and of the rest as many as `count` allows, from the emptiest directions first."""
    chosen = list(range(sure))
    taken = np.bincount(nearest[:sure], minlength=nearest.max() + 1)
    waiting = {r: [i for i in range(sure, len(nearest)) if nearest[i] == r] for r in set(nearest[sure:].tolist())}
    while len(chosen) < count:
        emptiest = min(taken[r] for r in waiting)
        niche = int(rng.choice(sorted(r for r in waiting if taken[r] == emptiest)))
        here = waiting[niche]
        pick = min(here, key=lambda i: distance[i]) if emptiest == 0 else here[int(rng.integers(len(here)))]
        here.remove(pick)
        if not here:
            del waiting[niche]
        taken[niche] += 1
        chosen.append(pick)
    return np.array(chosen)
