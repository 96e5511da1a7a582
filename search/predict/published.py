"""Once-for-All's published accuracy predictors: a multilayer perceptron on the one-hot choices of an arch.

Two published layouts (github.com/mit-han-lab/once-for-all; weights as an npz file of plain arrays):

- its tutorial's, for MobileNetV3 spaces: 20 slots × 3 kernels, 20 slots × 3 expand ratios, then resolutions 112, 128, ...;
- its library's: resolutions, then for ResNet-50D whether the stem has its residual convolution, 6 × 3 widths and
  18 × 3 expand ratios; the output is added to `base_acc`.

Inputs of unused slots are 0. Predictions lie some points above accuracies on ImageNet's validation images; use them to rank.
Shape letters in this file: B archs, G genes, X choices of an arch, F features (one for each choice), H hidden values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa import npz
from ofa.compiled import compiled
from ofa.genes import Choices, Genes
from ofa.space import Space
from search.errors import ProblemError

TUTORIAL = ("0", "2", "4", "6")
LIBRARY = ("layers_0_0", "layers_1_0", "layers_2_0", "layers_3")
DEAD = 1e-20  # no weight below this changes a prediction
FIRST_PX, STEP_PX = 112, 16  # the tutorial's resolutions
RESNET_PX = (128, 144, 160, 176, 192, 224, 240, 256)


def is_published(data: bytes) -> bool:
    """Whether these bytes are one of the published files."""
    try:
        return _named(data) is not None
    except npz.NpzError:
        return False


class PublishedPredictor:
    """Predicts top-1 (fractions) of many archs at once."""

    def __init__(self, data: bytes, space: Space, where: str) -> None:
        """Reads an npz file, for `space`; raises a `ProblemError` if it does not fit."""
        self.genes = Genes(space)
        weights, biases, base = _layers(data, where)
        sizes = [w.shape[1] for w in weights]
        weights, biases = ([_without_dead(values) for values in found] for found in (weights, biases))
        published_FH = weights[0].T[_columns(space, sizes[0], where)]
        self._choices = Choices(self.genes, _whole(self.genes))
        self._first_FH = _choice_rows(self.genes, published_FH.astype(np.float32))
        self._weights = [np.ascontiguousarray(w.T) for w in weights[1:3]]
        self._biases = [b.astype(np.float32) for b in biases[:3]]
        self._last_H, self._base = weights[3][0].astype(np.float64), float(biases[3][0]) + base

    @staticmethod
    def resolutions(data: bytes, space: Space, where: str) -> tuple[int, ...]:
        """The space's resolutions that the predictor has inputs for; raises a `ProblemError` for another file."""
        weights, _, _ = _layers(data, where)
        if not space.values("kernel"):
            return tuple(r for r in space.resolutions if r in RESNET_PX)
        last = FIRST_PX + (weights[0].shape[1] - 6 * len(space.slots) - 1) * STEP_PX
        return tuple(r for r in space.resolutions if FIRST_PX <= r <= last and (r - FIRST_PX) % STEP_PX == 0)

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """Top-1 (fractions) of canonical genes: float64 [B]."""
        hidden_BH = np.empty((len(genes_BG), self._first_FH.shape[1]), dtype=np.float32)
        _first_layer(self._choices.places(genes_BG), self._first_FH, self._biases[0], hidden_BH)
        for weight_HH, bias_H in zip(self._weights, self._biases[1:], strict=True):
            hidden_BH = hidden_BH @ weight_HH
            _rectified(hidden_BH, bias_H)
        return hidden_BH @ self._last_H + self._base


def _named(data: bytes) -> tuple[str, ...] | None:
    """The names of the layers, if the file has one of the published layouts."""
    there = npz.names(data)
    return next((names for names in (TUTORIAL, LIBRARY) if f"{names[0]}_weight" in there), None)


def _layers(data: bytes, where: str) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Weights, biases and the constant added to the output; raises a `ProblemError` for another file."""
    try:
        names = _named(data)
        if names is None:
            raise npz.NpzError(f"expected an npz file with {TUTORIAL[0]}_weight or {LIBRARY[0]}_weight")
        weights = npz.unpack(data, [f"{name}_weight" for name in names])
        biases = npz.unpack(data, [f"{name}_bias" for name in (names if names is TUTORIAL else names[:3])])
        for i, weight in reversed(list(enumerate(weights))):
            outputs = 1 if i == len(weights) - 1 else weights[i + 1].shape[1]
            npz.floats(weight, f"{names[i]}_weight", [outputs, None])
            if i < len(biases):
                npz.floats(biases[i], f"{names[i]}_bias", [outputs])
        if names is TUTORIAL:
            return weights, biases, 0.0
        [base] = npz.unpack(data, ["base_acc"])
        return weights, [*biases, np.zeros(1)], float(npz.floats(base, "base_acc", [1])[0])
    except npz.NpzError as error:
        raise ProblemError(f"{where}: is no published predictor: {error}") from None


def _without_dead(values: np.ndarray) -> np.ndarray:
    """Weights with 0 for those that training has reduced to nearly nothing: subnormal numbers make products slow."""
    return np.where(np.abs(values) < DEAD, 0, values)


def _columns(space: Space, inputs: int, where: str) -> list[int]:
    """The published input of each of our features."""
    slots = len(space.slots)
    resolutions: Sequence[int]
    kernels: Sequence[int]
    expands: Sequence[float]
    if space.values("kernel"):
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
        columns += [len(RESNET_PX) + int(stem > 0) for stem in space.choices[1]]
        columns += [len(RESNET_PX) + 2 + 3 * i + w for i in range(6) for w in map(int, space.values("width"))]
    for slot in range(slots):
        columns += [kernel_at + 3 * slot + kernels.index(kernel) for kernel in space.values("kernel")]
        columns += [expand_at + 3 * slot + expands.index(expand) for expand in space.values("expand")]
    return columns


def _whole(genes: Genes) -> list[int]:
    """The genes of no slot: resolution, and for ResNet-50D the stem's depth and the widths."""
    count = len(genes.sizes_G)
    return [0] if "kernel" in genes.forest.fields else [0, 1, *range(count)[genes.of("width")]]


def _choice_rows(genes: Genes, published_FH: np.ndarray) -> np.ndarray:
    """The term that each value of each of `Choices` adds to the first layer: float32 [F, H].

    The row of a slot's kind of block is the sum of those of its kernel and its expand ratio.
    """
    kernels, expands = len(genes.space.values("kernel")), len(genes.space.values("expand"))
    whole = sum(int(genes.sizes_G[g]) for g in _whole(genes))
    rows_FH = []
    for slot_FH in published_FH[whole:].reshape(-1, kernels + expands, published_FH.shape[1]):
        kinds_FH = np.zeros((1 + max(kernels, 1) * expands, published_FH.shape[1]), dtype=np.float32)
        kinds_FH[1:] = np.tile(slot_FH[kernels:], (max(kernels, 1), 1))
        if kernels:
            kinds_FH[1:] += np.repeat(slot_FH[:kernels], expands, axis=0)
        rows_FH.append(kinds_FH)
    return np.concatenate([*rows_FH, published_FH[:whole]])


@compiled
def _first_layer(places_BX, rows_FH, bias_H, hidden_BH):  # type: ignore[no-untyped-def]
    """For every arch the ReLU of the bias plus the sum of its choices' rows, four at a time, two fours in one pass."""
    eights, fours = places_BX.shape[1] // 8 * 8, places_BX.shape[1] // 4 * 4
    for b in range(places_BX.shape[0]):
        for h in range(hidden_BH.shape[1]):
            hidden_BH[b, h] = bias_H[h]
        for x in range(0, eights, 8):
            i, j, k, n = places_BX[b, x], places_BX[b, x + 1], places_BX[b, x + 2], places_BX[b, x + 3]
            p, q, r, s = places_BX[b, x + 4], places_BX[b, x + 5], places_BX[b, x + 6], places_BX[b, x + 7]
            for h in range(hidden_BH.shape[1]):
                first = hidden_BH[b, h] + ((rows_FH[i, h] + rows_FH[j, h]) + (rows_FH[k, h] + rows_FH[n, h]))
                hidden_BH[b, h] = first + ((rows_FH[p, h] + rows_FH[q, h]) + (rows_FH[r, h] + rows_FH[s, h]))
        for x in range(eights, fours, 4):
            i, j, k, n = places_BX[b, x], places_BX[b, x + 1], places_BX[b, x + 2], places_BX[b, x + 3]
            for h in range(hidden_BH.shape[1]):
                hidden_BH[b, h] += (rows_FH[i, h] + rows_FH[j, h]) + (rows_FH[k, h] + rows_FH[n, h])
        for x in range(fours, places_BX.shape[1]):
            f = places_BX[b, x]
            for h in range(hidden_BH.shape[1]):
                hidden_BH[b, h] += rows_FH[f, h]
        for h in range(hidden_BH.shape[1]):
            hidden_BH[b, h] = max(hidden_BH[b, h], np.float32(0))


@compiled
def _rectified(hidden_BH, bias_H):  # type: ignore[no-untyped-def]
    """Adds the bias and applies ReLU, in one pass."""
    for b in range(hidden_BH.shape[0]):
        for h in range(hidden_BH.shape[1]):
            hidden_BH[b, h] = max(hidden_BH[b, h] + bias_H[h], np.float32(0))
