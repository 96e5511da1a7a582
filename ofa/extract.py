"""One sub-network out of a supernet, as a plain torch module that knows nothing of elasticity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ofa.arch import Arch
from ofa.graph import Graph, Part
from ofa.layers.base import ElasticNorm, PlainNorm
from ofa.norms import Statistics
from ofa.supernet import Supernet


class PlainNet(nn.Module):
    """A network of plain convolutions and norms: images [N, 3, H, W] to logits [N, classes], or a list of them (by exit)."""

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module], *, several: bool = False) -> None:
        """modules: of each node, by its name. several: the outputs are a list, one for each exit."""
        super().__init__()
        self.graph = graph
        self.several = several
        self.features = nn.ModuleDict({name: module for name, module in modules.items() if name not in graph.heads})
        for name in sorted(graph.heads, key=list(modules).index):
            self.add_module(name, modules[name])

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        outputs = self.graph.flow(images, lambda node, x: self.part(node.name)(x))
        return outputs if self.several else outputs[0]

    def part(self, name: str) -> nn.Module:
        """The module of a node."""
        found: nn.Module = self.get_submodule(name) if name in self.graph.heads else self.features[name]
        return found


@torch.no_grad()
def extract(net: Supernet, arch: Arch, statistics: Statistics | None = None, *, exits: Sequence[int] = ()) -> PlainNet:
    """`arch` with copies of its weights, in evaluation mode; `net(x, arch, statistics)` in eval mode gives the same logits.

    statistics: the arch's own (`ofa.norms.calibrate`); without them it gets the supernet's stored ones.
    exits: which of its exits to have, as `Supernet.run` takes them.
    """
    net.space.checked(arch)
    graph, norm = net.graph(arch, exits), _norm(net, statistics)
    modules = {node.name: net.part(node.name).plain(node.part, norm) for node in graph.nodes}
    return PlainNet(graph, modules, several=bool(exits)).eval()


@torch.no_grad()
def extract_part(net: Supernet, name: str, part: Part) -> nn.Module:
    """One part of that name as it is in archs that have it so, with the supernet's stored statistics."""
    module: nn.Module = net.part(name).plain(part, _norm(net, None)).eval()
    return module


def _norm(net: Supernet, statistics: Statistics | None) -> PlainNorm:
    """How norms are extracted."""

    def norm(layer: ElasticNorm, channels: int) -> nn.BatchNorm2d:
        mean, var = (layer.mean, layer.var) if statistics is None else statistics[net.norm_names[layer]]
        return layer.plain(channels, mean, var)

    return norm
