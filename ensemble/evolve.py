"""The published selection of ensembles: masks of members, evolved by a multi-objective algorithm.

Uniform crossover, a hundredth of the bits sampled again, binary tournaments, no duplicates; the population starts as the one
ensemble of all members. With `sum` an ensemble has at least two members. Source: OFA³,
doi:10.1109/IJCNN60899.2024.10650685, and its released notebooks; here the front is that of all scored subsets,
there only that of the last population.

Shape letters in this file: S subsets, M members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ensemble.subsets import Search

# The `count` surviving points of [S, 2] (cost and number of errors), best first, and a rating that decides tournaments.
Survive = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]

POPULATION = 100
RESAMPLED = 0.01  # of the bits
PATIENCE = 1000  # generations in a row without a new child


@dataclass(frozen=True, slots=True)
class Budget:
    """The settings of the algorithms that sample: a number of subsets to score, a seed, and survival selections by name.

    The survival selections are `search.selection.SURVIVAL`'s, which this package does not import.
    """

    evaluations: int = 200_000
    seed: int = 1
    survivals: Mapping[str, Survive] = field(default_factory=dict)


def evolve(search: Search, budget: Budget, survival: str) -> None:
    """Scores `budget.evaluations` subsets; stops early if `PATIENCE` generations in a row have no new one.

    Offspring outside the limits are not scored. If all members together are outside, it starts from the smallest subsets.
    """
    assert survival in budget.survivals, f"no survival selection {survival!r} was given"
    survive, evaluations = budget.survivals[survival], budget.evaluations
    rng = np.random.default_rng([*f"{budget.seed}/ensemble".encode()])
    scorer, members = search.scorer, len(search.cost_M)
    fewest = search.rule.fewest if members > 1 and search.limits.size != 1 else 1

    def allowed(masks_SM: np.ndarray) -> np.ndarray:
        return search.allowed(masks_SM) & (masks_SM.sum(axis=1) >= fewest)

    everyone = np.ones((1, members), dtype=bool)
    pool = everyone if allowed(everyone)[0] else _pairs(search, fewest)
    pool = pool[allowed(pool)][:evaluations]
    if not len(pool):
        return
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


def _pairs(search: Search, fewest: int) -> np.ndarray:
    """The smallest subsets: the required members with each other member, and with `fewest` two, each with its neighbour."""
    seeds = search.seeds()
    return seeds if fewest == 1 else np.unique(np.concatenate([seeds, seeds | np.roll(seeds, 1, axis=1)]), axis=0)


def _children(pool: np.ndarray, rating: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` masks that are not in the pool."""
    drawn = rng.integers(0, len(pool), (4, count))
    mother = np.where(rating[drawn[0]] <= rating[drawn[1]], drawn[0], drawn[1])
    father = np.where(rating[drawn[2]] <= rating[drawn[3]], drawn[2], drawn[3])
    shape = (count, pool.shape[1])
    born = np.where(rng.random(shape) < 0.5, pool[mother], pool[father])
    born = np.where(rng.random(shape) < RESAMPLED, rng.random(shape) < 0.5, born)
    both = np.concatenate([pool, born])
    _, first = np.unique(np.packbits(both, axis=1), axis=0, return_index=True)
    return both[np.sort(first[first >= len(pool)])]
