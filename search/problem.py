"""Problems on gene arrays: objectives from exact costs, latency tables, predictors, or what was measured.

Shape letters in this file: B archs, G genes, L block slots, R resolutions, I widths of a block's input, O of its
output, K kernels, E expansions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from ofa.blocks import Part, bottleneck, head, mobile_block, parts, resnet_stem, slot_name, whole
from ofa.cost import head_cost, part_cost, strided
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import MobileSpace, ResNetSpace, Space
from search.errors import ProblemError
from search.objective import Objective

Evaluate = Callable[[np.ndarray], np.ndarray]  # genes [B, G] to objective values [B, M], each as it is
Column = Callable[[np.ndarray], np.ndarray]  # canonical genes [B, G] to one objective's values [B]


@dataclass(frozen=True, slots=True)
class Term:
    """One objective of a problem. `exact` values come from a sum and cost next to nothing, others ask a predictor."""

    objective: Objective
    values: Column
    exact: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on an objective's value, which members must keep: at most, or at least if more is better."""

    objective: Objective
    bound: float

    def __str__(self) -> str:
        return f"{self.objective.name} {'at most' if self.objective.direction == 'minimize' else 'at least'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a predicted search works on: a space, its objectives, limits, and genes that must have one value.

    `pinned` maps the index of a gene to the index of its choice; in a slot that an arch does not use it says nothing.
    """

    space: Space
    terms: tuple[Term, ...]
    limits: tuple[Limit, ...] = ()
    pinned: Mapping[int, int] = field(default_factory=dict)
    genes: Genes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", Genes(self.space))
        sizes = self.genes.sizes_G
        for limit in self.limits:
            if limit.objective not in self.objectives:
                names = ", ".join(o.name for o in self.objectives)
                raise ProblemError(f"limit {limit}: no objective is {limit.objective.name}; there are {names}")
        for gene, choice in self.pinned.items():
            if not (0 <= gene < len(sizes) and 0 <= choice < sizes[gene]):
                raise ProblemError(f"gene {gene} is to be choice {choice}; {self.space.name} has no such gene or choice")

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(term.objective for term in self.terms)

    def evaluate(self, genes_BG: np.ndarray) -> np.ndarray:
        """The objectives' values [B, M] of the canonical form of any genes; one that is no number is a `ProblemError`."""
        return self._values(genes_BG, only_exact=False)

    def costs(self, genes_BG: np.ndarray) -> np.ndarray:
        """The same where they are exact, NaN where a predictor had to be asked."""
        return self._values(genes_BG, only_exact=True)

    def _values(self, genes_BG: np.ndarray, *, only_exact: bool) -> np.ndarray:
        canonical_BG = self.genes.canonical(genes_BG)
        values_BM = np.full((len(genes_BG), len(self.terms)), np.nan)
        for m, term in enumerate(self.terms):
            if only_exact and not term.exact:
                continue
            values_BM[:, m] = term.values(canonical_BG)
            wrong = np.flatnonzero(~np.isfinite(values_BM[:, m]))
            if len(wrong):
                [arch] = self.genes.decode(canonical_BG[wrong[:1]])
                raise ProblemError(
                    f"{term.objective.name} of {arch.key} is {values_BM[wrong[0], m]}; expected a number; "
                    "check the table or predictor that it comes from"
                )
        return values_BM


def recorded(space: Space, objective: Objective, measured: Sequence[Measured]) -> Term:
    """An objective from what was measured; an arch that was not is a `ProblemError`."""
    genes = Genes(space)
    known = {
        row.tobytes(): objective.of(m) for row, m in zip(genes.encode([m.arch for m in measured]), measured, strict=True)
    }

    def values(genes_BG: np.ndarray) -> np.ndarray:
        rows = [row.tobytes() for row in genes_BG.astype(np.int64)]
        for i, row in enumerate(rows):
            if row not in known:
                [arch] = genes.decode(genes_BG[i : i + 1])
                raise ProblemError(f"{objective.name} of {arch.key} was not measured; {len(known)} archs were")
        return np.array([known[row] for row in rows], dtype=np.float64)

    return Term(objective, values, exact=True)


class CostTable:
    """The exact MACs and params of many archs at once: sums of what each block of each size costs.

    What is not a block (stem and head) is counted once for every way it can be: it depends on the resolution, the
    stem's depth and the widths of stem and last stage.
    """

    def __init__(self, space: Space, classes: int) -> None:
        self.genes, self.space = Genes(space), space
        widths = len(space.width_choices[0]) if space.width_choices else 1
        shape = (len(space.slots), widths, widths, max(len(space.kernels), 1), len(space.expands))
        self.macs_RLIOKE = np.zeros((len(space.resolutions), *shape), dtype=np.int64)
        self.params_LIOKE = np.zeros(shape, dtype=np.int64)
        for r, resolution in enumerate(space.resolutions):
            sizes = self._sizes(resolution)
            for place in product(*(range(count) for count in shape)):
                cost = part_cost(self._block(*place), sizes[place[0]])
                self.macs_RLIOKE[(r, *place)], self.params_LIOKE[place] = cost
        # of resolution, stem depth, and the widths of the stem's two parts and the last stage
        self.fixed_macs, self.fixed_params = self._fixed(classes)

    def __call__(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """MACs and params [B] of canonical genes, as int64."""
        place, fixed = self._places(genes_BG), self._fixed_index(genes_BG)
        params_BL = self.params_LIOKE[place] * self.genes.used(genes_BG)
        macs = self.fixed_macs[fixed] + self.block_macs(genes_BG).sum(axis=1)
        return macs, self.fixed_params[fixed] + params_BL.sum(axis=1)

    def block_macs(self, genes_BG: np.ndarray) -> np.ndarray:
        """MACs of every block slot [B, L], 0 where it is not used."""
        return self.macs_RLIOKE[(genes_BG[:, :1], *self._places(genes_BG))] * self.genes.used(genes_BG)

    def _places(self, genes_BG: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where in a table of blocks each slot of each arch stands: its indices L, I, O, K, E, each [B, L]."""
        slots = self.space.slots
        slot_L, expand_BL = np.arange(len(slots)), genes_BG[:, self.genes.expand]
        none_BL = np.zeros_like(expand_BL)
        kernel_BL = genes_BG[:, self.genes.kernel] if self.space.kernels else none_BL
        if not self.space.width_choices:
            return slot_L, none_BL, none_BL, kernel_BL, expand_BL
        width_BW = genes_BG[:, self.genes.width]
        after_L = np.array([2 + slot.stage for slot in slots])
        before_L = np.array([2 + slot.stage - (slot.position == 0) for slot in slots])
        return slot_L, width_BW[:, before_L], width_BW[:, after_L], kernel_BL, expand_BL

    def _fixed_index(self, genes_BG: np.ndarray) -> tuple[np.ndarray, ...]:
        none_B = np.zeros(len(genes_BG), dtype=np.int64)
        if not self.space.width_choices:
            return genes_BG[:, 0], none_B, none_B, none_B, none_B
        width_BW = genes_BG[:, self.genes.width]
        return genes_BG[:, 0], genes_BG[:, self.genes.depth][:, 0], width_BW[:, 0], width_BW[:, 1], width_BW[:, -1]

    def _block(self, slot: int, before: int, after: int, kernel: int, expand: int) -> Part:
        here, space = self.space.slots[slot], self.space
        if isinstance(space, MobileSpace):
            return mobile_block(space, here.stage, here.position, space.kernels[kernel], space.expands[expand])
        assert isinstance(space, ResNetSpace), space
        before, after = space.widths[before], space.widths[after]
        if here.position:
            channels = bottleneck(space, here.stage, 1, 0, before, space.expands[0]).out_channels
        elif here.stage:
            channels = bottleneck(space, here.stage - 1, 1, 0, before, space.expands[0]).out_channels
        else:
            channels = resnet_stem(space, before, before)[1]
        return bottleneck(space, here.stage, here.position, channels, after, space.expands[expand])

    def _sizes(self, resolution: int) -> list[int]:
        """The side of each slot's input, in pixels."""
        size, sizes = resolution, {}
        for name, part in parts(self.space, whole(self.space)):
            sizes[name] = size
            size = strided(size, part.stride)
        return [sizes[slot_name(slot.stage, slot.position)] for slot in self.space.slots]

    def _fixed(self, classes: int) -> tuple[np.ndarray, np.ndarray]:
        space, widths = self.space, self.space.width_choices
        stems = space.depth_choices[0] if widths else (None,)
        options = [space.resolutions, stems, *([widths[i] for i in (0, 1, -1)] if widths else [(None,)] * 3)]
        shape = [len(values) for values in options]
        macs, params = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        blocks = {slot_name(slot.stage, slot.position) for slot in space.slots}
        for place in product(*(range(count) for count in shape)):
            resolution, stem, inner, outer, last = (values[i] for values, i in zip(options, place, strict=True))
            arch = whole(space)
            if widths:
                arch = replace(arch, depth=(stem, *arch.depth[1:]), width=(inner, outer, *arch.width[2:-1], last))
            total, size = head_cost(head(space, arch), classes), resolution
            for name, part in parts(space, arch):
                if name not in blocks:
                    total += part_cost(part, size)
                size = strided(size, part.stride)
            macs[place], params[place] = total
        return macs, params
