"""Votes: the contribution of each member to an ensemble's prediction. `VOTES` has every vote by its name.

An ensemble predicts the class with the largest sum of its members' votes, each times the member's weight; ties go to the
lowest class. A `Vote` defines a member's votes, in a prediction table and in a network (the two must agree), and the
weights of the members of a chosen subset.

Shape letters in this file: S subsets, M members, N images, K classes kept per prediction, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ensemble.calibrate import calibrated, temperatures
from ensemble.errors import SelectionError
from ensemble.table import Table

if TYPE_CHECKING:
    from torch import Tensor

    from ensemble.score import Scorer


class Vote:
    """Soft voting: a member's votes are its probabilities, and all members have equal weights."""

    ordinal = False  # whether votes depend only on the order of a member's classes, which is the same at any temperature

    def of_table(self, table: Table) -> Table:
        """The table whose `probs_MNK` are the votes; it may keep fewer classes."""
        return table

    def of_network(self, probs_NC: Tensor) -> Tensor:
        """The votes [N, C] of a member with these probabilities, in operations that torch can export."""
        return probs_NC

    def weights(self, scorer: Scorer, members: tuple[int, ...], correct: int) -> tuple[tuple[float, ...], int]:
        """The weights of the members of a chosen subset, and the number of images that it then classifies correctly.

        correct: that number with equal weights. () means equal weights.
        """
        return (), correct


class Hard(Vote):
    """Hard voting: each member has one vote, for its most probable class; ties go to the lowest."""

    ordinal = True

    def of_table(self, table: Table) -> Table:
        """See `Vote.of_table`."""
        first = table.classes_MNK[:, :, :1]
        return Table(first, np.ones_like(table.probs_MNK[:, :, :1]), table.labels_N, table.cost_M)

    def of_network(self, probs_NC: Tensor) -> Tensor:
        """See `Vote.of_network`."""
        first = probs_NC.argmax(dim=1, keepdim=True)
        return probs_NC.new_zeros(probs_NC.shape).scatter(1, first, 1.0)


@dataclass(frozen=True, slots=True)
class Weighted(Vote):
    """Soft voting with weights, fitted to each chosen subset on the split that it was chosen on.

    Starts from equal weights and tries, for each member, 1/2, 2/3, 3/2 and 2 times its weight; the best of all is applied
    while it improves the count, for at most `rounds` rounds.
    """

    rounds: int = 4

    def weights(self, scorer: Scorer, members: tuple[int, ...], correct: int) -> tuple[tuple[float, ...], int]:
        """See `Vote.weights`; the weights sum to 1."""
        weights_M, best = np.ones(len(members)), correct
        for _ in range(self.rounds if len(members) > 1 else 0):
            tried = np.repeat(weights_M[None], 4 * len(members), axis=0)
            tried[np.arange(len(tried)), np.arange(len(tried)) // 4] *= np.tile([0.5, 2 / 3, 1.5, 2.0], len(members))
            full = np.zeros((len(tried), scorer.members))
            full[:, list(members)] = tried
            correct_S = scorer.correct_weighted(full)
            if correct_S.max() <= best:
                break
            best, weights_M = int(correct_S.max()), tried[correct_S.argmax()]
        return (tuple((weights_M / weights_M.sum()).tolist()), best) if best > correct else ((), correct)


VOTES: dict[str, Vote] = {"soft": Vote(), "hard": Hard(), "weighted": Weighted()}


@dataclass(frozen=True, slots=True)
class Voting:
    """A vote by its name, and the temperature of every member; () means 1 for all."""

    vote: str
    temperatures: tuple[float, ...] = ()

    @classmethod
    def fitted(cls, vote: str, table: Table) -> Voting:
        """The same vote with the temperatures that maximise the likelihood of the labels of `table`."""
        return cls(vote, tuple(temperatures(table).tolist()))

    def of_table(self, table: Table) -> Table:
        """The table whose `probs_MNK` are the votes at these temperatures; an unknown name is a `SelectionError`."""
        if self.vote not in VOTES:
            raise SelectionError(f"no vote is called {self.vote!r}; there are {', '.join(VOTES)}")
        if self.temperatures:
            table = calibrated(table, np.array(self.temperatures))
        return VOTES[self.vote].of_table(table)
