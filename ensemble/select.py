"""Which subsets of a front are worth running together.

The cost of an ensemble is the largest of its members' costs (`max`, they run in parallel) or their sum (`sum`, one
after the other); source: OFA³, doi:10.1109/IJCNN60899.2024.10650685. Chosen on a split that trained no member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ensemble.score import SubsetScorer

CostRule = Literal["max", "sum"]
ALGORITHMS = ("default", "greedy", "exhaustive")

_EXHAUSTIVE_MEMBERS = 13  # 8,191 subsets; with more members `default` searches
_MOST_EXHAUSTIVE = 22


@dataclass(frozen=True, slots=True)
class Chosen:
    """A subset that no other beats in both cost and accuracy."""

    members: tuple[int, ...]
    cost: float
    correct: int  # images of the split it was chosen on


def select(
    scorer: SubsetScorer,
    cost_M: np.ndarray,
    rule: CostRule,
    algorithm: str = "default",
    progress: Callable[[int], None] = lambda scored: None,
) -> list[Chosen]:
    """The best subsets found, cheapest first, each more accurate than all cheaper ones.

    algorithm: `exhaustive` scores every subset; `greedy` adds the member that helps most, within every limit on
    the single cost; `default` is exhaustive up to 13 members, and beyond tries every change of one member of the
    best few subsets at each level of cost, until none is new. A function of its inputs: nothing is drawn at random.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    members = len(cost_M)
    search = _Search(scorer, np.asarray(cost_M, dtype=np.float64), rule, progress)
    if algorithm == "exhaustive" or (algorithm == "default" and members <= _EXHAUSTIVE_MEMBERS):
        if members > _MOST_EXHAUSTIVE:
            raise ValueError(f"{members} members have too many subsets to score all; at most {_MOST_EXHAUSTIVE}")
        for start in range(1, 2**members, 2**14):
            numbers = np.arange(start, min(start + 2**14, 2**members))
            search.score((numbers[:, None] >> np.arange(members)) & 1 == 1)
        return search.front
    search.score(np.eye(members, dtype=bool))
    _greedy(search)
    if algorithm == "default":
        _beam_search(search)
    return search.front


class _Search:
    """What was scored so far, and its front."""

    def __init__(self, scorer: SubsetScorer, cost_M: np.ndarray, rule: CostRule, progress: Callable[[int], None]) -> None:
        self.scorer, self.cost_M, self.rule, self.progress = scorer, cost_M, rule, progress
        self.seen: dict[bytes, int] = {}
        self.front: list[Chosen] = []

    def score(self, masks_SM: np.ndarray) -> np.ndarray:
        """Images each subset names right [S]; each subset is scored once and its front kept."""
        keys = [mask.tobytes() for mask in masks_SM]
        new = list({key: mask for key, mask in zip(keys, masks_SM, strict=True) if key not in self.seen}.values())
        if new:
            fresh_SM = np.array(new)
            correct = self.scorer.correct(fresh_SM)
            self.seen.update({mask.tobytes(): int(c) for mask, c in zip(fresh_SM, correct, strict=True)})
            self.front = self._thinned(fresh_SM, correct)
            self.progress(len(self.seen))
        return np.array([self.seen[key] for key in keys])

    def costs(self, masks_SM: np.ndarray) -> np.ndarray:
        each = np.where(masks_SM, self.cost_M, 0.0)
        return each.max(axis=1) if self.rule == "max" else each.sum(axis=1)

    def best_at(self, levels: np.ndarray, width: int) -> list[np.ndarray]:
        """Of what was scored, the `width` best at each level of cost, a subset standing at the lowest that allows it."""
        masks_SM = np.array([np.frombuffer(key, dtype=bool) for key in self.seen])
        correct_S = np.array(list(self.seen.values()))
        level_S = np.searchsorted(levels * (1 + 1e-9), self.costs(masks_SM))
        order = np.lexsort((-correct_S, level_S))  # stable: of equals the one that was scored first
        start_S = np.searchsorted(level_S[order], level_S[order])
        return list(masks_SM[order[np.arange(len(order)) - start_S < width]])

    def _thinned(self, masks_SM: np.ndarray, correct_S: np.ndarray) -> list[Chosen]:
        """The front of the old one and these; of equals the one with fewer members, then the first by index."""
        costs = self.costs(masks_SM)
        rows = [
            Chosen(tuple(np.flatnonzero(mask).tolist()), float(cost), int(right))
            for mask, cost, right in zip(masks_SM, costs, correct_S, strict=True)
            if not any(c.cost <= cost and c.correct > right for c in self.front)
        ]
        rows = sorted([*self.front, *rows], key=lambda c: (c.cost, -c.correct, len(c.members), c.members))
        front: list[Chosen] = []
        for row in rows:
            if not front or row.correct > front[-1].correct:
                front.append(row)
        return front


def _greedy(search: _Search) -> None:
    """For every limit on the single cost: start from the best single member and add what helps most.

    Source: Ensemble selection from libraries of models, doi:10.1145/1015330.1015432, without repeats.
    """
    members = len(search.cost_M)
    for limit in np.unique(search.cost_M):
        allowed = np.flatnonzero(search.cost_M <= limit)
        mask = np.zeros(members, dtype=bool)
        best = -1
        while True:
            candidates = [index for index in allowed if not mask[index]]
            if not candidates:
                break
            grown = np.repeat(mask[None], len(candidates), axis=0)
            grown[np.arange(len(candidates)), candidates] = True
            scores = search.score(grown)
            if scores.max() <= best:
                break
            best, mask = int(scores.max()), grown[scores.argmax()]


def _beam_search(search: _Search, width: int = 12) -> None:
    """At every level of cost keeps the `width` best subsets and tries all their neighbours, until none is new.

    A neighbour has one member more, one less, or one exchanged. Levels are the members' own costs, and for `sum`
    what lies between them and the cost of all.
    """
    singles = np.unique(search.cost_M)
    levels = singles if search.rule == "max" else np.geomspace(singles[0], search.cost_M.sum(), 4 * len(singles))
    expanded: set[bytes] = set()
    while True:
        fresh = [mask for mask in search.best_at(levels, width) if mask.tobytes() not in expanded]
        if not fresh:
            return
        expanded.update(mask.tobytes() for mask in fresh)
        neighbours = np.concatenate([_neighbours(mask) for mask in fresh])
        search.score(np.unique(neighbours, axis=0))


def _neighbours(mask_M: np.ndarray) -> np.ndarray:
    """Every subset that adds, drops or exchanges one member: bool [S, M]."""
    members = len(mask_M)
    flipped = mask_M ^ np.eye(members, dtype=bool)
    pairs = [_pair(members, int(out), int(into)) for out in np.flatnonzero(mask_M) for into in np.flatnonzero(~mask_M)]
    found = np.concatenate([flipped, mask_M ^ np.array(pairs)]) if pairs else flipped
    return found[found.any(axis=1)]


def _pair(members: int, one: int, other: int) -> np.ndarray:
    pair = np.zeros(members, dtype=bool)
    pair[[one, other]] = True
    return pair
