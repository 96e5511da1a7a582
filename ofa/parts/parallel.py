"""The third branch of a parallel block, and the norm of the sum of its branches."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.graph import Cost, strided
from ofa.parts.conv import Activation, conv_cost


@dataclass(frozen=True, slots=True)
class Transformation:
    """Max pooling by the stride, a 1x1 convolution with bias where the width changes, norm and activation.

    Source: OFAv2, arXiv:2302.01888 (the third branch of its parallel blocks).
    """

    in_channels: int
    out_channels: int
    stride: int
    act: Activation

    @property
    def projects(self) -> bool:
        """Whether there is a convolution."""
        return self.in_channels != self.out_channels

    def cost(self, size: int) -> Cost:
        norm = Cost(0, 2 * self.out_channels)
        if not self.projects:
            return norm
        pixels = strided(size, self.stride) ** 2
        bias = Cost(0, self.out_channels)
        return conv_cost(self.in_channels, self.out_channels, pixels=pixels, norm=False) + bias + norm


@dataclass(frozen=True, slots=True)
class SumNorm:
    """The norm of the sum of a block's branches; the published networks have none."""

    in_channels: int
    stride: int = 1

    def cost(self, size: int) -> Cost:
        return Cost(0, 2 * self.in_channels)
