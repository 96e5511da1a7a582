"""Subsets of a front's members: the limits on them, their costs, and the front of all scored subsets.

Shape letters in this file: S subsets, M members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ensemble.rule import Rule

if TYPE_CHECKING:
    from ensemble.score import Scorer


@dataclass(frozen=True, slots=True)
class Chosen:
    """A subset that no other beats in both cost and accuracy. weights: of its members' votes; () means equal weights."""

    members: tuple[int, ...]
    cost: float
    correct: int  # images of the split that it was chosen on
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on subsets: at most `size` members, a cost of at most `cost`, and members that every subset must have."""

    size: int | None = None
    cost: float | None = None
    must_have: tuple[int, ...] = field(default=())


NO_LIMITS = Limits()


class Search:
    """Scores subsets, and keeps the front of all scored subsets within the limits."""

    def __init__(
        self, scorer: Scorer, cost_M: np.ndarray, rule: Rule, progress: Callable[[int], None], limits: Limits
    ) -> None:
        self.scorer, self.cost_M, self.rule, self.progress, self.limits = scorer, cost_M, rule, progress, limits
        self.must_M = np.isin(np.arange(len(cost_M)), limits.must_have)
        self.scored = 0
        self.front: list[Chosen] = []

    def seeds(self) -> np.ndarray:
        """The subsets that every search starts from: the required members, alone and with each other member."""
        masks = np.eye(len(self.cost_M), dtype=bool) | self.must_M
        return np.unique(np.concatenate([masks, self.must_M[None]])[: len(masks) + self.must_M.any()], axis=0)

    def costs(self, masks_SM: np.ndarray) -> np.ndarray:
        """The cost of each subset by the rule: float64 [S]."""
        return self.rule.costs(masks_SM, self.cost_M)

    def allowed(self, masks_SM: np.ndarray) -> np.ndarray:
        """Whether each subset is within the limits: bool [S]."""
        return np.logical_and(masks_SM.any(axis=1), (masks_SM | ~self.must_M).all(axis=1)) & self._within(masks_SM)

    def _within(self, masks_SM: np.ndarray) -> np.ndarray:
        """Whether each subset is within the limits of size and cost: bool [S]."""
        fine = np.ones(len(masks_SM), dtype=bool)
        if self.limits.size is not None:
            fine &= masks_SM.sum(axis=1) <= self.limits.size
        if self.limits.cost is not None:
            fine &= self.costs(masks_SM) <= self.limits.cost * (1 + 1e-12)
        return fine

    def score(self, masks_SM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores the subsets within the limits: returns them, and the number of images that each classifies correctly."""
        masks_SM = masks_SM[self.allowed(masks_SM)]
        return masks_SM, self.note(masks_SM, self.scorer.correct(masks_SM))

    def score_numbers(self, start: int, stop: int) -> None:
        """Scores the subsets within the limits with the numbers `start` to `stop` - 1; bit m of a number is member m.

        All choices of the first members are scored together. The subsets are not returned: the front keeps the best.
        """
        choices = 2**self.scorer.group
        number_BC = np.arange(start // choices, (stop - 1) // choices + 1)[:, None] * choices + np.arange(choices)
        base_BM = self._numbered(number_BC[:, 0])
        with_all_BM = base_BM | (np.arange(len(self.cost_M)) < self.scorer.group)
        possible_B = self._within(base_BM) & (with_all_BM | ~self.must_M).all(axis=1)
        number_BC, base_BM = number_BC[possible_B], base_BM[possible_B]
        correct_BC = self.scorer.correct_choices(base_BM)
        scored_BC = (number_BC >= start) & (number_BC < stop)
        if self.limits != NO_LIMITS:
            scored_BC[scored_BC] = self.allowed(self._numbered(number_BC[scored_BC]))
        self.scored += int(scored_BC.sum())
        self.progress(stop - 1)
        # a cost never falls with a member, so these are at most as good as the front's subset of the base's cost
        better_BC = scored_BC & (correct_BC >= self._known(self.costs(base_BM) * (1 - 1e-12))[:, None])
        self._keep(self._numbered(number_BC[better_BC]), correct_BC[better_BC])

    def _numbered(self, numbers_S: np.ndarray) -> np.ndarray:
        return (numbers_S[:, None] >> np.arange(len(self.cost_M))) & 1 == 1

    def neighbours(self, masks_SM: np.ndarray, floors: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, ...]:
        """Masks, costs and counts of the allowed subsets that differ from one of these in one member and are good enough.

        floors: the least count that is good enough at each cost; a subset that belongs on the front is always good enough.
        """
        correct_SM = self.scorer.correct_changed(masks_SM)
        size_SM = masks_SM.sum(axis=1, keepdims=True) + np.where(masks_SM, -1, 1)
        costs_SM = self.rule.changed(masks_SM, self.cost_M)
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

    def _known(self, costs: np.ndarray) -> np.ndarray:
        """The front's count at each cost; -1 if the front has no subset of at most that cost."""
        known = np.array([-1, *(c.correct for c in self.front)])
        found: np.ndarray = known[np.searchsorted([c.cost for c in self.front], costs, side="right")]
        return found

    def note(self, masks_SM: np.ndarray, correct_S: np.ndarray) -> np.ndarray:
        """Counts the scored subsets, and adds to the front those that belong there."""
        self.scored += len(masks_SM)
        self.progress(self.scored)
        self._keep(masks_SM, correct_S)
        return correct_S

    def _keep(self, masks_SM: np.ndarray, correct_S: np.ndarray) -> None:
        """Adds to the front those of these subsets that belong there; ties go to the smaller, then the first by members."""
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
