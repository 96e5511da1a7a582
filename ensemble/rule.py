"""Cost rules: the cost of an ensemble from those of its members or of their parts. `RULES` has every rule by its name.

Source of `max` and `sum`: OFA³, doi:10.1109/IJCNN60899.2024.10650685.

Shape letters in this file: S subsets, M members, L levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ensemble.errors import SelectionError
from ofa.sharing import Pieces

_CHUNK = 2**16  # subsets whose pieces are added up at once


class Rule(ABC):
    """A cost that never falls when a member is added; searches up to a level of cost depend on this."""

    fewest = 1  # least number of members of an ensemble in the published algorithms
    members_run: str  # how the members are executed, for help texts and reports
    needs_pieces = False  # whether the cost depends on what members have in common

    def of(self, pieces: Pieces | None) -> Rule:
        """The rule for members with these pieces; a rule that needs pieces and has none is a `SelectionError`."""
        return self

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


@dataclass(frozen=True)
class Shared(Rule):
    """The sum of the costs of everything that some member needs; what several members have in common is paid once.

    Exits of one network share the layers before the earlier exit (`ofa.sharing`).
    """

    pieces: Pieces | None = None

    fewest = 2
    members_run = "one after the other, what they have in common once"
    needs_pieces = True

    def of(self, pieces: Pieces | None) -> Rule:
        """See `Rule.of`."""
        if pieces is None:
            raise SelectionError("the cost rule 'shared' needs the members' networks; use it in a run, or max or sum here")
        return Shared(pieces)

    def costs(self, masks_SM: np.ndarray, cost_M: np.ndarray) -> np.ndarray:
        """See `Rule.costs`; without pieces members have nothing in common."""
        pieces = self.pieces or Pieces(np.eye(len(cost_M), dtype=bool), cost_M)
        uses_MP, cost_P = pieces.uses_MP.astype(np.float32), pieces.cost_P
        found = np.empty(len(masks_SM))
        for start in range(0, len(masks_SM), _CHUNK):
            part = masks_SM[start : start + _CHUNK].astype(np.float32)
            found[start : start + _CHUNK] = (part @ uses_MP > 0) @ cost_P
        return found


RULES: dict[str, Rule] = {"max": Largest(), "sum": Sum(), "shared": Shared()}
