"""Selects the best subsets of a front's members: `ALGORITHMS` has every search for them by its name.

Subsets are chosen on a split that trained no member.

Shape letters in this file: S subsets, M members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ensemble.errors import SelectionError
from ensemble.evolve import Budget, evolve
from ensemble.rule import RULES
from ensemble.subsets import NO_LIMITS, Chosen, Limits, Search
from ensemble.vote import VOTES
from ofa.sharing import Pieces

if TYPE_CHECKING:
    from ensemble.score import Scorer

_EXHAUSTIVE_MEMBERS = 13  # 8,191 subsets; with more members `default` searches
_MOST_EXHAUSTIVE = 24
_PART = 2**14  # subsets scored at a time
_BUDGET = 1_000_000  # subsets that `default` may score: seconds on two cores, for 100 members and 50,000 images
_NARROW = 2  # subsets kept at each level of cost, at first


def select(
    scorer: Scorer,
    cost_M: np.ndarray,
    rule: str,
    algorithm: str = "default",
    progress: Callable[[int], None] = lambda scored: None,
    limits: Limits = NO_LIMITS,
    *,
    vote: str = "soft",
    budget: Budget | None = None,
    pieces: Pieces | None = None,
) -> list[Chosen]:
    """The best subsets found, in ascending cost, each more accurate than all cheaper ones, weighted by the vote.

    rule, algorithm, vote: names in `RULES`, `ALGORITHMS` and `VOTES`; scorer: of a table prepared for the vote.
    algorithm: `exhaustive` scores every subset of at most 24 members, so its front is proven optimal; `greedy` adds the
    member that helps most, within every limit on the cost; `default` is exhaustive up to 13 members, and beyond a local
    search at every level of cost. These depend on their inputs only: nothing is sampled, and no clock is read. The published
    algorithms `nsga2`, `sms-emoa` and `spea2` evolve masks within `budget`, which they need. pieces: what the members have
    in common, for a rule that needs it. An impossible selection is a `SelectionError`.
    """
    for what, name, known in (("cost rule", rule, RULES), ("algorithm", algorithm, ALGORITHMS), ("vote", vote, VOTES)):
        if name not in known:
            raise SelectionError(f"no {what} is called {name!r}; there are {', '.join(known)}")
    search = Search(scorer, np.asarray(cost_M, dtype=np.float64), RULES[rule].of(pieces), progress, limits)
    ALGORITHMS[algorithm](search, budget or Budget())
    if not search.front:
        raise SelectionError("no subset keeps to the limits; raise the most members or the highest cost")
    found = []
    for chosen in search.front:
        weights, correct = VOTES[vote].weights(scorer, chosen.members, chosen.correct)
        found.append(replace(chosen, weights=weights, correct=correct))
    return found


def subsets_to_score(algorithm: str, members: int) -> int:
    """The number of subsets at which `progress` ends; 0 if it is not known before the selection."""
    return 2**members - 1 if algorithm == "exhaustive" else 0


def _default(search: Search, budget: Budget) -> None:
    """`exhaustive` if there are few members, else `greedy` and then a local search."""
    if len(search.cost_M) <= _EXHAUSTIVE_MEMBERS:
        _exhaustive(search, budget)
        return
    _greedy(search, budget)
    _local_search(search)


def _exhaustive(search: Search, budget: Budget) -> None:
    """Scores every subset."""
    members = len(search.cost_M)
    if members > _MOST_EXHAUSTIVE:
        raise SelectionError(f"{members} members have too many subsets to score all; at most {_MOST_EXHAUSTIVE}")
    for start in range(1, 2**members, _PART):
        search.score_numbers(start, min(start + _PART, 2**members))


def _greedy(search: Search, budget: Budget) -> None:
    """For every level of cost, starts from the required members and adds the most helpful one while the count improves.

    Source: Ensemble selection from libraries of models, doi:10.1145/1015330.1015432, without repeats.
    """
    search.score(search.seeds())
    levels = search.rule.levels(search.cost_M)
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
        search.note(flat[fine], correct.ravel()[fine])
        going = []
        for level, row in zip(active.tolist(), which.ravel().tolist(), strict=True):
            score = np.where(costs[row] <= levels[level] * (1 + 1e-12), correct[row], -1)
            if score.max() > best[level]:
                best[level], masks[level] = score.max(), grown[row, score.argmax()]
                going.append(level)
        active = np.array(going, dtype=int)


def _local_search(search: Search) -> None:
    """Keeps the best subsets at every level of cost and tries every change and exchange of one member, until none is new.

    With `max` the best subset up to a cost is one of the members up to it, so each level is a problem of its own, and
    the subsets found at one level start the next. When no subset is new, the width is doubled, within the budget.
    """
    beam = _Beam(search.rule.levels(search.cost_M) * (1 + 1e-12), _NARROW)
    masks, correct = search.score(np.concatenate([search.seeds(), _masks(search)]))
    beam.offer(masks, search.costs(masks), correct)
    expanded: set[bytes] = set()
    budget = min(_BUDGET, 2 ** (len(search.cost_M) + 1))
    while search.scored < budget:
        fresh = np.array([mask for mask in beam.masks if mask.tobytes() not in expanded][:64])
        if not len(fresh):
            if not beam.full:  # no subset was ever left out
                return
            beam.width, beam.full = 2 * beam.width, False
            expanded.clear()  # a subset below the floors of the narrower beam may be good enough for this one
            continue
        expanded.update(mask.tobytes() for mask in fresh)
        without = [mask ^ (np.arange(len(mask)) == m) for mask in fresh for m in np.flatnonzero(mask & ~search.must_M)]
        bases = np.unique(np.concatenate([fresh, np.array(without).reshape(-1, fresh.shape[1])]), axis=0)
        for start in range(0, len(bases), 256):
            beam.offer(*search.neighbours(bases[start : start + 256], beam.floors))


class _Beam:
    """The `width` best subsets at each level of cost; ties go to the smaller, then the first."""

    def __init__(self, levels: np.ndarray, width: int) -> None:
        self.levels, self.width = levels, width
        self.full = False  # whether any subset was ever left out
        self.masks = np.empty((0, 0), dtype=bool)
        self.costs, self.correct = np.empty(0), np.empty(0, dtype=np.int64)

    def floors(self, costs: np.ndarray) -> np.ndarray:
        """The least count at each cost with which a subset can enter."""
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


Algorithm = Callable[[Search, Budget], None]

ALGORITHMS: dict[str, Algorithm] = {
    "default": _default,
    "greedy": _greedy,
    "exhaustive": _exhaustive,
    "nsga2": partial(evolve, survival="nsga2"),
    "sms-emoa": partial(evolve, survival="sms-emoa"),
    "spea2": partial(evolve, survival="spea2"),
}
