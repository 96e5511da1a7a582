"""Any number of evenly spaced reference directions for any number of objectives, by their Riesz s-energy.

Das and Dennis's directions (`search.selection.directions`) exist in few numbers only: for 12 objectives 12, 78, 364.
Source: Blank, Deb, Dhebar, Bandaru and Seada, doi:10.1109/TEVC.2020.2992387.
Shape letters in this file: K sampled points, M objectives, R directions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from search.selection import directions

_SAMPLED = 50  # sampled points for each direction, from which the first directions are taken
_STEPS = 500  # of each descent
_STEP = 0.02  # distance that a point moves at most in the first step of a descent; it falls to 0


@lru_cache(maxsize=32)
def energy_directions(objectives: int, count: int, seed: int = 42) -> np.ndarray:
    """Directions [count, objectives] on the unit simplex with the least energy that a descent finds; read-only.

    The energy is the sum over pairs of 1 / distance**s, with s the square of the number of objectives. The axes come first;
    if `count` is less than the objectives, there are only the first axes. Equal arguments have equal results.
    """
    axes = np.eye(objectives)
    if objectives == 1:
        found_RM = np.ones((count, 1))
    elif count <= objectives:
        found_RM = axes[:count]
    elif objectives == 2:
        found_RM = directions(2, count)  # equal distances on a line have the least energy
        found_RM = np.concatenate([axes, found_RM[found_RM.max(axis=1) < 1]])
    else:
        rng = np.random.default_rng([*f"directions/{objectives}/{count}/{seed}".encode()])
        even_RM = directions(objectives, count)
        starts = (axes, np.concatenate([axes, even_RM[even_RM.max(axis=1) < 1]]))
        descents = [_descended(_completed(start, count, rng), float(objectives**2)) for start in starts]
        found_RM = min(descents, key=lambda descent: descent[0])[1]
    found_RM.flags.writeable = False
    return found_RM


def _completed(points_RM: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Adds random points of the simplex up to `count`, each the one farthest from all before."""
    sampled_KM = rng.dirichlet(np.ones(points_RM.shape[1]), _SAMPLED * count)
    chosen = list(points_RM)
    distance_K = ((sampled_KM[:, None] - points_RM) ** 2).sum(axis=2).min(axis=1)
    while len(chosen) < count:
        chosen.append(sampled_KM[distance_K.argmax()])
        distance_K = np.minimum(distance_K, ((sampled_KM - chosen[-1]) ** 2).sum(axis=1))
    return np.array(chosen)


def _descended(points_RM: np.ndarray, power: float) -> tuple[float, np.ndarray]:
    """The least energy of a gradient descent, in which the axes, which are first, do not move, and its points."""
    objectives = points_RM.shape[1]
    best, best_RM = _log_energy(points_RM, power)[0], points_RM
    for step in range(_STEPS):
        energy, gradient_RM = _log_energy(points_RM, power)
        if energy < best:
            best, best_RM = energy, points_RM
        gradient_RM = gradient_RM - gradient_RM.mean(axis=1, keepdims=True)  # along the simplex
        length_R1 = np.maximum(np.linalg.norm(gradient_RM, axis=1, keepdims=True), 1e-300)
        # the energy is that of the nearest points: others, with gradients smaller by magnitudes, move almost as far
        towards_RM = gradient_RM / length_R1 * (length_R1 / length_R1.max()) ** 0.25
        towards_RM[:objectives] = 0
        points_RM = _on_simplex(points_RM - _STEP * (1 - step / _STEPS) * towards_RM)
    return best, best_RM


def _log_energy(points_RM: np.ndarray, power: float) -> tuple[float, np.ndarray]:
    """The logarithm of the energy, and its gradient [R, M]."""
    squared_RR = ((points_RM[:, None] - points_RM) ** 2).sum(axis=2)
    np.fill_diagonal(squared_RR, np.inf)
    squared_RR = np.maximum(squared_RR, 1e-24)
    log_RR = -power / 2 * np.log(squared_RR)
    largest = log_RR.max()
    weight_RR = np.exp(log_RR - largest)
    total = weight_RR.sum()
    pull_RR = weight_RR / squared_RR
    gradient_RM = -2 * power / total * (pull_RR.sum(axis=1, keepdims=True) * points_RM - pull_RR @ points_RM)
    return float(largest + np.log(total)), gradient_RM


def _on_simplex(points_RM: np.ndarray) -> np.ndarray:
    """The nearest points of the unit simplex. Source: Duchi et al., doi:10.1145/1390156.1390191, figure 1."""
    falling_RM = -np.sort(-points_RM, axis=1)
    above_RM = np.cumsum(falling_RM, axis=1) - 1
    shift_RM = above_RM / np.arange(1, points_RM.shape[1] + 1)
    last_R = (falling_RM > shift_RM).sum(axis=1) - 1
    return np.maximum(points_RM - shift_RM[np.arange(len(points_RM)), last_R, None], 0)
