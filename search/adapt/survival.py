"""The archs of NAT's archive that survive an update, and those that its sampling law is estimated from.

Shape letters in this file: M objectives, N archs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.adapt.directions import energy_directions
from search.objective import Objective, minimised
from search.selection import nsga2, nsga3


def survivors(objectives: Sequence[Objective], values_NM: np.ndarray, count: int, seed: int) -> list[int]:
    """Indices of exactly `count` archs, best first; all of them if there are no more.

    values_NM: their unscaled values. One objective is sorted by; of two, NSGA-II's rank and crowding select; of more,
    NSGA-III with `count` energy directions, whose choices among equals depend on `seed`. As in NAT (arXiv:2005.05859).
    """
    points_NM = minimised(objectives, values_NM)
    count = min(count, len(points_NM))
    if count == 0:
        return []
    if len(objectives) == 1:
        return np.argsort(points_NM[:, 0], kind="stable")[:count].tolist()
    rng = np.random.default_rng([*f"survivors/{seed}".encode()])
    if len(objectives) == 2:
        kept, _ = nsga2(points_NM, count, rng)
    else:
        kept, _ = nsga3(points_NM, count, rng, energy_directions(len(objectives), count))
    return kept.tolist()
