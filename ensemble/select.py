"""Which subsets of a front are worth running together.

The cost of an ensemble is the largest of its members' costs (`max`, they run in parallel) or their sum (`sum`, one
after the other); source: OFA³, doi:10.1109/IJCNN60899.2024.10650685. Chosen on a split that trained no member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ensemble.errors import SelectionError
from ensemble.score import Scorer

CostRule = Literal["max", "sum"]
ALGORITHMS = ("default", "greedy", "exhaustive")

_EXHAUSTIVE_MEMBERS = 13  # 8,191 subsets; with more members `default` searches
_MOST_EXHAUSTIVE = 22
_PART = 2**14  # subsets scored at a time
_BUDGET = 1_000_000  # subsets that `default` may look at: seconds on two cores, for 100 members and 50,000 images
_NARROW = 2  # subsets kept at each level of cost, at first


@dataclass(frozen=True, slots=True)
class Chosen:
    """A subset that no other beats in both cost and accuracy. weights: of its members' votes; () is all alike."""

    members: tuple[int, ...]
    cost: float
    correct: int  # images of the split it was chosen on
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Which subsets are allowed: at most `size` members, at most `cost`, and these members in all of them."""

    size: int | None = None
    cost: float | None = None
    must_have: tuple[int, ...] = field(default=())


NO_LIMITS = Limits()


def select(
    scorer: Scorer,
    cost_M: np.ndarray,
    rule: CostRule,
    algorithm: str = "default",
    progress: Callable[[int], None] = lambda scored: None,
    limits: Limits = NO_LIMITS,
) -> list[Chosen]:
    """The best subsets found, cheapest first, each more accurate than all cheaper ones.

    algorithm: `exhaustive` scores every subset, so its front is proven; `greedy` adds the member that helps most, within
    every limit on the cost; `default` is exhaustive up to 13 members, and beyond a local search at every level of cost.
    A function of its inputs: nothing is drawn at random, and no clock is read.
    """
    if algorithm not in ALGORITHMS:
        raise SelectionError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    search = Search(scorer, np.asarray(cost_M, dtype=np.float64), rule, progress, limits)
    members = len(search.cost_M)
    if algorithm == "exhaustive" or (algorithm == "default" and members <= _EXHAUSTIVE_MEMBERS):
        if members > _MOST_EXHAUSTIVE:
            raise SelectionError(f"{members} members have too many subsets to score all; at most {_MOST_EXHAUSTIVE}")
        for start in range(1, 2**members, _PART):
            numbers = np.arange(start, min(start + _PART, 2**members))
            search.score((numbers[:, None] >> np.arange(members)) & 1 == 1)
    else:
        search.score(search.seeds())
        _greedy(search)
        if algorithm == "default":
            _local_search(search)
    if not search.front:
        raise SelectionError("no subset keeps to the limits; raise the most members or the highest cost")
    return search.front


def weighted(scorer: Scorer, chosen: Iterable[Chosen], rounds: int = 4) -> list[Chosen]:
    """The same subsets with weighted votes, where weights name more images right.

    Starts from equal weights and tries, member by member, 1/2, 2/3, 3/2 and 2 times its weight; the best of all is taken
    while it helps, for at most `rounds` rounds.
    """
    found = []
    for subset in chosen:
        members = list(subset.members)
        weights, best = np.ones(len(members)), subset.correct
        for _ in range(rounds if len(members) > 1 else 0):
            tried = np.repeat(weights[None], 4 * len(members), axis=0)
            tried[np.arange(len(tried)), np.arange(len(tried)) // 4] *= np.tile([0.5, 2 / 3, 1.5, 2.0], len(members))
            full = np.zeros((len(tried), scorer.members))
            full[:, members] = tried
            correct = scorer.correct_weighted(full)
            if correct.max() <= best:
                break
            best, weights = int(correct.max()), tried[correct.argmax()]
        share = tuple((weights / weights.sum()).tolist()) if best > subset.correct else ()
        found.append(Chosen(subset.members, subset.cost, best, share))
    return found


class Search:
    """Scores what is asked and keeps the front of everything seen that keeps to the limits."""

    def __init__(
        self, scorer: Scorer, cost_M: np.ndarray, rule: CostRule, progress: Callable[[int], None], limits: Limits
    ) -> None:
        self.scorer, self.cost_M, self.rule, self.progress, self.limits = scorer, cost_M, rule, progress, limits
        self.must_M = np.isin(np.arange(len(cost_M)), limits.must_have)
        self.scored = 0
        self.front: list[Chosen] = []

    def seeds(self) -> np.ndarray:
        """What every search starts from: the members that must be there, alone and with each other one."""
        masks = np.eye(len(self.cost_M), dtype=bool) | self.must_M
        return np.unique(np.concatenate([masks, self.must_M[None]])[: len(masks) + self.must_M.any()], axis=0)

    def levels(self) -> np.ndarray:
        """Costs up to which the best subset is looked for: the members' own, and for `sum` what lies beyond them."""
        singles = np.unique(self.cost_M)
        if self.rule == "max":
            return singles
        return np.geomspace(singles[0], max(self.cost_M.sum(), singles[0]), 4 * len(singles)) * (1 + 1e-9)

    def costs(self, masks_SM: np.ndarray) -> np.ndarray:
        each = np.where(masks_SM, self.cost_M, 0.0)
        return each.max(axis=1) if self.rule == "max" else each.sum(axis=1)

    def allowed(self, masks_SM: np.ndarray) -> np.ndarray:
        """Which subsets keep to the limits: bool [S]."""
        fine = np.logical_and(masks_SM.any(axis=1), (masks_SM | ~self.must_M).all(axis=1))
        if self.limits.size is not None:
            fine &= masks_SM.sum(axis=1) <= self.limits.size
        if self.limits.cost is not None:
            fine &= self.costs(masks_SM) <= self.limits.cost * (1 + 1e-12)
        return fine

    def score(self, masks_SM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The allowed ones of these subsets, and how many images each names right."""
        masks_SM = masks_SM[self.allowed(masks_SM)]
        return masks_SM, self._seen(masks_SM, self.scorer.correct(masks_SM))

    def neighbours(self, masks_SM: np.ndarray, floors: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, ...]:
        """Masks, costs and counts of the subsets that differ from one of these in one member, if allowed and good enough.

        floors: from costs to the least count that is good enough; what the front lacks is kept in it either way.
        """
        correct_SM = self.scorer.correct_changed(masks_SM)
        size_SM = masks_SM.sum(axis=1, keepdims=True) + np.where(masks_SM, -1, 1)
        costs_SM = self._changed_costs(masks_SM)
        fine = (size_SM > 0) & ~(masks_SM & self.must_M) & (masks_SM | ~self.must_M).all(axis=1, keepdims=True)
        if self.limits.size is not None:
            fine &= size_SM <= self.limits.size
        if self.limits.cost is not None:
            fine &= costs_SM <= self.limits.cost * (1 + 1e-12)
        self.scored += int(fine.sum())
        self.progress(self.scored)
        fine &= (correct_SM >= floors(costs_SM)) | (correct_SM > self._known(costs_SM))
        of, changed = np.nonzero(fine)
        masks = masks_SM[of]
        masks[np.arange(len(of)), changed] ^= True
        self._keep(masks, correct_SM[fine])
        return masks, costs_SM[fine], correct_SM[fine]

    def _changed_costs(self, masks_SM: np.ndarray) -> np.ndarray:
        """Costs of every subset with one member added or taken out: [S, M]; 0 for nobody."""
        each = np.where(masks_SM, self.cost_M, 0.0)
        if self.rule == "sum":
            return each.sum(axis=1, keepdims=True) + np.where(masks_SM, -self.cost_M, self.cost_M)
        highest = np.sort(each, axis=1)[:, -2:] if each.shape[1] > 1 else np.column_stack([np.zeros(len(each)), each])
        last = masks_SM & (np.arange(each.shape[1]) == each.argmax(axis=1)[:, None])
        without = np.where(last, highest[:, :1], highest[:, 1:])
        return np.where(masks_SM, without, np.maximum(highest[:, 1:], self.cost_M))

    def _known(self, costs: np.ndarray) -> np.ndarray:
        """The front's count at each cost; -1 where it has none so cheap."""
        known = np.array([-1, *(c.correct for c in self.front)])
        found: np.ndarray = known[np.searchsorted([c.cost for c in self.front], costs, side="right")]
        return found

    def _seen(self, masks_SM: np.ndarray, correct_S: np.ndarray) -> np.ndarray:
        """Notes what was scored."""
        self.scored += len(masks_SM)
        self.progress(self.scored)
        self._keep(masks_SM, correct_S)
        return correct_S

    def _keep(self, masks_SM: np.ndarray, correct_S: np.ndarray) -> None:
        """Keeps of these subsets what belongs on the front; of equals the smaller, then the first by members."""
        costs = self.costs(masks_SM)
        better = np.flatnonzero(correct_S >= self._known(costs))
        order = better[np.lexsort((masks_SM[better].sum(axis=1), -correct_S[better], costs[better]))]
        best, rows = -1, []
        for s in order.tolist():
            if correct_S[s] > best:
                best = int(correct_S[s])
                rows.append(Chosen(tuple(np.flatnonzero(masks_SM[s]).tolist()), float(costs[s]), best))
        merged = sorted([*self.front, *rows], key=lambda c: (c.cost, -c.correct, len(c.members), c.members))
        self.front = []
        for row in merged:
            if not self.front or row.correct > self.front[-1].correct:
                self.front.append(row)


def _greedy(search: Search) -> None:
    """Up to every level of cost: start from what must be there and add what helps most, while it helps.

    Source: Ensemble selection from libraries of models, doi:10.1145/1015330.1015432, without repeats.
    """
    levels = search.levels()
    masks = np.repeat(search.must_M[None], len(levels), axis=0)
    best = np.full(len(levels), -1)
    active = np.arange(len(levels))
    while len(active):
        unique, which = np.unique(masks[active], axis=0, return_inverse=True)
        grown = unique[:, None] | np.eye(len(search.cost_M), dtype=bool)
        flat = grown.reshape(-1, grown.shape[2])
        fine = search.allowed(flat) & ~(flat == np.repeat(unique, grown.shape[1], axis=0)).all(axis=1)
        costs = np.where(fine, search.costs(flat), np.inf).reshape(grown.shape[:2])
        correct = search.scorer.correct_changed(unique)
        search._seen(flat[fine], correct.ravel()[fine])
        going = []
        for level, row in zip(active.tolist(), which.ravel().tolist(), strict=True):
            score = np.where(costs[row] <= levels[level] * (1 + 1e-12), correct[row], -1)
            if score.max() > best[level]:
                best[level], masks[level] = score.max(), grown[row, score.argmax()]
                going.append(level)
        active = np.array(going, dtype=int)


def _local_search(search: Search) -> None:
    """At every level of cost keeps the best subsets and tries every change and exchange of one member, until none is new.

    With `max` the best subset up to a cost is one of the members up to it, so each level is a problem of its own, and
    what is found at one starts the next. When nothing is new, twice as many are kept, while the budget lasts.
    """
    beam = _Beam(search.levels() * (1 + 1e-12), _NARROW)
    masks, correct = search.score(np.concatenate([search.seeds(), _masks(search)]))
    beam.offer(masks, search.costs(masks), correct)
    expanded: set[bytes] = set()
    budget = min(_BUDGET, 2 ** (len(search.cost_M) + 1))
    while search.scored < budget:
        fresh = np.array([mask for mask in beam.masks if mask.tobytes() not in expanded][:64])
        if not len(fresh):
            if not beam.full:  # nothing was ever left out
                return
            beam.width, beam.full = 2 * beam.width, False
            expanded.clear()  # what was too poor for the narrow beam may be good enough for this one
            continue
        expanded.update(mask.tobytes() for mask in fresh)
        without = [mask ^ (np.arange(len(mask)) == m) for mask in fresh for m in np.flatnonzero(mask & ~search.must_M)]
        bases = np.unique(np.concatenate([fresh, np.array(without).reshape(-1, fresh.shape[1])]), axis=0)
        for start in range(0, len(bases), 256):
            beam.offer(*search.neighbours(bases[start : start + 256], beam.floors))


class _Beam:
    """The `width` best subsets at each level of cost; of equals the smaller, then the first."""

    def __init__(self, levels: np.ndarray, width: int) -> None:
        self.levels, self.width = levels, width
        self.full = False  # whether any was ever left out
        self.masks = np.empty((0, 0), dtype=bool)
        self.costs, self.correct = np.empty(0), np.empty(0, dtype=np.int64)

    def floors(self, costs: np.ndarray) -> np.ndarray:
        """The least count worth offering at each cost."""
        level = np.searchsorted(self.levels, self.costs)
        worst = np.full(len(self.levels) + 1, -1)
        many = np.bincount(level, minlength=len(worst)) >= self.width
        lowest = np.full(len(worst), np.iinfo(np.int64).max)
        np.minimum.at(lowest, level, self.correct)
        worst[many] = lowest[many]
        self.full |= bool(many.any())
        found: np.ndarray = worst[np.searchsorted(self.levels, costs)]
        return found

    def offer(self, masks: np.ndarray, costs: np.ndarray, correct: np.ndarray) -> None:
        masks = np.concatenate([self.masks.reshape(-1, masks.shape[1]), masks])
        costs, correct = np.concatenate([self.costs, costs]), np.concatenate([self.correct, correct])
        _, kept = np.unique(np.packbits(masks, axis=1), axis=0, return_index=True)
        masks, costs, correct = masks[kept], costs[kept], correct[kept]
        level = np.searchsorted(self.levels, costs)
        order = np.lexsort((masks.sum(axis=1), -correct, level))
        first = np.searchsorted(level[order], level[order])
        best = order[np.arange(len(order)) - first < self.width]
        self.masks, self.costs, self.correct = masks[best], costs[best], correct[best]


def _masks(search: Search) -> np.ndarray:
    masks = np.zeros((len(search.front), len(search.cost_M)), dtype=bool)
    for mask, chosen in zip(masks, search.front, strict=True):
        mask[list(chosen.members)] = True
    return masks
