"""The blocks a network is made of, from stem to classifier, without building it."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.arch import Arch
from ofa.space import Activation, Space


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than a tenth below it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def se_hidden(channels: int) -> int:
    """Hidden width of squeeze-and-excitation over `channels`."""
    return make_divisible(channels // 4)


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted residual block: widen to `mid` channels, depthwise convolution, narrow again."""

    in_channels: int
    mid: int
    out_channels: int
    kernel: int
    stride: int
    act: Activation
    se: bool
    widens: bool  # has the first 1x1 convolution; the fixed block before the stages has none
    residual: bool


def first_block(space: Space) -> Block:
    """The fixed block between the stem and the stages."""
    width = space.stem_width
    return Block(width, width, width, kernel=3, stride=1, act="relu", se=False, widens=False, residual=True)


def block(space: Space, stage: int, slot: int, kernel: int, expand: float) -> Block:
    """The block at `slot` of `stage` with this kernel size (pixels) and expansion (of its input's channels)."""
    before = space.stages[stage - 1].width if stage else space.stem_width
    here = space.stages[stage]
    in_channels = here.width if slot else before
    stride = 1 if slot else here.stride
    return Block(
        in_channels,
        mid=make_divisible(round(in_channels * expand), space.divisor),
        out_channels=here.width,
        kernel=kernel,
        stride=stride,
        act=here.act,
        se=here.se,
        widens=True,
        residual=stride == 1 and in_channels == here.width,
    )


def stages(space: Space, arch: Arch) -> list[list[Block]]:
    """The blocks of each stage that `arch` uses."""
    return [
        [block(space, s, i, arch.kernel[s * space.slots + i], arch.expand[s * space.slots + i]) for i in range(depth)]
        for s, depth in enumerate(arch.depth)
    ]
