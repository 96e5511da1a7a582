"""The memory of many archs at once: the peak of their activations, and their weights (see `ofa.memory`).

Shape letters in this file: B archs, G genes, N nodes, R resolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa.genes import Genes
from ofa.graph import Part
from ofa.memory import BYTES, Shape, part_weight_bytes, peak_bytes, working
from ofa.space import Space
from search.costs.exact import Sums, node_tables
from search.objective import Column


@dataclass(frozen=True, slots=True)
class WeightCost:
    """The exact weights' bytes of an objective (`Objective.exact`), with classifiers of some number of classes."""

    classes: int

    def __call__(self, space: Space) -> Column:
        """The bytes of canonical genes of the space's archs: float64 [B]."""
        return Sums(node_tables(space, self.classes), lambda _name, part, _size, _resolution: part_weight_bytes(part))


@dataclass(frozen=True, slots=True)
class ActivationCost:
    """The exact peak of activations of an objective (`Objective.exact`), with classifiers of some number of classes."""

    classes: int

    def __call__(self, space: Space) -> Column:
        """The bytes of canonical genes of the space's archs: float64 [B]."""
        if is_chain(space, self.classes):
            return ChainPeaks(space, self.classes)
        genes = Genes(space)

        def peaks(genes_BG: np.ndarray) -> np.ndarray:
            archs = genes.decode(genes_BG)
            found = [peak_bytes(space.graph(arch, (), self.classes), arch.resolution) for arch in archs]
            return np.array(found, dtype=np.float64)

        return peaks


class ChainPeaks:
    """The peaks of networks in which every node's input is the output of the one before: the greatest of any node."""

    def __init__(self, space: Space, classes: int) -> None:
        self.nodes = node_tables(space, classes)
        self.fixed_R = np.zeros(len(space.resolutions))  # of the nodes that all networks have
        varying = set(self.nodes.varying)
        place = {resolution: r for r, resolution in enumerate(space.resolutions)}

        def values(name: str, part: Part, size: int, resolution: int) -> float:
            found = working(part, Shape(channels_of(part), size)).peak
            if name not in varying:
                self.fixed_R[place[resolution]] = max(self.fixed_R[place[resolution]], found)
            return found

        self.sums = Sums(self.nodes, values)

    def __call__(self, genes_BG: np.ndarray) -> np.ndarray:
        """The bytes of canonical genes: float64 [B]."""
        varying_B = self.sums.of_nodes(genes_BG).max(axis=1, initial=0)
        return np.asarray(BYTES * np.maximum(varying_B, self.fixed_R[genes_BG[:, 0]]))


def is_chain(space: Space, classes: int) -> bool:
    """Whether in every network each node's input is the output of the node before, and each part knows its channels."""
    for arch in (space.largest(), space.smallest(), *space.wholes):
        nodes = space.graph(arch, (), classes).nodes
        before = [None, *(node.name for node in nodes[:-1])]
        alone = all(len(node.inputs) == 1 for node in nodes)
        if not alone or any(b is not None and node.inputs != (b,) for b, node in zip(before, nodes, strict=True)):
            return False
        if not all(hasattr(node.part, "in_channels") for node in nodes):
            return False
    return len(space.wholes) == 1 and not space.values("level")


def channels_of(part: Part) -> int:
    """The input channels of a part of a chain."""
    channels: int = part.in_channels  # type: ignore[attr-defined]
    return channels
