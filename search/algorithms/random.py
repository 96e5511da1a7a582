"""Predicted search by uniform random sampling: the baseline that every other algorithm must beat.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

import numpy as np

from search.algorithms.engine import Engine
from search.front import nondominated


def random_search(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """The non-dominated archs within the limits of uniformly sampled ones: genes [N, G] and points [N, M]."""
    genes_BG = np.zeros((0, len(engine.genes.sizes_G)), dtype=np.int64)
    points_BM = np.zeros((0, len(engine.objectives)))
    while engine.left > 0:
        sampled_BG = engine.pin(engine.genes.random(min(1000, engine.left), engine.rng))
        new_BM = np.concatenate([points_BM, engine.evaluate(sampled_BG)])
        new_BG = np.concatenate([genes_BG, sampled_BG])
        order = np.argsort(engine.beyond(new_BM) > 0, kind="stable")
        inside = order[: max(1, (engine.beyond(new_BM) <= 0).sum())]
        kept = inside[nondominated(new_BM[inside])]
        genes_BG, points_BM = new_BG[kept], new_BM[kept]
        engine.progress(engine.done)
    return genes_BG, points_BM
