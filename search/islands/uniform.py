"""Uniform random sampling with the interface of an island: the baseline that any measured search must beat."""

from __future__ import annotations

import random
from collections.abc import Iterable

from ofa.genes import Genes
from ofa.space import Space
from search.islands.breeder import Individual, Packed


class Uniform:
    """Proposes archs sampled uniformly, each once."""

    parents: tuple[Individual, ...] = ()  # it has no population

    def __init__(self, space: Space, seed: str) -> None:
        self.space, self.genes, self.rng = space, Genes(space), random.Random(seed)
        self.taken: set[Packed] = set()

    def tell(self, evaluated: Iterable[Individual]) -> None:
        """Adds archs that were evaluated, which `ask` then leaves out."""
        self.taken.update(individual.packed for individual in evaluated)

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere, which `ask` then leaves out."""
        self.taken.update(taken)

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        found: list[Packed] = []
        for _ in range(100 * count):
            if len(found) == count:
                break
            packed = self.genes.pack(self.genes.encode([self.space.sample(self.rng)])[0])
            if packed not in self.taken:
                self.taken.add(packed)
                found.append(packed)
        return found
