"""Prediction tables: the predictions of every member of a front for every image of a split.

Shape letters in this package: M members, N images, K classes kept per prediction, C classes, S subsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.errors import TableError
from ofa import npz

_PLENTY = 100  # with as many predictions for each class, a label above all predicted classes counts as an error


@dataclass(frozen=True, slots=True)
class Table:
    """The most probable classes of every member on every image, with their probabilities.

    classes_MNK int, probs_MNK float32 (descending along K), labels_N int, cost_M float in a unit of the run's choice.
    """

    classes_MNK: np.ndarray
    probs_MNK: np.ndarray
    labels_N: np.ndarray
    cost_M: np.ndarray

    def to_npz(self) -> bytes:
        """The table as the content of an npz file."""
        return npz.pack(classes=self.classes_MNK, probs=self.probs_MNK, labels=self.labels_N, cost=self.cost_M)

    def save(self, path: Path) -> None:
        """Writes the file of `to_npz` to disk, in bounded memory even if the arrays are on disk."""
        npz.save(path, classes=self.classes_MNK, probs=self.probs_MNK, labels=self.labels_N, cost=self.cost_M)

    @classmethod
    def from_npz(cls, data: bytes, where: str) -> Table:
        """The table that `to_npz` wrote; a table that cannot be scored is a `TableError`."""
        try:
            classes, probs, labels, cost = npz.unpack(data, ("classes", "probs", "labels", "cost"))
        except npz.NpzError as error:
            raise TableError(f"{where}: {error}; create the table again") from None
        cost = cost.astype(np.float64) if cost.dtype.kind in "iuf" else cost  # whole numbers overflow in sums
        return cls(_signed(classes), probs, _signed(labels), cost).checked(where)

    def checked(self, where: str) -> Table:
        """The table itself; one that cannot be scored is a `TableError` with the reason."""
        if (objection := _objection(self)) is not None:
            raise TableError(f"{where}: {objection}")
        return self


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned numbers of 64 bits as signed ones, where they fit."""
    fits = array.dtype == np.uint64 and (not array.size or array.max() <= np.iinfo(np.int64).max)
    return array.astype(np.int64) if fits else array


def _objection(table: Table) -> str | None:
    """The reason why the table cannot be scored, or None."""
    classes, probs, labels, cost = table.classes_MNK, table.probs_MNK, table.labels_N, table.cost_M
    if classes.ndim != 3 or classes.shape != probs.shape:
        return f"classes are {classes.shape} and probs {probs.shape}; both must be [members, images, k]"
    members, images, k = classes.shape
    if not members or not images or not k:
        return f"classes are {classes.shape}; there is nothing to combine"
    if labels.shape != (images,) or cost.shape != (members,):
        return f"labels are {labels.shape} and cost {cost.shape}; expected ({images},) and ({members},)"
    if classes.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
        return f"classes are {classes.dtype} and labels {labels.dtype}; both must be whole numbers"
    if probs.dtype.kind != "f" or cost.dtype.kind != "f":
        return f"probs are {probs.dtype} and cost is {cost.dtype}; probs must be fractions from 0 to 1 and costs numbers"
    if not np.isfinite(probs).all() or (probs < 0).any() or (probs > 1 + 1e-6).any():
        return "probs must be fractions from 0 to 1, and some are not"
    if (np.diff(probs, axis=2) > 0).any():
        member, image, _ = np.argwhere(np.diff(probs, axis=2) > 0)[0]
        return f"probs of member {member}, image {image} are not in descending order"
    if np.uint64 in (classes.dtype, labels.dtype):
        return "classes and labels must be below 2^63, and some are not"
    if (classes < 0).any() or (labels < 0).any():
        return "classes and labels must not be negative, and some are"
    if (np.diff(np.sort(classes, axis=2), axis=2) == 0).any():
        return "a prediction has the same class twice"
    named = int(classes.max()) + 1
    if labels.max() >= named and (k >= named or classes.size >= _PLENTY * named):
        return f"labels go up to {labels.max()}, the classes that members predict only to {named - 1}"
    if not np.isfinite(cost).all() or (cost < 0).any():
        return "costs must be finite and not negative, and some are not"
    if not np.isfinite(sum(cost.tolist())):
        return f"costs go up to {cost.max():g}, and their sum is beyond the range of numbers"
    return None
