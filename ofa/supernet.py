"""The network that contains all sub-networks of a space and is told, at every call, which one to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.arch import Arch
from ofa.blocks import head, parts, whole
from ofa.layers import ElasticConv, ElasticDepthwise, ElasticNorm, ElasticUnit, Norm, elastic, he_fan_out
from ofa.norms import Statistics, by_batch, by_buffers, by_statistics
from ofa.space import Space

Drop = Callable[[Tensor], Tensor]  # features [N, F] to features


class Supernet(nn.Module):
    """Weights of the largest network of `space`; `net(images, arch)` runs any sub-network with them.

    In training mode a batch is normalised by its own statistics; in evaluation mode by `statistics`
    (`ofa.norms.calibrate`), or without them by the stored ones, which are the largest network's. Nothing is
    remembered from call to call. Source: Once-for-All, arXiv:1908.09791, sec. 3.

    generator: draws the initial weights; without it they are uninitialised, to be loaded.
    """

    def __init__(self, space: Space, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.space = space
        self.classes = classes
        full = whole(space)
        self.parts = nn.ModuleDict({name: elastic(part, space.kernels, space.eps) for name, part in parts(space, full)})
        top = head(space, full)
        self.mix = ElasticUnit(top.mix, space.eps) if top.mix else None
        # torch's own initial values would come from its global generator
        self.classifier = nn.utils.skip_init(nn.Linear, top.features, classes)
        if generator is not None:
            self.initialise(generator)

    def forward(self, images: Tensor, arch: Arch, statistics: Statistics | None = None, drop: Drop | None = None) -> Tensor:
        """Logits [N, classes] of `arch` for normalised images [N, 3, H, W]; `drop` changes the classifier's features."""
        if statistics is not None:
            return self.run(images, arch, by_statistics(self, statistics), drop)
        return self.run(images, arch, by_batch if self.training else by_buffers, drop)

    def run(self, images: Tensor, arch: Arch, norm: Norm, drop: Drop | None = None) -> Tensor:
        """`forward` with an explicit way to normalise."""
        x = images
        for name, part in parts(self.space, arch):
            x = self.parts[name](x, part, norm)
        top = head(self.space, arch)
        x = x.mean((2, 3), keepdim=True)
        if self.mix is not None:
            x = self.mix(x, top.mix, norm)
        x = x.flatten(1) if drop is None else drop(x.flatten(1))
        return F.linear(x, self.classifier.weight[:, : top.features], self.classifier.bias)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.classifier.weight.device

    def part(self, name: str) -> Any:
        """The elastic layer (`ofa.layers.elastic`) of the part that `ofa.blocks.parts` calls so."""
        return self.parts[name]

    @cached_property
    def norm_names(self) -> dict[ElasticNorm, str]:
        """The qualified name of every norm."""
        return {module: name for name, module in self.named_modules() if isinstance(module, ElasticNorm)}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws every weight anew; norms start as identities, biases at 0."""
        for module in self.modules():
            if isinstance(module, ElasticConv | ElasticDepthwise):
                he_fan_out(module.weight, generator)
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()
