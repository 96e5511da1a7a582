"""Search guided by a predictor: fits it to the observations, searches the predictions, measures the best, and repeats.

The method is that of LINAS (DyNAS-T, arXiv:2205.10358), with these differences: genes without effect are no features; exact
costs are computed, not learned; a Gaussian process gives the uncertainty; and a batch is selected for the
hypervolume that it adds together, from archs that are not measured yet, instead of taken from an inner population.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search.islands.breeder import Individual, Packed, elites, within
from search.islands.proposal import bred, pick_by_hypervolume, propose
from search.objective import Objective
from search.predict.columns import optimistic_columns

INNER = 8000  # archs that the predicted search evaluates for a batch
CANDIDATES = 300  # members of its front, from which a batch is selected
OPTIMISM = 1.0  # posterior standard deviations by which an unmeasured arch may be better than predicted


class Guided:
    """Proposes batches, with the interface of an `Island`; one is enough, since it learns from all observations."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: str) -> None:
        self.space, self.objectives, self.seed = space, tuple(objectives), seed
        self.genes = Genes(space)
        self.known: dict[Packed, tuple[float, ...]] = {}
        self.pending: set[Packed] = set()
        self.asks = 0

    parents: tuple[Individual, ...] = ()  # it has no population

    def tell(self, evaluated: Iterable[Individual]) -> None:
        """Adds the values of archs, also of those that others proposed."""
        for individual in evaluated:
            self.known[individual.packed] = individual.values
            self.pending.discard(individual.packed)

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere, which `ask` then leaves out."""
        self.pending.update(packed for packed in taken if packed not in self.known)

    def elites(self, count: int) -> list[Individual]:
        """At most `count` of the non-dominated known archs, spread over their front."""
        return elites(within(self.objectives, self._individuals()), [o.direction for o in self.objectives], count)

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        self.asks += 1
        rng = np.random.default_rng([*f"{self.seed}/{self.asks}".encode()])
        taken = {*self.known, *self.pending}
        asked = self._picked(count, rng, taken) if len(self.known) > 2 else []
        taken.update(asked)
        if len(asked) < count and self.known:
            asked += bred(self.genes, self.objectives, self._individuals(), taken, count - len(asked), rng)
        elif len(asked) < count:
            fresh = dict.fromkeys(self.genes.pack_all(self.genes.random(10 * count, rng)))
            asked += [packed for packed in fresh if packed not in taken][: count - len(asked)]
        self.pending.update(asked)
        return asked

    def _individuals(self) -> list[Individual]:
        return [Individual(packed, values) for packed, values in self.known.items()]

    def _picked(self, count: int, rng: np.random.Generator, taken: set[Packed]) -> list[Packed]:
        genes_NG = self.genes.unpack_all(list(self.known))
        values_NM = np.array(list(self.known.values()))
        return propose(
            self.space, self.objectives, values_NM, taken, count,
            columns=optimistic_columns(self.space, self.objectives, genes_NG, values_NM, OPTIMISM),
            pick=pick_by_hypervolume,
            pending_BG=self.genes.unpack_all([p for p in self.pending if p not in self.known]),
            evaluations=INNER, members=CANDIDATES, rng=rng,
        )  # fmt: skip
