"""Exact multiply-accumulates and parameters of any sub-network, counted without building it."""

from __future__ import annotations

from ofa.arch import Arch
from ofa.graph import Cost
from ofa.space import Space


def cost(space: Space, arch: Arch, classes: int = 1000, exits: tuple[int, ...] = ()) -> Cost:
    """The cost of `arch` for one image of its own resolution, which need not be one of the space's.

    exits: of a space with several, those that are computed in one pass; () is the arch's own alone.
    """
    graph = space.graph(arch, exits, classes)
    total = Cost(0, 0)
    for node, size in zip(graph.nodes, graph.sizes(arch.resolution), strict=True):
        total += node.part.cost(size)
    return total
