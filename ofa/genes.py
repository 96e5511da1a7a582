"""Sub-networks as integer arrays, for work on many at once.

Shape letters in this file: B archs, G genes, S stages, L block slots of all stages.
A gene is the index of its choice; the order is resolution, depth of each stage, kernel of each slot, expansion of
each slot. Genes of slots past their stage's depth are 0, so equal networks are equal rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofa.arch import Arch
from ofa.space import Space

_WORD = 2**50  # packed genes are numbers below this, which a float64 holds exactly


class Genes:
    """The gene arrays of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        stages, slots = len(space.stages), len(space.stages) * space.slots
        choices = [space.resolutions, *[space.depths] * stages, *[space.kernels] * slots, *[space.expands] * slots]
        self.sizes_G = np.array([len(values) for values in choices])
        self.depth = slice(1, 1 + stages)
        self.kernel = slice(1 + stages, 1 + stages + slots)
        self.expand = slice(1 + stages + slots, 1 + stages + 2 * slots)
        self._choices = choices
        self._words = _grouped(self.sizes_G.tolist())
        self._stage_L = np.repeat(np.arange(stages), space.slots)
        self._slot_L = np.tile(np.arange(space.slots), stages)

    def used(self, genes_BG: np.ndarray) -> np.ndarray:
        """Which block slots each arch uses: bool [B, L]."""
        depths_BS = np.array(self.space.depths)[genes_BG[:, self.depth]]
        return self._slot_L < depths_BS[:, self._stage_L]

    def canonical(self, genes_BG: np.ndarray) -> np.ndarray:
        """A copy with the genes of unused slots set to 0."""
        canonical, used_BL = genes_BG.copy(), self.used(genes_BG)
        canonical[:, self.kernel] *= used_BL
        canonical[:, self.expand] *= used_BL
        return canonical

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` archs with every gene drawn uniformly: int64 [count, G], canonical."""
        return self.canonical(rng.integers(0, self.sizes_G, (count, len(self.sizes_G))))

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """The archs as genes [B, G]; they must be of this space."""
        genes = np.zeros((len(archs), len(self.sizes_G)), dtype=np.int64)
        for row, arch in zip(genes, archs, strict=True):
            values = [arch.resolution, *arch.depth, *arch.kernel, *arch.expand]
            row[:] = [c.index(v) if v else 0 for c, v in zip(self._choices, values, strict=True)]  # 0: an unused slot
        return genes

    def decode(self, genes_BG: np.ndarray) -> list[Arch]:
        """The archs of genes [B, G]."""
        archs = []
        for row in genes_BG:
            values = [choices[gene] for choices, gene in zip(self._choices, row, strict=True)]
            parts = values[self.depth], values[self.kernel], values[self.expand]
            archs.append(Arch(values[0], *(tuple(part) for part in parts)))
        return archs

    @property
    def words(self) -> list[int]:
        """How many values each number of a packed arch may take."""
        return [math.prod(sizes) for sizes in self._words]

    def pack(self, genes_G: np.ndarray) -> tuple[int, ...]:
        """One arch as a few numbers, whose digits are its genes."""
        genes, packed = iter(genes_G.tolist()), []
        for sizes in self._words:
            number = 0
            for size in sizes:
                number = number * size + next(genes)
            packed.append(number)
        return tuple(packed)

    def unpack(self, packed: Sequence[int]) -> np.ndarray:
        """The genes [G] that `pack` packed."""
        genes: list[int] = []
        for number, sizes in zip(packed, self._words, strict=True):
            digits = []
            for size in reversed(sizes):
                number, digit = divmod(number, size)
                digits.append(digit)
            genes += reversed(digits)
        return np.array(genes, dtype=np.int64)


def _grouped(sizes: Sequence[int]) -> list[list[int]]:
    """Genes, by their number of choices, in groups that a word can hold."""
    groups: list[list[int]] = [[]]
    for size in sizes:
        if math.prod(groups[-1]) * size > _WORD:
            groups.append([])
        groups[-1].append(size)
    return groups
