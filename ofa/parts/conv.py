"""Convolutions and pooling, and the rounding of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ofa.graph import Cost, strided

Activation = Literal["relu", "relu6", "h_swish"]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than a tenth below it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_cost(
    in_channels: int, out_channels: int, *, pixels: int, kernel: int = 1, groups: int = 1, norm: bool = True
) -> Cost:
    """The cost of a convolution without bias and its norm's scale and shift; `pixels` are those of its output."""
    weights = out_channels * in_channels // groups * kernel * kernel
    return Cost(weights * pixels, weights + (2 * out_channels if norm else 0))


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with or without norm and activation; added to its input if residual."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    act: Activation | None
    norm: bool = True
    residual: bool = False

    def cost(self, size: int) -> Cost:
        pixels = strided(size, self.stride) ** 2
        return conv_cost(self.in_channels, self.out_channels, kernel=self.kernel, pixels=pixels, norm=self.norm)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max pooling of 3 by 3 pixels with stride 2."""

    stride: int = 2

    def cost(self, size: int) -> Cost:
        return Cost(0, 0)
