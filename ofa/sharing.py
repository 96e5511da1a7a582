"""The computations that several sub-networks have in common, which need to be done once for all of them.

Shape letters in this file: M sub-networks, P pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa.arch import Arch
from ofa.graph import IMAGES, Graph
from ofa.space import Space


class Computations:
    """Numbers of computations, equal for equal ones, in as many networks of one supernet as are asked for."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}

    def of(self, graph: Graph, resolution: int) -> dict[str, int]:
        """The number of each node of a network by its name, and of its images, of `resolution` pixels."""
        known = {IMAGES: self._number((IMAGES, resolution))}
        for node in graph.nodes:
            known[node.name] = self._number((node.name, node.part, *(known[name] for name in node.inputs)))
        return known

    def _number(self, computation: tuple[object, ...]) -> int:
        return self._numbers.setdefault(computation, len(self._numbers))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Computations with the sub-networks that need each: uses_MP bool [M, P], cost_P float64 [P]."""

    uses_MP: np.ndarray
    cost_P: np.ndarray


def pieces(space: Space, archs: Sequence[Arch], classes: int, field: str = "macs") -> Pieces:
    """The pieces of these sub-networks of one supernet.

    Two nodes are the same computation if their images have one resolution and both are the same part of the same layer on
    the same inputs: then weights, batch-norm statistics and outputs are equal. So the exits of one network share everything
    before the earlier exit, and networks that differ late share their beginning. Nodes that the same sub-networks need are
    one piece. field: the unit of the costs.
    """
    users: dict[int, set[int]] = {}
    costs: dict[int, int] = {}
    same = Computations()
    for member, arch in enumerate(archs):
        graph = space.graph(arch, (), classes)
        known = same.of(graph, arch.resolution)
        for node, size in zip(graph.nodes, graph.sizes(arch.resolution), strict=True):
            users.setdefault(known[node.name], set()).add(member)
            costs[known[node.name]] = getattr(node.part.cost(size), field)
    together: dict[frozenset[int], int] = {}
    for number, members in users.items():
        together[frozenset(members)] = together.get(frozenset(members), 0) + costs[number]
    uses_MP = np.array([[member in members for members in together] for member in range(len(archs))], dtype=bool)
    return Pieces(uses_MP, np.array(list(together.values()), dtype=np.float64))
