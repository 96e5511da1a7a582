"""Sub-networks as integer arrays, for work on many at once.

Shape letters in this file: B archs, G genes, D depth entries, L block slots of all stages.
A gene is the index of its choice; the order is resolution, depth entries, kernel of each slot (if the space has
kernels), expansion of each slot, widths (if it has them). Genes of slots past their stage's depth are 0, so equal
networks are equal rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofa.arch import Arch
from ofa.compiled import compiled
from ofa.space import Space

_WORD = 2**50  # packed genes are numbers below this, which a float64 holds exactly


class Genes:
    """The gene arrays of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        slots, kernels = len(space.slots), len(space.slots) if space.kernels else 0
        depths, widths = space.depth_choices, space.width_choices
        choices = [space.resolutions, *depths, *[space.kernels] * kernels, *[space.expands] * slots, *widths]
        self.sizes_G = np.array([len(values) for values in choices])
        self.depth = slice(1, 1 + len(depths))
        self.kernel = slice(self.depth.stop, self.depth.stop + kernels)
        self.expand = slice(self.kernel.stop, self.kernel.stop + slots)
        self.width = slice(self.expand.stop, len(choices))
        self.choices = choices
        self._words = _grouped(self.sizes_G.tolist())
        self._entry_L = np.array([slot.entry for slot in space.slots])
        self._least_L = np.array([slot.least for slot in space.slots])
        most = max(len(values) for values in depths)
        self._depth_DN = np.array([[*values, *[0] * (most - len(values))] for values in depths])
        at = np.arange(slots)
        kernel_L = at + self.kernel.start if space.kernels else np.full(slots, -1)
        self._slots = self._depth_DN, self._entry_L, self._least_L, kernel_L, at + self.expand.start

    def depths(self, genes_BG: np.ndarray) -> np.ndarray:
        """The depths themselves, not their indices: int64 [B, D]."""
        return self._depth_DN[np.arange(len(self._depth_DN)), genes_BG[:, self.depth]]

    def used(self, genes_BG: np.ndarray) -> np.ndarray:
        """Which block slots each arch uses: bool [B, L]."""
        return self.depths(genes_BG)[:, self._entry_L] >= self._least_L

    def blocks(self, genes_BG: np.ndarray) -> np.ndarray:
        """Of each slot 0 where it is not used, else 1 + which kernel and expansion its block has: int64 [B, L]."""
        kinds_BL = np.empty((len(genes_BG), len(self._entry_L)), dtype=np.int64)
        _blocks(genes_BG, *self._slots, len(self.space.expands), kinds_BL)
        return kinds_BL

    @property
    def block_kinds(self) -> int:
        """How many values `blocks` may take."""
        return 1 + max(len(self.space.kernels), 1) * len(self.space.expands)

    def canonical(self, genes_BG: np.ndarray) -> np.ndarray:
        """A copy with the genes of unused slots set to 0."""
        canonical = genes_BG.copy()
        _clear_unused(canonical, *self._slots)
        return canonical

    def filled(self, genes_BG: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy with the genes of unused slots drawn uniformly: the same archs, ready to be crossed and mutated."""
        drawn = rng.integers(0, self.sizes_G, genes_BG.shape)
        used_BL, kept = self.used(genes_BG), np.ones(genes_BG.shape, dtype=bool)
        if self.space.kernels:
            kept[:, self.kernel] = used_BL
        kept[:, self.expand] = used_BL
        return np.where(kept, genes_BG, drawn)

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` archs with every gene drawn uniformly: int64 [count, G], canonical."""
        return self.canonical(rng.integers(0, self.sizes_G, (count, len(self.sizes_G))))

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """The archs as genes [B, G]; they must be of this space."""
        genes = np.zeros((len(archs), len(self.sizes_G)), dtype=np.int64)
        for row, arch in zip(genes, archs, strict=True):
            values = [arch.resolution, *arch.depth, *arch.kernel, *arch.expand, *arch.width]
            for g, (choices, value) in enumerate(zip(self.choices, values, strict=True)):
                unused = value == 0 and self.kernel.start <= g < self.expand.stop
                row[g] = 0 if unused else choices.index(value)
        return genes

    def decode(self, genes_BG: np.ndarray) -> list[Arch]:
        """The archs of genes [B, G]."""
        archs = []
        for row in genes_BG:
            values = [choices[gene] for choices, gene in zip(self.choices, row, strict=True)]
            parts = values[self.depth], values[self.kernel], values[self.expand], values[self.width]
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

    def pack_all(self, genes_BG: np.ndarray) -> list[tuple[int, ...]]:
        """Every arch as `pack` packs it."""
        words, start = [], 0
        for sizes in self._words:
            digits_BD = genes_BG[:, start : start + len(sizes)]
            places_D = np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], dtype=np.int64)
            words.append((digits_BD @ places_D).tolist())
            start += len(sizes)
        return list(zip(*words, strict=True))

    def unpack_all(self, packed: Sequence[Sequence[int]]) -> np.ndarray:
        """The genes [B, G] of all of them."""
        numbers_BW = np.array(packed, dtype=np.int64).reshape(len(packed), len(self._words))
        genes = [
            numbers_BW[:, w] // math.prod(sizes[i + 1 :]) % size
            for w, sizes in enumerate(self._words)
            for i, size in enumerate(sizes)
        ]
        return np.stack(genes, axis=1)

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


class Choices:
    """The choices that make an arch, whose values stand in one long table: each slot's kind of block, then some genes.

    values: how many there are in all.
    """

    def __init__(self, genes: Genes, whole: Sequence[int]) -> None:
        self.genes, self.whole = genes, list(whole)
        sizes = [*[genes.block_kinds] * len(genes.space.slots), *(int(genes.sizes_G[g]) for g in whole)]
        *start, self.values = np.cumsum([0, *sizes]).tolist()
        self._start_X = np.array(start)

    def places(self, genes_BG: np.ndarray) -> np.ndarray:
        """Where in the table each choice's value stands: int64 [B, slots + genes], for canonical genes."""
        return np.concatenate([self.genes.blocks(genes_BG), genes_BG[:, self.whole]], axis=1) + self._start_X


@compiled
def _blocks(genes_BG, depth_DN, entry_L, least_L, kernel_L, expand_L, expands, kinds_BL):  # type: ignore[no-untyped-def]
    """Fills `Genes.blocks`. kernel_L, expand_L: the gene of each slot, -1 for none."""
    for b in range(len(genes_BG)):
        for i in range(len(entry_L)):
            entry = entry_L[i]
            kind = 0
            if depth_DN[entry, genes_BG[b, 1 + entry]] >= least_L[i]:
                kind = 1 + genes_BG[b, expand_L[i]]
                if kernel_L[i] >= 0:
                    kind += expands * genes_BG[b, kernel_L[i]]
            kinds_BL[b, i] = kind


@compiled
def _clear_unused(genes_BG, depth_DN, entry_L, least_L, kernel_L, expand_L):  # type: ignore[no-untyped-def]
    """Sets the genes of unused slots to 0."""
    for b in range(len(genes_BG)):
        for i in range(len(entry_L)):
            entry = entry_L[i]
            if depth_DN[entry, genes_BG[b, 1 + entry]] < least_L[i]:
                genes_BG[b, expand_L[i]] = 0
                if kernel_L[i] >= 0:
                    genes_BG[b, kernel_L[i]] = 0
