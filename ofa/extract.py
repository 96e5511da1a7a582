"""Extracts a sub-network from a supernet as a plain torch module without elastic layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ofa.arch import Arch
from ofa.exits import combined
from ofa.graph import Graph, Part
from ofa.layers.base import ElasticNorm, PlainNorm
from ofa.norms import Statistics
from ofa.supernet import Supernet


class PlainNet(nn.Module):
    """A network of plain convolutions and norms: images [N, 3, H, W] to logits [N, classes], or a list of them (by exit)."""

    def __init__(
        self, graph: Graph, modules: Mapping[str, nn.Module], *, several: bool = False, weights: Sequence[float] = ()
    ) -> None:
        """modules: the module of each node by the node's name. several: the output is a list, one entry for each exit.

        weights: of the exits, whose weighted sum is then the output.
        """
        super().__init__()
        self.graph = graph
        self.several = several
        self.weights = tuple(weights)
        self.features = nn.ModuleDict({name: module for name, module in modules.items() if name not in graph.heads})
        for name in sorted(graph.heads, key=list(modules).index):
            self.add_module(name, modules[name])

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        outputs = self.graph.flow(images, lambda node, x: self.part(node.name)(x))
        if self.weights:
            return combined(outputs, self.weights)
        return outputs if self.several else outputs[0]

    def part(self, name: str) -> nn.Module:
        """The module of the node called `name`."""
        found: nn.Module = self.get_submodule(name) if name in self.graph.heads else self.features[name]
        return found


@torch.no_grad()
def extract(
    net: Supernet,
    arch: Arch,
    statistics: Statistics | None = None,
    *,
    exits: Sequence[int] = (),
    weights: Sequence[float] = (),
) -> PlainNet:
    """The network of `arch` with copies of its weights, in evaluation mode.

    Its logits are those of `net(x, arch, statistics)` in evaluation mode.

    statistics: the arch's own (`ofa.norms.calibrate`); without them the supernet's stored statistics are copied.
    exits: the exits to include, as `Supernet.run` takes them. weights: of their logits, whose sum is then the output.
    """
    net.space.checked(arch)
    graph, norm = net.graph(arch, exits), _norm(net, statistics)
    modules = {node.name: net.part(node.name).plain(node.part, norm) for node in graph.nodes}
    return PlainNet(graph, modules, several=bool(exits), weights=weights).eval()


@torch.no_grad()
def extract_part(net: Supernet, name: str, part: Part) -> nn.Module:
    """The named part, as archs of this form have it, with the supernet's stored statistics."""
    module: nn.Module = net.part(name).plain(part, _norm(net, None)).eval()
    return module


def _norm(net: Supernet, statistics: Statistics | None) -> PlainNorm:
    """The function that extracts norms."""

    def norm(layer: ElasticNorm, channels: int) -> nn.BatchNorm2d:
        mean, var = (layer.mean, layer.var) if statistics is None else statistics[net.norm_names[layer]]
        return layer.plain(channels, mean, var)

    return norm
