"""The network that contains all sub-networks of a space; each call selects one by its arch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ofa.arch import Arch
from ofa.graph import Graph, Node
from ofa.layers.base import ElasticNorm, Layer, Norm, Weights
from ofa.layers.build import build
from ofa.norms import Statistics, by_batch, by_buffers, by_statistics
from ofa.space import Space

Drop = Callable[[Tensor], Tensor]  # features [N, F] to features


class Supernet(nn.Module):
    """The weights of the largest network of `space`; `net(images, arch)` runs any sub-network with them.

    In training mode a batch is normalised by its own statistics; in evaluation mode by `statistics`
    (`ofa.norms.calibrate`), or without them by the stored ones, which are the largest network's. No state is
    kept between calls. Source: Once-for-All, arXiv:1908.09791, sec. 3.

    generator: samples the initial weights; without it they are uninitialised, to be loaded. zero_last_gamma: see
    `initialise`.
    """

    def __init__(
        self, space: Space, classes: int, generator: torch.Generator | None = None, *, zero_last_gamma: bool = False
    ) -> None:
        super().__init__()
        self.space = space
        self.classes = classes
        self.parts = nn.ModuleDict()
        graphs = self._whole_graphs()
        for graph in graphs:
            for node in graph.nodes:
                if node.name in graph.heads.intersection(self._modules) or node.name in self.parts:
                    continue  # several of the networks have it
                # the head's layers are the network's own: its weights are named `classifier.weight`, not
                # `parts.classifier...`
                (self if node.name in graph.heads else self.parts).add_module(node.name, build(node.part, space))
        self._heads = frozenset(name for graph in graphs for name in graph.heads)
        self._classifiers = tuple(name for graph in graphs for name in graph.outputs)
        if generator is not None:
            self.initialise(generator, zero_last_gamma=zero_last_gamma)

    def forward(
        self,
        images: Tensor,
        arch: Arch,
        statistics: Statistics | None = None,
        drop: Drop | None = None,
        *,
        exits: Sequence[int] = (),
    ) -> Any:
        """The logits [N, classes] of `arch` for normalised images [N, 3, H, W]; norms use the statistics described above."""
        if statistics is not None:
            return self.run(images, arch, by_statistics(self, statistics), exits=exits, drop=drop)
        return self.run(images, arch, by_batch if self.training else by_buffers, exits=exits, drop=drop)

    def run(self, images: Tensor, arch: Arch, norm: Norm, *, exits: Sequence[int] = (), drop: Drop | None = None) -> Any:
        """The logits [N, classes] of `arch` with an explicit way to normalise; for several `exits` a list of them.

        drop: a function of the features that enter a classifier, such as dropout.
        """
        graph = self.graph(arch, exits)
        outputs = frozenset(graph.outputs)

        def apply(node: Node, x: Tensor) -> Tensor:
            if drop is not None and node.name in outputs:
                x = drop(x.flatten(1))
            result: Tensor = self.part(node.name)(x, node.part, norm)
            return result

        found = graph.flow(images, apply)
        return found if exits else found[0]

    def graph(self, arch: Arch, exits: Sequence[int] = ()) -> Graph:
        """The nodes of `arch`, with a classifier of as many classes as this network has."""
        return self.space.graph(arch, tuple(exits), self.classes)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def part(self, name: str) -> Layer[Any]:
        """The elastic layer of the node called `name`."""
        layer: Layer[Any] = self._modules[name] if name in self._heads else self.parts[name]  # type: ignore[assignment]
        return layer

    @property
    def classifier_names(self) -> frozenset[str]:
        """The names in `state_dict()` of the tensors of the classifiers, of which there is one for each exit."""
        owners = tuple(f"{name}." for name in self._classifiers)
        return frozenset(name for name in self.state_dict() if name.startswith(owners))

    @cached_property
    def separate(self) -> tuple[tuple[nn.Parameter, ...], ...]:
        """The parameters of each network that shares none with another; one entry if networks share some."""
        each = [[node.name for node in graph.nodes] for graph in self._whole_graphs()]
        if len(each) == 1 or len(set(chain(*each))) < sum(map(len, each)):
            return (tuple(self.parameters()),)
        return tuple(tuple(p for name in names for p in self.part(name).parameters()) for names in each)

    def _whole_graphs(self) -> list[Graph]:
        """The networks that use all weights together, with all exits."""
        return [self.graph(whole, [int(after) for after in self.space.values("exit")]) for whole in self.space.wholes]

    @cached_property
    def norm_names(self) -> dict[ElasticNorm, str]:
        """The qualified name of every norm."""
        return {module: name for name, module in self.named_modules() if isinstance(module, ElasticNorm)}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, *, zero_last_gamma: bool = False) -> None:
        """Samples new initial values for every weight; norms start as identities, biases at 0.

        zero_last_gamma: the last norm of every residual block starts with a scale of 0, so that the block is at first its
        shortcut (BigNAS, arXiv:2003.11142, sec. 3.2).
        """
        for module in self.modules():
            if isinstance(module, Weights):
                module.draw(generator)
            if zero_last_gamma and isinstance(module, Layer) and module.last_norm is not None:
                module.last_norm.weight.zero_()
