"""Inverted residual blocks of MobileNetV3 and ProxylessNAS."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.graph import Cost, strided
from ofa.parts.conv import Activation, conv_cost, make_divisible


def se_hidden(channels: int) -> int:
    """The hidden width of squeeze-and-excitation over `channels`."""
    return make_divisible(channels // 4)


@dataclass(frozen=True, slots=True)
class Inverted:
    """An inverted residual block: 1x1 to `mid` channels, depthwise convolution, 1x1 to the output channels."""

    in_channels: int
    mid: int
    out_channels: int
    kernel: int
    stride: int
    act: Activation
    se: bool
    widens: bool  # has the first 1x1 convolution; the fixed block before the stages has none
    residual: bool

    def cost(self, size: int) -> Cost:
        before, after = size * size, strided(size, self.stride) ** 2
        total = conv_cost(self.mid, self.mid, kernel=self.kernel, pixels=after, groups=self.mid)
        if self.widens:
            total += conv_cost(self.in_channels, self.mid, pixels=before)
        if self.se:
            hidden = se_hidden(self.mid)
            weights = 2 * self.mid * hidden
            total += Cost(weights, weights + hidden + self.mid)
        return total + conv_cost(self.mid, self.out_channels, pixels=after)
