"""Our search on predicted objectives: an archive over the cost axes, and a surrogate that selects offspring to evaluate.

The cost axes (every objective but the quality, which is the one that has to be predicted) are divided into cells, and
every cell keeps the best arch found in it, also where it is dominated, because the limiting factor on plateaus is
diversity, not selection pressure. Each round crosses cells that are near each other, mutates a gene or two, and samples
some archs at random. It makes several times more offspring than it may evaluate, and selects by an estimate: an additive
model of the choices, fitted to the recent evaluations of this search, estimates how an offspring differs from its parents,
whose values are known; exact costs are computed instead of estimated, which is no evaluation. The evaluated offspring are
those with the largest expected improvement on the best quality of their cell and all cheaper ones. While a batch is
evaluated the next one is bred, from all that was known before.

On the published problem (OFA's Note10 table and predictor, 100,000 evaluations) finer cells, pure elitism on the
front, a hierarchy of islands and more mutations all did worse; docs/log.md has the figures.

Shape letters in this file: B archs, G genes, M objectives, C cells, A cost axes, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from ofa.compiled import compiled
from ofa.genes import Choices, Genes
from search.algorithms.engine import Engine
from search.errors import ProblemError
from search.front import nondominated
from search.selection import thinned

CELLS = {1: 180, 2: 40, 3: 16}  # cells along each axis, by the number of cost axes
CHILDREN = 4  # offspring bred for each evaluated one
NEAR = 3  # largest number of occupied cells between mates
MOST_CHANGES = 2  # mutated genes of an offspring
IMMIGRANTS = 0.02  # share of each round that is sampled at random
MEMORY = 12_500  # evaluations after which a row weighs 1/e in the model
INFEASIBLE = 1e9  # added to the quality of infeasible archs, so that any feasible one is better


def archive_search(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Runs the archive search with an engine's settings; returns the members' genes [N, G] and points [N, M]."""
    if len(engine.objectives) < 2:
        raise ProblemError("the archive needs two objectives or more; use `evolution` for one objective under limits")
    found = Archive(
        engine.genes,
        engine.evaluate,
        engine.costs,
        bounds_M=engine.bounds_M,
        pinned=engine.pinned,
        evaluations=engine.evaluations,
        members=engine.members,
        rng=engine.rng,
    )
    count = int(np.clip(engine.evaluations // 20, 50, 500))
    start_BG = engine.pin(engine.genes.encode(engine.start))
    return found.run(np.concatenate([start_BG, engine.first(min(count, engine.evaluations))]), engine.progress)


class Archive:
    """The search's state. Points are minimised; `quality` is the index of the objective that is not a cost axis."""

    def __init__(
        self,
        genes: Genes,
        evaluate: Callable[[np.ndarray], np.ndarray],
        costs: Callable[[np.ndarray], np.ndarray],
        *,
        bounds_M: np.ndarray,
        pinned: dict[int, int],
        evaluations: int,
        members: int,
        rng: np.random.Generator,
    ) -> None:
        """evaluate: points [B, M] of genes. costs: the points where they are exact, else NaN.

        bounds_M: the upper bound of a point in each objective, infinity for no limit.
        """
        self.genes, self.evaluate, self.costs, self.rng = genes, evaluate, costs, rng
        self.bounds_M, self.pinned, self.left, self.members = bounds_M, pinned, evaluations, members
        self.sizes_G = genes.sizes_G.astype(np.int8)
        self.batch = int(np.clip(evaluations // 200, 20, 1000))
        self.surrogate = Surrogate(genes, len(bounds_M))
        self.seen = Seen(rng.integers(1, 2**44, len(self.sizes_G)))

    def run(self, first_BG: np.ndarray, progress: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
        """Runs the search; returns the members' genes and points, none if no arch was found within the bounds."""
        first_BG = self.pin(first_BG)
        first_BG = first_BG[self.seen.new(first_BG)[0]][: self.left]
        exact = np.isfinite(self.costs(first_BG[:1])[0])
        self.quality = int(np.argmin(exact))  # the first objective that must be predicted
        self.exact_M = exact
        self._start(first_BG)
        total, fruitless = self.left + len(first_BG), 0
        # While one batch is evaluated the next is bred. Products of this size are not faster on more threads.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(1) as evaluator:
            done_BG, done_BM = first_BG[:0], first_BG[:0]
            asked_BG = self._asked(min(self.batch, self.left))
            while len(done_BG) or len(asked_BG) or (self.left > 0 and fruitless < 20):
                self.left -= len(asked_BG)
                fruitless = 0 if len(asked_BG) else fruitless + 1
                evaluation = evaluator.submit(self.evaluate, asked_BG) if len(asked_BG) else None
                if len(done_BG):
                    self._keep(done_BG, done_BM)
                    progress(total - self.left - len(asked_BG))
                next_BG = self._asked(min(self.batch, self.left)) if self.left > 0 else asked_BG[:0]
                done_BG, done_BM = asked_BG, evaluation.result() if evaluation else done_BM[:0]
                asked_BG = next_BG
        feasible = (self.front_points <= self.bounds_M).all(axis=1)
        kept = np.flatnonzero(feasible)
        kept = kept[thinned(self.front_points[kept], self.members)]
        return self.front_genes[kept], self.front_points[kept]

    def pin(self, genes_BG: np.ndarray) -> np.ndarray:
        """The canonical genes, with the pinned choices."""
        genes_BG = genes_BG.astype(np.int8)
        for gene, choice in self.pinned.items():
            genes_BG[:, gene] = choice
        return self.genes.canonical(genes_BG)

    def _start(self, first_BG: np.ndarray) -> None:
        points_BM = self.evaluate(first_BG)
        self.seen.add(self.seen.new(first_BG)[1])
        self.left -= len(first_BG)
        self.axes = np.flatnonzero(np.arange(points_BM.shape[1]) != self.quality)
        per_axis = CELLS.get(len(self.axes), 8)
        self.shape = (per_axis,) * len(self.axes)
        self.low_A = points_BM[:, self.axes].min(axis=0)
        span_A = np.ptp(points_BM[:, self.axes], axis=0)
        self.per_unit_A = per_axis / np.where(span_A > 0, span_A, 1.0)
        self.strides_A = per_axis ** np.arange(len(self.axes) - 1, -1, -1)
        cells = per_axis ** len(self.axes)
        self.cell_genes = np.zeros((cells, first_BG.shape[1]), dtype=np.int8)
        self.cell_points = np.zeros((cells, points_BM.shape[1]))
        self.cell_score = np.full(cells, np.inf)
        self.front_genes, self.front_points = first_BG[:0], points_BM[:0]
        self._keep(first_BG, points_BM)

    def _keep(self, genes_BG: np.ndarray, points_BM: np.ndarray) -> None:
        """Updates the best of each cell, the non-dominated set and the surrogate."""
        score_B, cell_B = self._score(points_BM), self._cell(points_BM)
        order = np.lexsort((score_B, cell_B))
        best = order[np.concatenate(([True], cell_B[order][1:] != cell_B[order][:-1]))]
        best = best[score_B[best] < self.cell_score[cell_B[best]]]
        cells = cell_B[best]
        self.cell_genes[cells], self.cell_points[cells] = genes_BG[best], points_BM[best]
        self.cell_score[cells] = score_B[best]
        self.surrogate.learn(genes_BG, points_BM)

        kept = np.flatnonzero(score_B < INFEASIBLE)
        if len(self.axes) > 1:  # comparing all pairs is expensive there: only new with old, and new with new
            kept = kept[~(self.front_points[:, None] <= points_BM[kept]).all(axis=2).any(axis=0)]
            kept = kept[nondominated(points_BM[kept])]
            stays = ~(points_BM[kept][:, None] <= self.front_points).all(axis=2).any(axis=0)
            self.front_genes, self.front_points = self.front_genes[stays], self.front_points[stays]
        points = np.concatenate([self.front_points, points_BM[kept]])
        genes = np.concatenate([self.front_genes, genes_BG[kept]])
        if len(self.axes) == 1:
            order = np.lexsort((points[:, 1], points[:, 0]))
            y = points[order, 1]
            first = order[y < np.concatenate(([np.inf], np.minimum.accumulate(y)[:-1]))]
        else:
            _, first = np.unique(points, axis=0, return_index=True)
        most = (20 if len(self.axes) == 1 else 4) * self.members
        if len(first) > most:
            first = first[thinned(points[first], most // 2)]
        self.front_genes, self.front_points = genes[first], points[first]

    def _asked(self, count: int) -> np.ndarray:
        """The offspring to evaluate next, at most `count`, none of them evaluated before."""
        live = np.flatnonzero(np.isfinite(self.cell_score))
        if len(self.shape) > 1:  # neighbours have a similar sum of costs
            place = np.stack(np.unravel_index(live, self.shape), axis=1)
            live = live[np.argsort(place.sum(axis=1) + self.rng.random(len(live)), kind="stable")]
        pool_BG, pool_BM = self.cell_genes[live], self.cell_points[live]
        bred, new = self.rng, int(count * IMMIGRANTS)
        mother = bred.integers(0, len(live), count * CHILDREN)
        father = np.clip(mother + bred.integers(-NEAR, NEAR + 1, len(mother)), 0, len(live) - 1)
        child_BG = np.empty((len(mother), pool_BG.shape[1]), dtype=np.int8)
        share_B = np.empty(len(mother))  # share of the genes that are the father's
        bits_BG = np.frombuffer(bred.bytes(child_BG.size), dtype=np.int8).reshape(child_BG.shape)
        _crossed(pool_BG, mother, father, bits_BG, child_BG, share_B)
        changes = bred.integers(1, MOST_CHANGES + 1, len(mother))
        row, gene = np.repeat(np.arange(len(mother)), changes), bred.integers(0, len(self.sizes_G), changes.sum())
        child_BG[row, gene] = (bred.random(len(row)) * self.sizes_G[gene]).astype(np.int8)
        child_BG[:new] = bred.integers(0, self.sizes_G, (new, len(self.sizes_G)), dtype=np.int8)
        child_BG = self.pin(child_BG)
        chosen, key_B = self.seen.new(child_BG)
        child_BG = child_BG[chosen]
        gain_B = self._expected_gain(child_BG, pool_BG, pool_BM, mother[chosen], father[chosen], share_B[chosen])
        gain_B[chosen < new] = np.inf
        if len(child_BG) > count:
            best = np.argpartition(-gain_B, count - 1)[:count]
            child_BG, key_B = child_BG[best], key_B[best]
        self.seen.add(key_B)
        return child_BG

    def _expected_gain(
        self,
        child_BG: np.ndarray,
        pool_BG: np.ndarray,
        pool_BM: np.ndarray,
        mother: np.ndarray,
        father: np.ndarray,
        share_B: np.ndarray,
    ) -> np.ndarray:
        """The expected improvement of each offspring on the best quality of its cell and of all cheaper ones."""
        exact_BM = self.costs(child_BG) if self.exact_M.any() else np.empty((len(child_BG), len(self.exact_M)))
        best = self.cell_score.reshape(self.shape)
        for axis in range(len(self.shape)):
            best = np.minimum.accumulate(best, axis=axis)
        best_C = best.reshape(-1)
        best_C[np.isinf(best_C)] = self.cell_score[np.isfinite(self.cell_score)].max()
        residual_PM = pool_BM - self.surrogate.predict(pool_BG)
        points_BM = self.surrogate.predict(child_BG)
        _expected(residual_PM, mother, father, share_B, self.exact_M, exact_BM, points_BM)
        return np.asarray(best_C[self._cell(points_BM)] - self._score(points_BM))

    def _score(self, points_BM: np.ndarray) -> np.ndarray:
        """The quality within the bounds, else the amount of the violation."""
        if not np.isfinite(self.bounds_M).any():
            return points_BM[:, self.quality]
        beyond_B = np.maximum(points_BM - self.bounds_M, 0).sum(axis=1)
        return np.where(beyond_B > 0, INFEASIBLE + beyond_B, points_BM[:, self.quality])

    def _cell(self, points_BM: np.ndarray) -> np.ndarray:
        cell_B = np.empty(len(points_BM), dtype=np.int64)
        _fill_cells(points_BM, self.axes, self.low_A, self.per_unit_A, self.shape[0] - 1, self.strides_A, cell_B)
        return cell_B


class Seen:
    """A set of archs, each identified by its key: the sum of its genes times random numbers of 44 bits."""

    def __init__(self, key_G: np.ndarray) -> None:
        self.key_G, self.count = key_G, 0
        self.slots = np.full(2**14, -1)  # keys are not negative

    def new(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The indices and keys of archs that were not added yet, in order and without duplicates."""
        chosen, key_B = np.empty((2, len(genes_BG)), dtype=np.int64)
        here = np.full(_power_of_two(2 * len(genes_BG)), -1)
        count = _find_new(genes_BG, self.key_G, self.slots, here, chosen, key_B)
        return chosen[:count], key_B[:count]

    def add(self, key_B: np.ndarray) -> None:
        """Adds archs by their keys, which must be new."""
        self.count += len(key_B)
        if 2 * self.count > len(self.slots):
            known = self.slots[self.slots >= 0]
            self.slots = np.full(_power_of_two(4 * self.count), -1)
            _insert(known, self.slots)
        _insert(key_B, self.slots)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


class Surrogate:
    """A ridge regression of points on the choices of an arch; older rows weigh less. It is a sum of table entries."""

    def __init__(self, genes: Genes, objectives: int, *, ridge: float = 1.0, refit_every: int = 4) -> None:
        self.ridge, self.refit_every = ridge, refit_every
        self.choices = Choices(genes, genes.unslotted)
        self.gram_FF = np.zeros((self.choices.values, self.choices.values))
        self.moment_FM = np.zeros((self.choices.values, objectives))
        self.weight_FM = np.zeros((self.choices.values, objectives))
        self.mean_M: np.ndarray | None = None
        self.rounds = 0

    def learn(self, genes_BG: np.ndarray, points_BM: np.ndarray) -> None:
        """Learns rows [B]; earlier ones weigh a little less from now on."""
        if self.mean_M is None:
            self.mean_M = points_BM.mean(axis=0)
        fade = np.exp(-len(genes_BG) / MEMORY)
        self.gram_FF *= fade
        self.moment_FM *= fade
        _count(self.choices.places(genes_BG), points_BM - self.mean_M, self.gram_FF, self.moment_FM)
        if self.rounds % self.refit_every == 0:
            gram_FF = self.gram_FF + self.ridge * np.eye(len(self.gram_FF))
            factor = cho_factor(gram_FF, lower=True, overwrite_a=True, check_finite=False)
            self.weight_FM = np.ascontiguousarray(cho_solve(factor, self.moment_FM, check_finite=False))
        self.rounds += 1

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """Estimates of the points [B, M]."""
        assert self.mean_M is not None
        points_BM = np.empty((len(genes_BG), len(self.mean_M)))
        _sums(self.choices.places(genes_BG), self.weight_FM, self.mean_M, points_BM)
        return points_BM


@compiled
def _fill_cells(points_BM, axes, low_A, per_unit_A, last, stride_A, cell_B):  # type: ignore[no-untyped-def]
    """The cell of each point; what is beyond the cells along an axis is in the first or last of them."""
    for b in range(len(cell_B)):
        cell = np.int64(0)
        for a in range(len(axes)):
            place = np.int64((points_BM[b, axes[a]] - low_A[a]) * per_unit_A[a])
            cell += min(max(place, 0), last) * stride_A[a]
        cell_B[b] = cell


@compiled
def _find_new(genes_BG, key_G, slots, here, chosen, key_B):  # type: ignore[no-untyped-def]
    """Fills `Seen.new`; returns their number. here: an empty table for the keys of these archs.

    A key is looked up from the slot of its last bits on; an empty slot, -1, ends the search.
    """
    count = 0
    for b in range(genes_BG.shape[0]):
        key = np.int64(0)
        for g in range(genes_BG.shape[1]):
            key += key_G[g] * genes_BG[b, g]
        at = key & (len(slots) - 1)
        while slots[at] != key and slots[at] >= 0:
            at = (at + 1) & (len(slots) - 1)
        if slots[at] == key:
            continue
        at = key & (len(here) - 1)
        while here[at] != key and here[at] >= 0:
            at = (at + 1) & (len(here) - 1)
        if here[at] == key:
            continue
        here[at] = key
        chosen[count], key_B[count] = b, key
        count += 1
    return count


@compiled
def _insert(key_B, slots):  # type: ignore[no-untyped-def]
    """Inserts keys that are not in the table."""
    for key in key_B:
        at = key & (len(slots) - 1)
        while slots[at] >= 0:
            at = (at + 1) & (len(slots) - 1)
        slots[at] = key


@compiled
def _crossed(pool_BG, mother, father, bits_BG, child_BG, share_B):  # type: ignore[no-untyped-def]
    """Offspring that have the father's gene where a random byte is negative, and the father's share of each."""
    for b in range(len(mother)):
        swaps = 0
        for g in range(pool_BG.shape[1]):
            from_father = bits_BG[b, g] < 0
            child_BG[b, g] = pool_BG[father[b] if from_father else mother[b], g]
            swaps += from_father
        share_B[b] = swaps / pool_BG.shape[1]


@compiled
def _expected(residual_PM, mother, father, share_B, exact_M, exact_BM, points_BM):  # type: ignore[no-untyped-def]
    """Adds to the estimates of offspring what the estimates of their parents lack; exact points replace estimates."""
    for b in range(len(mother)):
        for m in range(len(exact_M)):
            if exact_M[m]:
                points_BM[b, m] = exact_BM[b, m]
            else:
                one = residual_PM[mother[b], m]
                points_BM[b, m] += one + share_B[b] * (residual_PM[father[b], m] - one)


@compiled
def _count(places_BX, points_BM, gram_FF, moment_FM):  # type: ignore[no-untyped-def]
    """Adds to the lower half of the sums of products of features with each other, and to those with points."""
    for b in range(len(places_BX)):
        for i in range(places_BX.shape[1]):
            f = places_BX[b, i]  # features are in the order of their position
            for j in range(i + 1):
                gram_FF[f, places_BX[b, j]] += 1
            for m in range(points_BM.shape[1]):
                moment_FM[f, m] += points_BM[b, m]


@compiled
def _sums(places_BX, weight_FM, mean_M, points_BM):  # type: ignore[no-untyped-def]
    """The sum of the weights of the features of each row, plus the mean."""
    for b in range(len(places_BX)):
        for m in range(len(mean_M)):
            points_BM[b, m] = mean_M[m]
        for i in range(places_BX.shape[1]):
            f = places_BX[b, i]
            for m in range(len(mean_M)):
                points_BM[b, m] += weight_FM[f, m]
