"""Cost rules: what an ensemble costs, from the costs of its members. `RULES` has every rule by its name.

Source of `max` and `sum`: OFA³, doi:10.1109/IJCNN60899.2024.10650685.

Shape letters in this file: S subsets, M members, L levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Rule(ABC):
    """A cost that never falls when a member is added: searches up to a level of cost rely on it."""

    fewest = 1  # members of an ensemble in the published algorithms
    members_run: str  # how, for help texts and reports

    @abstractmethod
    def costs(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """The cost of every subset: float64 [S]; 0 for the empty one. masks_SM: bool, cost_M: of single members."""

    def changed(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """The cost of every subset with member m added, or removed if it is in the subset: float64 [S, M]."""
        changed_SMM = masks_SM[:, None] ^ np.eye(len(cost_M), dtype=bool)
        return self.costs(changed_SMM.reshape(-1, len(cost_M)), cost_M).reshape(masks_SM.shape)

    def levels(self, cost_M: np.ndarray) -> np.ndarray:
        """Costs up to each of which a best subset is searched for, rising: float64 [L]; here spaced geometrically."""
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
        """See `Rule.changed`: only the removal of the most expensive member lowers the cost, to the second largest."""
        each = np.where(masks_SM, cost_M, 0.0)
        highest = np.sort(each, axis=1)[:, -2:] if each.shape[1] > 1 else np.column_stack([np.zeros(len(each)), each])
        last = masks_SM & (np.arange(each.shape[1]) == each.argmax(axis=1)[:, None])
        without = np.where(last, highest[:, :1], highest[:, 1:])
        return np.where(masks_SM, without, np.maximum(highest[:, 1:], cost_M))

    def levels(self, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.levels`: an ensemble costs what one of its members does, so there are no others."""
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
