"""Sub-networks as integer arrays, for work on many at once.

Shape letters in this file: B archs, G genes, L block slots of all stages, Q conditions.
A gene is the index of its choice; the order is that of the space's forest: resolution, depth entries, kernel of each
slot (if the space has kernels), expand ratio of each slot, widths (if it has them). Genes that do not matter, such as
those of slots past their stage's depth, are 0, so equal networks are equal rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ofa.arch import Arch
from ofa.compiled import compiled
from ofa.space import Space

_WORD = 2**50  # packed genes are numbers below this, which a float64 holds exactly


_Conditions = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Genes:
    """The gene arrays of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.forest, self.choices = space.forest, space.choices
        self.sizes_G = np.array([len(values) for values in self.choices])
        self._words = _grouped(self.sizes_G.tolist())
        self._digits = (  # of each gene: the number of a packed arch that it is a digit of, and the digit's unit
            np.repeat(np.arange(len(self._words)), [len(sizes) for sizes in self._words]),
            np.array([math.prod(sizes[i + 1 :]) for sizes in self._words for i in range(len(sizes))], dtype=np.int64),
        )
        here = self.forest
        self.unslotted = [
            gene for gene in range(len(here.genes)) if gene not in here.slot_of
        ]  # genes that belong to no slot
        self.kinds = [
            1 + math.prod(self.sizes_G[g] for g in slot.genes) for slot in here.slots
        ]  # number of values of `blocks` for each slot
        # The gene whose random number decides whether this one is mutated: a slot's genes change together.
        self.leader_G = np.array(
            [here.slots[here.slot_of[g]].genes[-1] if g in here.slot_of else g for g in range(len(here.genes))]
        )
        self._conditions, self._condition_of = self._under_conditions()
        shape = (len(here.slots), max((len(slot.genes) for slot in here.slots), default=0))
        gene_LD, digit_LD = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, slot in enumerate(here.slots):
            gene_LD[i, : len(slot.genes)] = slot.genes
            digit_LD[i, : len(slot.genes)] = [
                math.prod(self.sizes_G[g] for g in slot.genes[d + 1 :]) for d in range(len(slot.genes))
            ]
        condition_L = np.array([self._condition_of[slot.genes[0]] for slot in here.slots], dtype=np.int64)
        self._slots = condition_L, gene_LD, digit_LD

    def _under_conditions(self) -> tuple[_Conditions, np.ndarray]:
        """The genes grouped by the condition under which they matter.

        For each condition: its parent, the condition that the parent is under, the choices of the parent for which it holds,
        and its genes; and for every gene its condition, -1 for none.
        """
        genes = self.forest.genes
        under: dict[tuple[int, float, int], list[int]] = {}
        condition_of = np.full(len(genes), -1)
        for i, gene in enumerate(genes):
            if gene.parent >= 0:
                key = (gene.parent, gene.least, gene.mask)
                under.setdefault(key, []).append(i)
                condition_of[i] = list(under).index(key)
        holds_QC = np.zeros((len(under), int(self.sizes_G.max())), dtype=bool)
        for holds_C, members in zip(holds_QC, under.values(), strict=True):
            gene = genes[members[0]]
            for choice, value in enumerate(self.choices[gene.parent]):
                holds_C[choice] = gene.wanted(value)
        parents = np.array([parent for parent, _, _ in under], dtype=np.int64)
        begin = np.cumsum([0, *(len(members) for members in under.values())])
        gene_D = np.array([gene for found in under.values() for gene in found], dtype=np.int64)
        return (parents, condition_of[parents], holds_QC, begin, gene_D), condition_of

    def of(self, field: str) -> slice:
        """The columns of a field's genes; an empty slice if the space has none."""
        return self.forest.fields.get(field, slice(0, 0))

    def matter(self, genes_BG: np.ndarray) -> np.ndarray:
        """Whether each gene matters: bool [B, G]."""
        matter_BG = np.ones(genes_BG.shape, dtype=bool)
        under = self._condition_of >= 0
        matter_BG[:, under] = self._hold(genes_BG)[:, self._condition_of[under]]
        return matter_BG

    def used(self, genes_BG: np.ndarray) -> np.ndarray:
        """Whether each block slot is used: bool [B, L]."""
        return self._hold(genes_BG)[:, self._slots[0]]

    def _hold(self, genes_BG: np.ndarray) -> np.ndarray:
        """Whether each condition holds: bool [B, Q]."""
        parents, above, holds_QC, *_ = self._conditions
        hold_BQ = np.empty((len(genes_BG), len(parents)), dtype=bool)
        _fill_holding(genes_BG, parents, above, holds_QC, hold_BQ)
        return hold_BQ

    def blocks(self, genes_BG: np.ndarray) -> np.ndarray:
        """For each slot 0 if it is unused, else 1 + the index of the block that the slot's genes choose: int64 [B, L]."""
        return self.places(genes_BG, np.zeros(len(self.kinds), dtype=np.int64), np.empty(0, dtype=np.int64))

    def places(self, genes_BG: np.ndarray, start_X: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """`blocks`, then the genes `whole`, each plus its `start_X`: int64 [B, L + whole]."""
        places_BX = np.empty((len(genes_BG), len(start_X)), dtype=np.int64)
        parents, above, holds_QC, *_ = self._conditions
        _fill_places(genes_BG, parents, above, holds_QC, *self._slots, start_X, whole, places_BX)
        return places_BX

    def canonical(self, genes_BG: np.ndarray) -> np.ndarray:
        """A copy with the genes that do not matter set to 0."""
        canonical = genes_BG.copy()
        _clear_unused(canonical, *self._conditions)
        return canonical

    def filled(self, genes_BG: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy with random values for the genes that do not matter: the same archs, for crossover and mutation."""
        filled_BG = rng.integers(0, self.sizes_G, genes_BG.shape)
        parents, above, holds_QC, *_ = self._conditions
        _copy_used(genes_BG, parents, above, holds_QC, self._condition_of, filled_BG)
        return filled_BG

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` archs with every gene sampled uniformly: int64 [count, G], canonical."""
        return self.canonical(rng.integers(0, self.sizes_G, (count, len(self.sizes_G))))

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """The archs as genes [B, G]; they must be of this space."""
        genes_BG = np.zeros((len(archs), len(self.sizes_G)), dtype=np.int64)
        for row_G, arch in zip(genes_BG, archs, strict=True):
            for g, (gene, choices, value) in enumerate(zip(self.forest.genes, self.choices, arch.values, strict=True)):
                row_G[g] = 0 if value == 0 and gene.parent >= 0 else choices.index(value)
        return genes_BG

    def decode(self, genes_BG: np.ndarray) -> list[Arch]:
        """The archs of genes [B, G]."""
        return [
            self.space.arch([choices[gene] for choices, gene in zip(self.choices, row_G, strict=True)]) for row_G in genes_BG
        ]

    @property
    def words(self) -> list[int]:
        """The number of values that each number of a packed arch may take."""
        return [math.prod(sizes) for sizes in self._words]

    def pack(self, genes_G: np.ndarray) -> tuple[int, ...]:
        """One arch as a few numbers, whose digits are the arch's genes."""
        genes, packed = iter(genes_G.tolist()), []
        for sizes in self._words:
            number = 0
            for size in sizes:
                number = number * size + next(genes)
            packed.append(number)
        return tuple(packed)

    def pack_all(self, genes_BG: np.ndarray) -> list[tuple[int, ...]]:
        """Every arch packed as by `pack`."""
        words, start = [], 0
        for sizes in self._words:
            digits_BD = genes_BG[:, start : start + len(sizes)]
            places_D = np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], dtype=np.int64)
            words.append((digits_BD @ places_D).tolist())
            start += len(sizes)
        return list(zip(*words, strict=True))

    def unpack_all(self, packed: Sequence[Sequence[int]]) -> np.ndarray:
        """The genes [B, G] of packed archs."""
        numbers_BW = np.array(packed, dtype=np.int64).reshape(len(packed), len(self._words))
        word_G, place_G = self._digits
        return numbers_BW[:, word_G] // place_G % self.sizes_G

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
    """Genes, given by their numbers of choices, in groups that each fit one word."""
    groups: list[list[int]] = [[]]
    for size in sizes:
        if math.prod(groups[-1]) * size > _WORD:
            groups.append([])
        groups[-1].append(size)
    return groups


class Choices:
    """The indices of an arch's choices in one table of values: the kind of block in each slot, then some of the genes.

    values: the number of entries of the table.
    """

    def __init__(self, genes: Genes, whole: Sequence[int]) -> None:
        self.genes, self.whole = genes, np.array(whole, dtype=np.int64)
        sizes = [*genes.kinds, *(int(genes.sizes_G[g]) for g in whole)]
        *start, self.values = np.cumsum([0, *sizes]).tolist()
        self._start_X = np.array(start, dtype=np.int64)

    def places(self, genes_BG: np.ndarray) -> np.ndarray:
        """The index in the table of each choice's value: int64 [B, slots + genes], for canonical genes."""
        return self.genes.places(genes_BG, self._start_X, self.whole)


@compiled
def _fill_holding(genes_BG, parent_Q, above_Q, holds_QC, hold_BQ):  # type: ignore[no-untyped-def]
    """Fills `Genes._hold`: a condition holds where its parent's choice is one of its own and the parent matters."""
    for b in range(hold_BQ.shape[0]):
        for q in range(hold_BQ.shape[1]):
            holds = holds_QC[q, genes_BG[b, parent_Q[q]]]
            if above_Q[q] >= 0 and not hold_BQ[b, above_Q[q]]:
                holds = False
            hold_BQ[b, q] = holds


@compiled
def _fill_places(  # type: ignore[no-untyped-def]
    genes_BG, parent_Q, above_Q, holds_QC, condition_L, gene_LD, digit_LD, start_X, whole, places_BX
):
    """Fills `Genes.places`. condition_L: the condition of each slot; gene_LD: its genes, with digits 0 past the last."""
    hold_Q = np.empty(len(parent_Q), dtype=np.int64)
    slots = gene_LD.shape[0]
    for b in range(places_BX.shape[0]):
        for q in range(len(parent_Q)):
            hold = np.int64(holds_QC[q, genes_BG[b, parent_Q[q]]])
            if above_Q[q] >= 0:
                hold *= hold_Q[above_Q[q]]
            hold_Q[q] = hold
        if gene_LD.shape[1] == 2:  # kernel and expand: without the inner loop twice as fast
            for i in range(slots):
                kind = 1 + genes_BG[b, gene_LD[i, 0]] * digit_LD[i, 0] + genes_BG[b, gene_LD[i, 1]] * digit_LD[i, 1]
                places_BX[b, i] = start_X[i] + kind * hold_Q[condition_L[i]]
        else:
            for i in range(slots):
                kind = np.int64(1)
                for d in range(gene_LD.shape[1]):
                    kind += genes_BG[b, gene_LD[i, d]] * digit_LD[i, d]
                places_BX[b, i] = start_X[i] + kind * hold_Q[condition_L[i]]
        for i in range(len(whole)):
            places_BX[b, slots + i] = start_X[slots + i] + genes_BG[b, whole[i]]


@compiled
def _clear_unused(genes_BG, parent_Q, above_Q, holds_QC, begin_Q, gene_D):  # type: ignore[no-untyped-def]
    """Sets the genes under conditions that do not hold to 0."""
    hold_Q = np.empty(len(parent_Q), dtype=np.bool_)
    for b in range(genes_BG.shape[0]):
        for q in range(len(parent_Q)):
            hold_Q[q] = holds_QC[q, genes_BG[b, parent_Q[q]]] and (above_Q[q] < 0 or hold_Q[above_Q[q]])
            if not hold_Q[q]:
                for d in range(begin_Q[q], begin_Q[q + 1]):
                    genes_BG[b, gene_D[d]] = 0


@compiled
def _copy_used(genes_BG, parent_Q, above_Q, holds_QC, condition_G, filled_BG):  # type: ignore[no-untyped-def]
    """Copies the genes that matter; the others keep their value in `filled_BG`."""
    hold_Q = np.empty(len(parent_Q), dtype=np.bool_)
    for b in range(genes_BG.shape[0]):
        for q in range(len(parent_Q)):
            hold_Q[q] = holds_QC[q, genes_BG[b, parent_Q[q]]] and (above_Q[q] < 0 or hold_Q[above_Q[q]])
        for g in range(genes_BG.shape[1]):
            if condition_G[g] < 0 or hold_Q[condition_G[g]]:
                filled_BG[b, g] = genes_BG[b, g]
