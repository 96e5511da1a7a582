"""Objectives of gene arrays: exact costs from a table, accuracy from a predictor.

Shape letters in this file: B archs, G genes, L block slots, R resolutions, K kernels, E expansions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ofa.blocks import block
from ofa.cost import after_stem, block_cost, fixed_cost, strided
from ofa.genes import Genes
from ofa.space import Space

Evaluate = Callable[[np.ndarray], np.ndarray]  # genes [B, G] to objective values [B, M], each as it is


class CostTable:
    """The exact MACs and params of many archs at once: sums of what each block of each size costs."""

    def __init__(self, space: Space, classes: int) -> None:
        self.genes = Genes(space)
        slots = len(space.stages) * space.slots
        shape = (len(space.resolutions), slots, len(space.kernels), len(space.expands))
        self.macs_RLKE = np.zeros(shape, dtype=np.int64)
        self.params_LKE = np.zeros(shape[1:], dtype=np.int64)
        fixed = [fixed_cost(space, resolution, classes) for resolution in space.resolutions]
        self.fixed_macs_R = np.array([cost.macs for cost in fixed])
        self.fixed_params = fixed[0].params
        for r, resolution in enumerate(space.resolutions):
            size = after_stem(space, resolution)
            for slot in range(slots):
                stage, i = divmod(slot, space.slots)
                for k, kernel in enumerate(space.kernels):
                    for e, expand in enumerate(space.expands):
                        cost = block_cost(block(space, stage, i, kernel, expand), size)
                        self.macs_RLKE[r, slot, k, e], self.params_LKE[slot, k, e] = cost
                if i == 0:
                    size = strided(size, space.stages[stage].stride)

    def __call__(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """MACs and params [B] of canonical genes, as int64."""
        used_BL = self.genes.used(genes_BG)
        kernel_BL, expand_BL = genes_BG[:, self.genes.kernel], genes_BG[:, self.genes.expand]
        params_BL = self.params_LKE[np.arange(used_BL.shape[1]), kernel_BL, expand_BL]
        macs = self.fixed_macs_R[genes_BG[:, 0]] + self.block_macs(genes_BG).sum(axis=1)
        return macs, self.fixed_params + (params_BL * used_BL).sum(axis=1)

    def block_macs(self, genes_BG: np.ndarray) -> np.ndarray:
        """MACs of every block slot [B, L], 0 where it is not used."""
        used_BL = self.genes.used(genes_BG)
        kernel_BL, expand_BL = genes_BG[:, self.genes.kernel], genes_BG[:, self.genes.expand]
        return self.macs_RLKE[genes_BG[:, :1], np.arange(used_BL.shape[1]), kernel_BL, expand_BL] * used_BL
