"""Prediction tables that are assembled on disk from parts, in memory that depends only on the size of a part.

1,000 members on 1.3 million images, five classes of 1,000 kept, are 39 GB on disk; in memory are one part, which
`part_images` limits to 32 MiB, and NumPy's buffer of 16 MiB while the file is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.errors import TableError
from ensemble.table import Table

PART_BYTES = 32 * 2**20


def part_images(members: int, k: int, batch: int) -> int:
    """The number of images of a part with so many members: whole batches, at least one."""
    return max(1, PART_BYTES // (8 * members * k * batch)) * batch


class Assembly:
    """Classes and probabilities as files in `folder`, which can be filled in any order."""

    def __init__(self, folder: Path, members: int, images: int, k: int, classes: int) -> None:
        self.shape = (members, images, k)
        kind = np.int16 if classes <= 2**15 else np.int32
        self.classes = np.lib.format.open_memmap(folder / "classes.npy", "w+", kind, self.shape)
        self.probs = np.lib.format.open_memmap(folder / "probs.npy", "w+", np.float32, self.shape)
        self.filled_M = np.zeros(members, dtype=np.int64)

    def put(self, members: Sequence[int], start: int, part: Table, where: str) -> None:
        """Writes the part whose first image is `start`; one that does not fit is a `TableError`."""
        _, images, k = self.shape
        expected = (len(members), min(part.classes_MNK.shape[1], images - start), k)
        if part.classes_MNK.shape != expected:
            raise TableError(
                f"{where}: holds {part.classes_MNK.shape} predictions, expected {expected}; delete it and run again"
            )
        part.checked(where)
        here = slice(start, start + expected[1])
        for row, member in enumerate(members):
            self.classes[member, here] = part.classes_MNK[row]
            self.probs[member, here] = part.probs_MNK[row]
        self.filled_M[list(members)] += expected[1]

    def table(self, labels_N: np.ndarray, cost_M: np.ndarray) -> Table:
        """The whole table, as arrays on disk."""
        assert (self.filled_M == self.shape[1]).all(), "a part is missing"
        return Table(self.classes, self.probs, labels_N, cost_M)
