"""Cost rules: the cost of an ensemble from the costs of its members. `RULES` has every rule by its name.

Source of `max` and `sum`: OFA³, doi:10.1109/IJCNN60899.2024.10650685.

Shape letters in this file: S subsets, M members, L levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Rule(ABC):
    """A cost that never falls when a member is added; searches up to a level of cost depend on this."""

    fewest = 1  # least number of members of an ensemble in the published algorithms
    members_run: str  # how the members are executed, for help texts and reports

    @abstractmethod
    def costs(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """The cost of each subset: float64 [S]; 0 for the empty one. masks_SM: bool, cost_M: of single members."""

    def changed(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """The cost of each subset with member m added, or removed if the subset has it: float64 [S, M]."""
        changed_SMM = masks_SM[:, None] ^ np.eye(len(cost_M), dtype=bool)
        return self.costs(changed_SMM.reshape(-1, len(cost_M)), cost_M).reshape(masks_SM.shape)

    def levels(self, cost_M: np.ndarray) -> np.ndarray:
        """The costs up to which a best subset is searched for, ascending: float64 [L]; here geometrically spaced."""
        singles = np.unique(cost_M)
        most = float(self.costs(np.ones((1, len(cost_M)), dtype=bool), cost_M)[0])
        if not singles[-1] > 0:
            return singles
        free, least = singles[singles == 0], singles[singles > 0][0]
        return np.concatenate([free, np.geomspace(least, max(most, least), 4 * len(singles)) * (1 + 1e-9)])


class Largest(Rule):
    """The largest of the members' costs."""

    members_run = "in parallel"

    def costs(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.costs`."""
        found: np.ndarray = np.where(masks_SM, cost_M, 0.0).max(axis=1)
        return found

    def changed(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.changed`: only removing the most expensive member lowers the cost, to the second largest."""
        each = np.where(masks_SM, cost_M, 0.0)
        highest = np.sort(each, axis=1)[:, -2:] if each.shape[1] > 1 else np.column_stack([np.zeros(len(each)), each])
        last = masks_SM & (np.arange(each.shape[1]) == each.argmax(axis=1)[:, None])
        without = np.where(last, highest[:, :1], highest[:, 1:])
        return np.where(masks_SM, without, np.maximum(highest[:, 1:], cost_M))

    def levels(self, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.levels`: the cost of an ensemble is that of one of its members, so there are no other levels."""
        return np.unique(cost_M)


class Sum(Rule):
    """The sum of the members' costs."""

    fewest = 2
    members_run = "one after the other"

    def costs(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.costs`."""
        found: np.ndarray = np.where(masks_SM, cost_M, 0.0).sum(axis=1)
        return found

    def changed(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.changed`."""
        total = np.where(masks_SM, cost_M, 0.0).sum(axis=1, keepdims=True)
        found: np.ndarray = total + np.where(masks_SM, -cost_M, cost_M)
        return found


RULES: dict[str, Rule] = {"max": Largest(), "sum": Sum()}
