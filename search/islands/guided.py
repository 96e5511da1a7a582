"""Search guided by a predictor: fits it to the observations, searches the predictions, measures the best, and repeats.

The method is that of LINAS (DyNAS-T, arXiv:2205.10358), with these differences: genes without effect are no features; exact
costs are computed, not learned; a Gaussian process gives the uncertainty; and a batch is selected for the
hypervolume that it adds together, from archs that are not measured yet, instead of taken from an inner population.
Shape letters in this file: B archs, G genes, M objectives, N measured archs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search import predicted
from search.costs.exact import CostTable
from search.front import hypervolume, nondominated
from search.islands.breeder import Breeder, Individual, Packed, elites
from search.objective import Objective, minimised
from search.predict.predictor import architecture, totals
from search.predict.terms import Learned

INNER = 8000  # archs that the predicted search evaluates for a batch
CANDIDATES = 300  # members of its front, from which a batch is selected
OPTIMISM = 1.0  # posterior standard deviations by which an unmeasured arch may be better than predicted
MARGIN = 0.1  # distance of the reference point beyond the front, as a share of the front's span

Column = Callable[[np.ndarray], np.ndarray]  # genes [B, G] to the values [B] of one objective


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
        pool = [Individual(packed, values) for packed, values in self.known.items()]
        return elites(pool, [o.direction for o in self.objectives], count)

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        self.asks += 1
        rng = np.random.default_rng([*f"{self.seed}/{self.asks}".encode()])
        taken = {*self.known, *self.pending}
        asked = self._picked(count, rng, taken) if len(self.known) > 2 else []
        taken.update(asked)
        if len(asked) < count:
            breeder = Breeder(self.genes, [o.direction for o in self.objectives], rng)
            if self.known:
                breeder.adopt(self.elites(50))
                asked += breeder.children(count - len(asked), taken)
            else:
                fresh = dict.fromkeys(self.genes.pack_all(self.genes.random(10 * count, rng)))
                asked += [packed for packed in fresh if packed not in taken][: count - len(asked)]
        self.pending.update(asked)
        return asked

    def _picked(self, count: int, rng: np.random.Generator, taken: set[Packed]) -> list[Packed]:
        genes_NG = self.genes.unpack_all(list(self.known))
        values_NM = np.array(list(self.known.values()))
        columns = [self._column(m, genes_NG, values_NM[:, m]) for m in range(len(self.objectives))]

        def evaluate(genes_BG: np.ndarray) -> np.ndarray:
            return np.stack([column(genes_BG) for column in columns], axis=1)

        found = predicted.search(
            self.space, self.objectives, evaluate, evaluations=INNER, members=CANDIDATES, seed=int(rng.integers(2**31))
        )
        packed = self.genes.pack_all(self.genes.encode(found.archs))
        new = [i for i, p in enumerate(packed) if p not in taken]
        pending_BG = self.genes.unpack_all([p for p in self.pending if p not in self.known])
        there = [values_NM, evaluate(pending_BG)] if len(pending_BG) else [values_NM]
        points, there_points = (
            minimised(self.objectives, found.values[new]),
            minimised(self.objectives, np.concatenate(there)),
        )
        return [packed[new[i]] for i in hypervolume_greedy(points, there_points, count)]

    def _column(self, m: int, genes_NG: np.ndarray, values_N: np.ndarray) -> Column:
        """The function that predicts the values of an objective."""
        field = self.objectives[m].field
        if field in ("macs", "params") and (exact := exact_cost(self.space, field, genes_NG, values_N)) is not None:
            return exact
        top1 = field == "top1"
        y_N = np.log(np.maximum(1 - values_N, 5e-4)) if top1 else values_N
        features = architecture if top1 else totals
        learned = Learned(self.genes, features, genes_NG, y_N)
        # the model of top-1 predicts an error
        better = 1.0 if self.objectives[m].direction == "maximize" and not top1 else -1.0

        def column(genes_BG: np.ndarray) -> np.ndarray:
            y_B = learned.predict(genes_BG, better * OPTIMISM)
            return 1 - np.exp(y_B) if top1 else y_B

        return column


def exact_cost(space: Space, field: str, genes_NG: np.ndarray, values_N: np.ndarray) -> Column | None:
    """A function that computes exactly these MACs or params; None if no number of classes gives them."""
    which = ("macs", "params").index(field)
    one, two = (CostTable(space, classes)(genes_NG[:1])[which][0] for classes in (1, 2))
    classes = 1 + (values_N[0] - one) / (two - one)
    if classes < 1 or classes != int(classes):
        return None
    costs = CostTable(space, int(classes))
    if not np.array_equal(costs(genes_NG)[which], values_N):
        return None
    return lambda genes_BG: costs(genes_BG)[which].astype(np.float64)


def hypervolume_greedy(points_BM: np.ndarray, there_NM: np.ndarray, count: int) -> list[int]:
    """Indices of the points to add to the present ones, each for the most hypervolume; less is better.

    The reference point is a tenth of their front's span beyond it. A point's gain never grows while others are added, so
    only the most promising are computed anew. Points that add nothing are not selected.
    """
    if not len(points_BM):
        return []
    there_NM = np.unique(there_NM[nondominated(there_NM)], axis=0)
    both = np.concatenate([there_NM, points_BM])
    low, high = both.min(axis=0), there_NM.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    reference = np.full(points_BM.shape[1], 1 + MARGIN)
    points_BM, there_NM = (points_BM - low) / span, (there_NM - low) / span
    volume = hypervolume(there_NM, reference)
    bound = dict.fromkeys(range(len(points_BM)), np.inf)
    picked: list[int] = []
    while bound and len(picked) < count:
        fresh: set[int] = set()
        while True:
            best = max(bound, key=lambda i: (bound[i], -i))
            if best in fresh or bound[best] <= 0:
                break
            bound[best] = hypervolume(np.concatenate([there_NM, points_BM[best : best + 1]]), reference) - volume
            fresh.add(best)
        if bound.pop(best) <= 1e-12:
            break
        picked.append(best)
        there_NM = np.concatenate([there_NM, points_BM[best : best + 1]])
        there_NM = there_NM[nondominated(there_NM)]
        volume = hypervolume(there_NM, reference)
    return picked
