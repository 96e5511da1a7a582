"""Exact multiply-accumulates and parameters of any sub-network, counted without building it."""

from __future__ import annotations

from typing import NamedTuple

from ofa.arch import Arch
from ofa.blocks import Block, first_block, se_hidden, stages
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
    total, size = fixed_cost(space, arch.resolution, classes), after_stem(space, arch.resolution)
    for blocks in stages(space, arch):
        for block in blocks:
            total += block_cost(block, size)
            size = strided(size, block.stride)
    return total


def fixed_cost(space: Space, resolution: int, classes: int) -> Cost:
    """What every arch of a resolution has: the stem and the fixed block, the final convolution and the classifier."""
    size = after_stem(space, resolution)
    total = _conv(3, space.stem_width, kernel=3, pixels=size * size) + block_cost(first_block(space), size)
    for stage in space.stages:
        size = strided(size, stage.stride)
    total += _conv(space.stages[-1].width, space.final_width, pixels=size * size)
    weights = space.final_width * space.feature_width + space.feature_width * classes  # the mix has no norm or bias
    return total + Cost(weights, weights + classes)


def block_cost(block: Block, size: int) -> Cost:
    """One block whose input is `size` by `size` pixels."""
    after = strided(size, block.stride)
    total = _conv(block.mid, block.mid, kernel=block.kernel, pixels=after * after, groups=block.mid)
    if block.widens:
        total += _conv(block.in_channels, block.mid, pixels=size * size)
    if block.se:
        hidden = se_hidden(block.mid)
        weights = 2 * block.mid * hidden
        total += Cost(weights, weights + hidden + block.mid)
    return total + _conv(block.mid, block.out_channels, pixels=after * after)


def after_stem(space: Space, resolution: int) -> int:
    """Side of the feature maps that enter the stages, in pixels."""
    return strided(resolution, space.stem_stride)


def strided(size: int, stride: int) -> int:
    """Side of a feature map after a stride, in pixels (odd kernels with padding kernel // 2)."""
    return -(-size // stride)


def _conv(in_channels: int, out_channels: int, *, pixels: int, kernel: int = 1, groups: int = 1) -> Cost:
    """A convolution without bias and its norm's scale and shift."""
    weights = out_channels * in_channels // groups * kernel * kernel
    return Cost(weights * pixels, weights + 2 * out_channels)
