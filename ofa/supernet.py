"""The network that contains all sub-networks of a space and is told, at every call, which one to be."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.arch import Arch
from ofa.blocks import first_block, stages
from ofa.layers import ElasticBlock, ElasticDepthwise, ElasticNorm, ElasticPointwise, Norm, he_fan_out
from ofa.norms import Statistics, by_batch, by_buffers, by_statistics
from ofa.space import Space


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
        first = first_block(space)
        blank = nn.utils.skip_init  # torch's own initial values would come from its global generator
        self.stem = blank(nn.Conv2d, 3, space.stem_width, 3, stride=space.stem_stride, padding=1, bias=False)
        self.stem_norm = ElasticNorm(space.stem_width)
        self.first = ElasticBlock(first, (first.kernel,))
        full = space.uniform(space.resolutions[-1], space.slots, space.kernels[-1], space.expands[-1])
        self.stages = nn.ModuleList(
            nn.ModuleList(ElasticBlock(block, space.kernels) for block in blocks) for blocks in stages(space, full)
        )
        self.final = ElasticPointwise(space.stages[-1].width, space.final_width)
        self.final_norm = ElasticNorm(space.final_width)
        self.mix = ElasticPointwise(space.final_width, space.feature_width)
        self.classifier = blank(nn.Linear, space.feature_width, classes)
        if generator is not None:
            self.initialise(generator)

    def forward(self, images: Tensor, arch: Arch, statistics: Statistics | None = None) -> Tensor:
        """Logits [N, classes] of `arch` for normalised images [N, 3, H, W]."""
        if statistics is not None:
            return self.run(images, arch, by_statistics(self, statistics))
        return self.run(images, arch, by_batch if self.training else by_buffers)

    def run(self, images: Tensor, arch: Arch, norm: Norm) -> Tensor:
        """`forward` with an explicit way to normalise."""
        x = F.hardswish(norm(self.stem_norm, self.stem(images)))
        x = self.first(x, first_block(self.space), norm)
        for layers, blocks in zip(self.blocks(), stages(self.space, arch), strict=True):
            for layer, block in zip(layers, blocks, strict=False):  # the first `depth` of the stage's slots
                x = layer(x, block, norm)
        x = F.hardswish(norm(self.final_norm, self.final(x, self.space.final_width)))
        x = F.hardswish(self.mix(x.mean((2, 3), keepdim=True), self.space.feature_width))
        return self.classifier(x.flatten(1))

    def blocks(self) -> list[list[ElasticBlock]]:
        """The blocks of every slot of every stage."""
        return [list(cast(Iterable[ElasticBlock], stage)) for stage in self.stages]

    @cached_property
    def norm_names(self) -> dict[ElasticNorm, str]:
        """The qualified name of every norm."""
        return {module: name for name, module in self.named_modules() if isinstance(module, ElasticNorm)}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws every weight anew; norms start as identities, biases at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | ElasticPointwise | ElasticDepthwise):
                he_fan_out(module.weight, generator)
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()
