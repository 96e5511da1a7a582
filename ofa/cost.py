"""Exact multiply-accumulates and parameters of any sub-network, counted without building it."""

from __future__ import annotations

from typing import NamedTuple

from ofa.arch import Arch
from ofa.blocks import Block, Bottleneck, Conv, Head, Part, Pool, head, parts, se_hidden
from ofa.space import Space


class Cost(NamedTuple):
    """`macs` for one image: convolutions, squeeze-and-excitation and classifier; `params`: trainable values.

    The convention of the published counts (OFA's model zoo, DyNAS-T's logs): norms, activations, pooling and
    additions cost nothing, running statistics are no parameters.
    """

    macs: int
    params: int

    def __add__(self, other: tuple[int, ...]) -> Cost:  # type: ignore[override]
        return Cost(self.macs + other[0], self.params + other[1])


def cost(space: Space, arch: Arch, classes: int = 1000) -> Cost:
    """What `arch` costs at its own resolution; the resolution need not be one of the space's."""
    total, size = head_cost(head(space, arch), classes), arch.resolution
    for _, part in parts(space, arch):
        total += part_cost(part, size)
        size = strided(size, part.stride)
    return total


def head_cost(head: Head, classes: int) -> Cost:
    """The mixing layer, if there is one, and the classifier."""
    mix = head.mix.in_channels * head.mix.out_channels if head.mix else 0  # it has no norm or bias
    weights = mix + head.features * classes
    return Cost(weights, weights + classes)


def part_cost(part: Part, size: int) -> Cost:
    """One part whose input is `size` by `size` pixels."""
    before, after = size * size, strided(size, part.stride) ** 2
    match part:
        case Pool():
            return Cost(0, 0)
        case Conv():
            return _conv(part.in_channels, part.out_channels, kernel=part.kernel, pixels=after)
        case Bottleneck():
            total = _conv(part.in_channels, part.mid, pixels=before)
            total += _conv(part.mid, part.mid, kernel=3, pixels=after)
            total += _conv(part.mid, part.out_channels, pixels=after)
            return total + _conv(part.in_channels, part.out_channels, pixels=after) if part.projects else total
        case Block():
            total = _conv(part.mid, part.mid, kernel=part.kernel, pixels=after, groups=part.mid)
            if part.widens:
                total += _conv(part.in_channels, part.mid, pixels=before)
            if part.se:
                hidden = se_hidden(part.mid)
                weights = 2 * part.mid * hidden
                total += Cost(weights, weights + hidden + part.mid)
            return total + _conv(part.mid, part.out_channels, pixels=after)


def strided(size: int, stride: int) -> int:
    """Side of a feature map after a stride, in pixels (odd kernels with padding kernel // 2)."""
    return -(-size // stride)


def _conv(in_channels: int, out_channels: int, *, pixels: int, kernel: int = 1, groups: int = 1) -> Cost:
    """A convolution without bias and its norm's scale and shift."""
    weights = out_channels * in_channels // groups * kernel * kernel
    return Cost(weights * pixels, weights + 2 * out_channels)
