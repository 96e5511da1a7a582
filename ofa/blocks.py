"""The parts a network is made of, from stem to classifier, without building it.

Costs, the supernet, extraction and channel sorting all read the same list, so none of them can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ofa.arch import Arch
from ofa.space import MULTIPLIERS, Activation, MobileSpace, ResNetSpace, Space


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than a tenth below it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def se_hidden(channels: int) -> int:
    """Hidden width of squeeze-and-excitation over `channels`."""
    return make_divisible(channels // 4)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with norm and activation, added to its input if residual."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    act: Activation
    norm: bool = True
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """The largest of every 3 by 3 pixels, at every other pixel."""

    stride: int = 2


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


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A ResNet-D block: 1x1 to `mid` channels, 3x3, 1x1; a `projects` shortcut is averaged and projected."""

    in_channels: int
    mid: int
    out_channels: int
    stride: int
    projects: bool


Part = Conv | Pool | Block | Bottleneck


@dataclass(frozen=True, slots=True)
class Head:
    """What follows pooling: a mixing layer without norm (MobileNetV3) or none, and the classifier's input width."""

    mix: Conv | None
    features: int


def parts(space: Space, arch: Arch) -> Iterator[tuple[str, Part]]:
    """What `arch` uses before its pooling, by name, in order."""
    if isinstance(space, MobileSpace):
        return _mobile_parts(space, arch)
    assert isinstance(space, ResNetSpace), space
    return _resnet_parts(space, arch)


def head(space: Space, arch: Arch) -> Head:
    """What `arch` uses after its pooling."""
    if isinstance(space, ResNetSpace):
        return Head(None, make_divisible(space.stage_widths[-1] * MULTIPLIERS[arch.width[-1]]))
    assert isinstance(space, MobileSpace), space
    if space.final_width is None:
        return Head(None, space.feature_width)
    mix = Conv(space.final_width, space.feature_width, 1, 1, space.stem_act, norm=False)
    return Head(mix, space.feature_width)


def whole(space: Space) -> Arch:
    """The arch that uses all weights there are, whatever choices `space` has left; its resolution does not matter."""
    kernel = max(space.kernels) if space.kernels else 0
    full = [
        max((slot.least for slot in space.slots if slot.entry == entry), default=2)
        for entry, _ in enumerate(space.depth_choices)
    ]
    count = len(space.slots)
    kernels = (kernel,) * count if kernel else ()
    widths = (len(MULTIPLIERS) - 1,) * len(space.width_choices)
    return Arch(space.resolutions[-1], tuple(full), kernels, (max(space.expands),) * count, widths)


def slot_name(stage: int, position: int) -> str:
    """The name of the part at a block slot."""
    return f"stage{stage}_block{position}"


def _mobile_parts(space: MobileSpace, arch: Arch) -> Iterator[tuple[str, Part]]:
    first = space.first_width or space.stem_width
    yield "stem", Conv(3, space.stem_width, 3, space.stem_stride, space.stem_act)
    yield (
        "first",
        Block(
            space.stem_width,
            mid=space.stem_width,
            out_channels=first,
            kernel=3,
            stride=1,
            act=space.first_act,
            se=False,
            widens=False,
            residual=first == space.stem_width,
        ),
    )
    for slot, kernel, expand in zip(space.slots, arch.kernel, arch.expand, strict=True):
        if arch.depth[slot.entry] >= slot.least:
            yield slot_name(slot.stage, slot.position), mobile_block(space, slot.stage, slot.position, kernel, expand)
    width = space.stages[-1].width
    if space.final_width is None:
        yield "mix", Conv(width, space.feature_width, 1, 1, space.stem_act)
    else:
        yield "final", Conv(width, space.final_width, 1, 1, space.stem_act)


def mobile_block(space: MobileSpace, stage: int, position: int, kernel: int, expand: float) -> Block:
    """The block at a slot with this kernel size (pixels) and expansion (of its input's channels)."""
    before = space.stages[stage - 1].width if stage else space.first_width or space.stem_width
    here = space.stages[stage]
    in_channels = here.width if position else before
    stride = 1 if position else here.stride
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


def _resnet_parts(space: ResNetSpace, arch: Arch) -> Iterator[tuple[str, Part]]:
    inner, outer = resnet_stem(space, arch.width[0], arch.width[1])
    yield "stem", Conv(3, inner, 3, 2, "relu")
    if arch.depth[0]:
        yield "stem_residual", Conv(inner, inner, 3, 1, "relu", residual=True)
    yield "stem_out", Conv(inner, outer, 3, 1, "relu")
    yield "pool", Pool()
    before = outer
    for slot, expand in zip(space.slots, arch.expand, strict=True):
        if arch.depth[slot.entry] >= slot.least:
            block = bottleneck(space, slot.stage, slot.position, before, arch.width[2 + slot.stage], expand)
            yield slot_name(slot.stage, slot.position), block
            before = block.out_channels


def resnet_stem(space: ResNetSpace, inner: int, outer: int) -> tuple[int, int]:
    """The stem's inner and outer width for two indices into `MULTIPLIERS`."""
    at = [make_divisible(space.stem_width * multiplier) for multiplier in MULTIPLIERS]
    return make_divisible(at[inner] // 2), at[outer]


def bottleneck(space: ResNetSpace, stage: int, position: int, in_channels: int, width: int, expand: float) -> Bottleneck:
    """The block at a slot whose stage has the `width`-th of `MULTIPLIERS`; expansion is of its output's channels."""
    out_channels = make_divisible(space.stage_widths[stage] * MULTIPLIERS[width])
    return Bottleneck(
        in_channels,
        mid=make_divisible(round(out_channels * expand)),
        out_channels=out_channels,
        stride=1 if position else space.strides[stage],
        projects=position == 0,
    )
