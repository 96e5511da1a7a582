"""The published multi-objective evolutionary algorithms on gene arrays: NSGA-II, NSGA-III, SMS-EMOA and SPEA2.

They differ in survival selection (search/selection.py); crossover and mutation are those of OFA² (arXiv:2303.13683).
Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

import numpy as np

from search.algorithms.engine import Engine
from search.selection import Survival, constrained

MUTATION = 0.1  # probability for each gene, as in OFA²


def generational_search(engine: Engine, survival: Survival) -> tuple[np.ndarray, np.ndarray]:
    """Evolves a population of `engine.members` by tournaments, uniform crossover, mutation and survival selection.

    Returns the last population: genes [N, G] and points [N, M].
    """
    size = max(engine.members, 4)
    pool_BG = np.unique(engine.first(min(size, engine.evaluations)), axis=0)
    pool_BM = engine.evaluate(pool_BG)
    rating = np.zeros(len(pool_BG))
    fruitless = 0
    while engine.left > 0 and fruitless < 100:
        child_BG = offspring(engine, pool_BG, rating, min(size, engine.left))
        fruitless = 0 if len(child_BG) else fruitless + 1
        if not len(child_BG):
            continue
        pool_BG = np.concatenate([pool_BG, child_BG])
        pool_BM = np.concatenate([pool_BM, engine.evaluate(child_BG)])
        kept, rating = constrained(survival, pool_BM, engine.beyond(pool_BM), size, engine.rng)
        pool_BG, pool_BM = pool_BG[kept], pool_BM[kept]
        engine.progress(engine.done)
    return pool_BG, pool_BM


def offspring(engine: Engine, pool_BG: np.ndarray, rating: np.ndarray, count: int) -> np.ndarray:
    """At most `count` archs that are not in the pool."""
    rng, width = engine.rng, pool_BG.shape[1]
    rounds = rng.integers(0, len(pool_BG), (4, count))
    mother = np.where(rating[rounds[0]] <= rating[rounds[1]], rounds[0], rounds[1])
    father = np.where(rating[rounds[2]] <= rating[rounds[3]], rounds[2], rounds[3])
    child_BG = np.where(rng.random((count, width)) < 0.5, pool_BG[mother], pool_BG[father])
    sampled_BG = rng.integers(0, engine.genes.sizes_G, (count, width))
    child_BG = engine.pin(np.where(rng.random((count, width)) < MUTATION, sampled_BG, child_BG))
    both = np.concatenate([pool_BG, child_BG])
    _, first = np.unique(both, axis=0, return_index=True)
    return both[np.sort(first[first >= len(pool_BG)])]
