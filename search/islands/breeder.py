"""The individuals of a measured search, and how an evolved population breeds offspring.

Shape letters in this file: B archs, G genes, P parents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.genes import Genes
from search.front import crowding, nondominated, ranks
from search.objective import Direction, Objective, violations

Packed = tuple[int, ...]  # an arch as `Genes.pack` makes it


@dataclass(frozen=True, slots=True)
class Individual:
    """An arch and its objective values, in the order of the objectives."""

    packed: Packed
    values: tuple[float, ...]


def within(objectives: Sequence[Objective], pool: Sequence[Individual]) -> Sequence[Individual]:
    """The individuals within the objectives' bounds; all of them where none is."""
    if not pool or all(objective.bound is None for objective in objectives):
        return pool
    beyond_N = violations(objectives, np.array([individual.values for individual in pool]))
    return [individual for individual, beyond in zip(pool, beyond_N, strict=True) if beyond <= 0] or pool


def elites(pool: Sequence[Individual], directions: Sequence[Direction], count: int) -> list[Individual]:
    """At most `count` of the non-dominated individuals, spread over their front."""
    if not pool:
        return []
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    points = np.array([individual.values for individual in pool]) * signs
    kept = nondominated(points)
    best = [pool[i] for i in np.lexsort(points.T) if kept[i]]
    return [
        best[i] for i in dict.fromkeys(np.linspace(0, len(best) - 1, min(count, len(best))).round().astype(int).tolist())
    ]


class Breeder:
    """Breeds offspring of a population: binary tournament, uniform crossover, mutation, repeated until they are new."""

    crossover_probability = 0.9
    attempts = 200

    def __init__(
        self,
        genes: Genes,
        directions: Sequence[Direction],
        rng: np.random.Generator,
        beyond: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """beyond: how far values [N, M] are beyond the bounds [N]; of two parents, the one nearer to them wins."""
        self.genes, self.rng, self.beyond = genes, rng, beyond
        self.signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])

    def adopt(self, parents: Sequence[Individual]) -> None:
        """Makes these the parents of all later offspring."""
        self.parents_PG = self.genes.unpack_all([parent.packed for parent in parents])
        values = np.array([parent.values for parent in parents])
        points = values * self.signs
        rank, crowd = ranks(points), np.zeros(len(parents))
        for r in np.unique(rank):
            crowd[rank == r] = crowding(points[rank == r])
        order = np.lexsort((-crowd, rank) if self.beyond is None else (-crowd, rank, self.beyond(values)))
        self.place_P = np.empty(len(parents), dtype=np.int64)
        self.place_P[order] = np.arange(len(parents))

    def children(self, count: int, taken: set[Packed]) -> list[Packed]:
        """At most `count` distinct new archs, which are added to `taken`; fewer only where the space is nearly exhausted."""
        found: list[Packed] = []
        for attempt in range(self.attempts):
            # The more attempts give no new arch, the more genes change, up to uniformly random archs.
            # More are bred than are missing: of a converged population half are not new, and a small batch takes as long.
            for packed in self.genes.pack_all(self._bred(2 * count - len(found), changes=1 + attempt // 10)):
                if packed not in taken:
                    taken.add(packed)
                    found.append(packed)
                    if len(found) == count:
                        return found
        for packed in self.genes.pack_all(self.genes.random(100 * count, self.rng)):
            if packed not in taken and len(found) < count:
                taken.add(packed)
                found.append(packed)
        return found

    def _bred(self, count: int, changes: int) -> np.ndarray:
        """Offspring of random pairs of winners.

        Unused genes are sampled anew first, so a stage that grows gets random blocks, not always the smallest.
        """
        rng, sizes_G, parents_PG = self.rng, self.genes.sizes_G, self.parents_PG
        shape = (count, len(sizes_G))
        mother_BG, father_BG = (self.genes.filled(parents_PG[self._winners(count)], rng) for _ in range(2))
        from_father = (rng.random(shape) < 0.5) & (rng.random((count, 1)) < self.crossover_probability)
        child_BG = np.where(from_father, father_BG, mother_BG)
        change = rng.random(shape) < changes / len(sizes_G)
        return self.genes.canonical(np.where(change, rng.integers(0, sizes_G, shape), child_BG))

    def _winners(self, count: int) -> np.ndarray:
        """The winners of binary tournaments: the lower rank, then the larger crowding distance."""
        one, other = self.rng.integers(0, len(self.parents_PG), (2, count))
        return np.where(self.place_P[one] <= self.place_P[other], one, other)
