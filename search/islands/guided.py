"""Search guided by a predictor: fits it to the observations, searches the predictions, measures the best, and repeats.

The method is that of LINAS (DyNAS-T, arXiv:2205.10358), with these differences: genes without effect are no features; exact
costs are computed, not learned; a Gaussian process gives the uncertainty; and a batch is selected for the hypervolume that
it is expected to add together, from archs that are not measured yet, instead of taken from an inner population. A part of
each later batch is bred from the front of the measured archs.

Shape letters in this file: B archs, G genes, M objectives, N measured archs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search import predicted
from search.errors import InfeasibleError
from search.islands.breeder import Individual, Packed, elites, within
from search.islands.expected import pick_by_expectation
from search.islands.proposal import bred
from search.objective import Objective, violations
from search.predict.posterior import Posterior, posteriors

ENUMERATED = 16_000  # combinations of choices of a space whose archs are all predicted
INNER = 8000  # archs that the predicted search evaluates for a batch
MEMBERS = 300  # members of its front
BRED = 5  # of so many archs of a batch one is bred, which corrects what the model wrongly expects to be bad,
BRED_FROM = 100  # once so many archs are measured; before, the model is the better choice
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
        share = count // BRED if len(self.known) >= BRED_FROM else 0
        asked = self._picked(count - share, rng, taken) if len(self.known) > 2 else []
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
        beliefs = posteriors(self.space, self.objectives, genes_NG, values_NM)
        pool_BG = self._pool(beliefs, rng)
        packed = self.genes.pack_all(pool_BG)
        new = [i for i, p in enumerate(packed) if p not in taken]
        pending_BG = self.genes.unpack_all([p for p in self.pending if p not in self.known])
        picked = pick_by_expectation(self.objectives, beliefs, pool_BG[new], pending_BG, values_NM, count)
        return [packed[new[i]] for i in picked]

    def _pool(self, beliefs: Sequence[Posterior], rng: np.random.Generator) -> np.ndarray:
        """The genes of archs to choose from: of a small space all, else those that a search of optimistic values evaluates.

        None of them is beyond the bounds of the objectives by its optimistic values.
        """

        def optimistic(genes_BG: np.ndarray) -> np.ndarray:
            values_MB = []
            for belief in beliefs:
                mean_B, spread_B = belief.moments(genes_BG)
                values_MB.append(belief.value(mean_B + OPTIMISM * belief.better() * spread_B))
            return np.stack(values_MB, axis=1)

        sizes = self.genes.sizes_G.tolist()
        if math.prod(sizes) <= ENUMERATED:
            every_BG = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
            pool_BG = np.unique(self.genes.canonical(every_BG), axis=0)
            if all(objective.bound is None for objective in self.objectives):
                return pool_BG
            return np.asarray(pool_BG[violations(self.objectives, optimistic(pool_BG)) <= 0])
        parts: list[np.ndarray] = []

        def evaluate(genes_BG: np.ndarray) -> np.ndarray:
            values_BM = optimistic(genes_BG)
            parts.append(genes_BG[violations(self.objectives, values_BM) <= 0].astype(np.int64))
            return values_BM

        seed = int(rng.integers(2**31))
        with suppress(InfeasibleError):  # all are beyond the bounds: the pool is empty
            predicted.search(self.space, self.objectives, evaluate, evaluations=INNER, members=MEMBERS, seed=seed)
        return np.unique(np.concatenate(parts), axis=0)
