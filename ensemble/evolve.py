"""The published selection of ensembles: masks of members, evolved by a multi-objective algorithm.

Uniform crossover, a hundredth of the bits drawn anew, binary tournaments, no duplicates; the population starts as the one
ensemble of all members. With `sum` an ensemble has two members at least. Source: OFA³,
doi:10.1109/IJCNN60899.2024.10650685, and its released notebooks; here everything that was scored may end on the front,
there only the last population.

Shape letters in this file: S subsets, M members.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ensemble.errors import SelectionError
from ensemble.score import Scorer
from ensemble.select import NO_LIMITS, Chosen, CostRule, Limits, Search

# Which `count` of points [S, 2] (cost and images named wrong) survive, best first, and a rating that decides tournaments.
Survive = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]

POPULATION = 100
DRAWN_ANEW = 0.01  # of the bits
PATIENCE = 1000  # generations in a row without a child that is new


def evolve(
    scorer: Scorer,
    cost_M: np.ndarray,
    rule: CostRule,
    survive: Survive,
    *,
    evaluations: int,
    seed: int,
    progress: Callable[[int], None] = lambda scored: None,
    limits: Limits = NO_LIMITS,
) -> list[Chosen]:
    """The best subsets of `evaluations` that were scored, cheapest first, each more accurate than all cheaper ones.

    Children that break a limit are not scored. Where all members together break one, it starts from the smallest subsets.
    """
    rng = np.random.default_rng([*f"{seed}/ensemble".encode()])
    search = Search(scorer, np.asarray(cost_M, dtype=np.float64), rule, progress, limits)
    fewest = 2 if rule == "sum" and len(cost_M) > 1 and limits.size != 1 else 1

    def allowed(masks_SM: np.ndarray) -> np.ndarray:
        return search.allowed(masks_SM) & (masks_SM.sum(axis=1) >= fewest)

    everyone = np.ones((1, len(cost_M)), dtype=bool)
    pool = everyone if allowed(everyone)[0] else _pairs(search, fewest)
    pool = pool[allowed(pool)][:evaluations]
    if not len(pool):
        raise SelectionError("no subset keeps to the limits; raise the most members or the highest cost")
    pool, correct = search.score(pool)
    points = np.column_stack([search.costs(pool), scorer.images - correct])
    rating, fruitless = np.zeros(len(pool)), 0
    while search.scored < evaluations and fruitless < PATIENCE:
        born = _children(pool, rating, min(POPULATION, evaluations - search.scored), rng)
        born = born[allowed(born)]
        fruitless = 0 if len(born) else fruitless + 1
        if not len(born):
            continue
        born, correct = search.score(born)
        pool = np.concatenate([pool, born])
        points = np.concatenate([points, np.column_stack([search.costs(born), scorer.images - correct])])
        kept, rating = survive(points, min(POPULATION, len(points)), rng)
        pool, points = pool[kept], points[kept]
    return search.front


def _pairs(search: Search, fewest: int) -> np.ndarray:
    """The smallest subsets: what must be there with each other member, and with `fewest` two, each with its neighbour."""
    seeds = search.seeds()
    return seeds if fewest == 1 else np.unique(np.concatenate([seeds, seeds | np.roll(seeds, 1, axis=1)]), axis=0)


def _children(pool: np.ndarray, rating: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` masks that are not in the pool."""
    drawn = rng.integers(0, len(pool), (4, count))
    mother = np.where(rating[drawn[0]] <= rating[drawn[1]], drawn[0], drawn[1])
    father = np.where(rating[drawn[2]] <= rating[drawn[3]], drawn[2], drawn[3])
    shape = (count, pool.shape[1])
    born = np.where(rng.random(shape) < 0.5, pool[mother], pool[father])
    born = np.where(rng.random(shape) < DRAWN_ANEW, rng.random(shape) < 0.5, born)
    both = np.concatenate([pool, born])
    _, first = np.unique(np.packbits(both, axis=1), axis=0, return_index=True)
    return both[np.sort(first[first >= len(pool)])]
