"""Once-for-All's published accuracy predictors: a multilayer perceptron on the one-hot choices of an arch.

Two published layouts (github.com/mit-han-lab/once-for-all; weights as an npz file of plain arrays):

- its tutorial's, for MobileNetV3 spaces: 20 slots × 3 kernels, 20 slots × 3 expansions, then resolutions 112, 128, ...;
- its library's: resolutions, then for ResNet-50D whether the stem has its residual convolution, 6 × 3 widths and
  18 × 3 expansions; the output is added to `base_acc`.

Inputs of unused slots are 0. Predictions lie some points above accuracies on ImageNet's validation images; they rank.
Shape letters in this file: B archs, G genes, F features, H hidden values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa import npz
from ofa.compiled import compiled
from ofa.genes import Genes
from ofa.space import MobileSpace, Space
from search.errors import ProblemError

TUTORIAL = ("0", "2", "4", "6")
LIBRARY = ("layers_0_0", "layers_1_0", "layers_2_0", "layers_3")
FIRST_PX, STEP_PX = 112, 16  # the tutorial's resolutions
RESNET_PX = (128, 144, 160, 176, 192, 224, 240, 256)


def is_published(data: bytes) -> bool:
    """Whether these bytes are one of the published files."""
    return _layers(data) is not None


class PublishedPredictor:
    """Predicted top-1 (fractions) of many archs at once."""

    def __init__(self, data: bytes, space: Space, where: str) -> None:
        """Of an npz file, for `space`; one that does not fit it is a `ProblemError`."""
        layers = _layers(data)
        if layers is None:
            raise ProblemError(
                f"{where}: is no published predictor; expected an npz file with {TUTORIAL[0]}_weight or {LIBRARY[0]}_weight"
            )
        self.genes = Genes(space)
        weights, biases, base = layers
        sizes = [w.shape[1] for w in weights]
        if any(w.shape[0] != width for w, width in zip(weights, [*sizes[1:], 1], strict=True)):
            raise ProblemError(f"{where}: its layers do not fit each other: {', '.join(str(w.shape) for w in weights)}")
        first_FH = weights[0].T[_columns(space, sizes[0], where)]
        self._weights = [np.ascontiguousarray(first_FH), *(np.ascontiguousarray(w.T) for w in weights[1:3])]
        self._biases = [b.astype(np.float32) for b in biases[:3]]
        self._last_H, self._base = weights[3][0].astype(np.float64), float(biases[3][0]) + base
        self._rows = _block_rows(self.genes)
        self._eyes = [np.eye(self.genes.sizes_G[g], dtype=np.float32) for g in self._whole()]

    @staticmethod
    def resolutions(data: bytes, space: Space) -> tuple[int, ...]:
        """Those of the space's resolutions that the predictor knows."""
        layers = _layers(data)
        assert layers is not None
        if not isinstance(space, MobileSpace):
            return tuple(r for r in space.resolutions if r in RESNET_PX)
        last = FIRST_PX + (layers[0][0].shape[1] - 6 * len(space.slots) - 1) * STEP_PX
        return tuple(r for r in space.resolutions if FIRST_PX <= r <= last and (r - FIRST_PX) % STEP_PX == 0)

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """Top-1 (fractions) of canonical genes: float64 [B]."""
        hidden_BH = self._features(genes_BG) @ self._weights[0]
        for weight_HH, bias_H in zip(self._weights[1:], self._biases[:2], strict=True):
            _rectified(hidden_BH, bias_H)
            hidden_BH = hidden_BH @ weight_HH
        _rectified(hidden_BH, self._biases[2])
        return hidden_BH @ self._last_H + self._base

    def _features(self, genes_BG: np.ndarray) -> np.ndarray:
        """One-hot resolution, stem and widths, then of every slot its kernel and expansion: float32 [B, F]."""
        rows_BF = self._rows.take(self.genes.blocks(genes_BG), axis=0).reshape(len(genes_BG), -1)
        whole = [eye.take(genes_BG[:, g], axis=0) for eye, g in zip(self._eyes, self._whole(), strict=True)]
        return np.concatenate([*whole, rows_BF], axis=1)

    def _whole(self) -> list[int]:
        """The genes that are no slot's: resolution, and of ResNet-50D the stem's depth and the widths."""
        count = len(self.genes.sizes_G)
        return [0] if self.genes.space.kernels else [0, 1, *range(count)[self.genes.width]]


def _layers(data: bytes) -> tuple[list[np.ndarray], list[np.ndarray], float] | None:
    """Weights, biases and what is added in the end."""
    for names in (TUTORIAL, LIBRARY):
        try:
            weights = npz.unpack(data, [f"{name}_weight" for name in names])
            biases = npz.unpack(data, [f"{name}_bias" for name in names[:3]])
            if names is TUTORIAL:
                return weights, [*biases, npz.unpack(data, ["6_bias"])[0]], 0.0
            return weights, [*biases, np.zeros(1)], float(npz.unpack(data, ["base_acc"])[0][0])
        except ValueError:
            continue
    return None


def _columns(space: Space, inputs: int, where: str) -> list[int]:
    """For every feature of ours the published input that it is."""
    slots = len(space.slots)
    resolutions: Sequence[int]
    kernels: Sequence[int]
    expands: Sequence[float]
    if isinstance(space, MobileSpace):
        resolutions = range(FIRST_PX, FIRST_PX + STEP_PX * (inputs - 6 * slots), STEP_PX)
        if slots != 20 or not resolutions:
            raise ProblemError(
                f"{where}: has {inputs} inputs; that of {space.name} has {6 * slots} for its {slots} slots and one for "
                "each resolution; give the predictor of this space"
            )
        kernel_at, expand_at, resolution_at = 0, 3 * slots, 6 * slots
        kernels, expands = (3, 5, 7), (3, 4, 6)
    else:
        resolutions, expands = RESNET_PX, (0.2, 0.25, 0.35)
        if inputs != len(RESNET_PX) + 2 + 3 * 6 + 3 * slots:
            raise ProblemError(
                f"{where}: has {inputs} inputs, the space {space.name} needs 82; give the predictor of this space"
            )
        resolution_at, kernels, kernel_at, expand_at = 0, (), 0, len(RESNET_PX) + 2 + 3 * 6
    if missing := [r for r in space.resolutions if r not in resolutions]:
        raise ProblemError(f"{where}: does not know resolution {missing[0]}; it knows {', '.join(map(str, resolutions))}")
    columns = [resolution_at + resolutions.index(r) for r in space.resolutions]
    if not kernels:
        columns += [len(RESNET_PX) + int(stem > 0) for stem in space.depth_choices[0]]
        columns += [len(RESNET_PX) + 2 + 3 * i + w for i, widths in enumerate(space.width_choices) for w in widths]
    for slot in range(slots):
        columns += [kernel_at + 3 * slot + kernels.index(kernel) for kernel in space.kernels]
        columns += [expand_at + 3 * slot + expands.index(expand) for expand in space.expands]
    return columns


def _block_rows(genes: Genes) -> np.ndarray:
    """The features of a slot for each kind of block: float32 [kinds, kernels + expansions]."""
    kernels, expands = len(genes.space.kernels), len(genes.space.expands)
    rows = np.zeros((genes.block_kinds, kernels + expands), dtype=np.float32)
    for kind in range(1, genes.block_kinds):
        kernel, expand = divmod(kind - 1, expands)
        if kernels:
            rows[kind, kernel] = 1
        rows[kind, kernels + expand] = 1
    return rows


@compiled
def _rectified(hidden_BH, bias_H):  # type: ignore[no-untyped-def]
    """Adds the bias and sets what is negative to 0, in one pass."""
    for b in range(hidden_BH.shape[0]):
        for h in range(hidden_BH.shape[1]):
            hidden_BH[b, h] = max(hidden_BH[b, h] + bias_H[h], np.float32(0))
