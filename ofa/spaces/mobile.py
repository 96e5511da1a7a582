"""The family of MobileNetV3 and ProxylessNAS: inverted residual blocks of elastic kernel, expand ratio and depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from ofa.arch import Arch
from ofa.graph import Graph, Part, chain
from ofa.layout import Gene
from ofa.parts.conv import Activation, Conv, make_divisible
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted
from ofa.space import Space


@dataclass(frozen=True, slots=True)
class Stage:
    """A sequence of blocks at one size; the first block applies the stride and changes the width."""

    width: int
    stride: int
    act: Activation
    se: bool


@dataclass(frozen=True)
class MobileSpace(Space):
    """Inverted residual blocks of elastic kernel, expand ratio and depth (Once-for-All, arXiv:1908.09791, sec. 3.2).

    A stem convolution and one fixed block come before the stages. After them, MobileNetV3 has an expanding
    convolution, pooling and a mixing layer without norm; ProxylessNAS (`final_width` None) has a single block that
    is always used, a mixing convolution with norm, and pooling. Widths are channels.
    """

    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    stages: tuple[Stage, ...]
    stage_slots: int
    stem_width: int
    stem_stride: int
    final_width: int | None
    feature_width: int
    first_width: int | None = None  # width of the fixed block, if it differs from the stem's
    stem_act: Activation = "h_swish"
    first_act: Activation = "relu"
    eps: float = 1e-5  # added to the variance in norms
    divisor: int = 8  # widened channels are rounded to a multiple of it

    @property
    def single_last(self) -> bool:
        """Whether the last stage is one block that is always used."""
        return self.final_width is None

    @property
    def stride(self) -> int:
        return self.stem_stride * prod(stage.stride for stage in self.stages)

    @property
    def counts(self) -> dict[str, int]:
        blocks = (len(self.stages) - self.single_last) * self.stage_slots + self.single_last
        return {"depth": len(self.stages), "kernel": blocks, "expand": blocks}

    def choices_of(self, gene: Gene) -> tuple[float, ...]:
        single = self.single_last and gene.field == "depth" and gene.place == len(self.stages) - 1
        return (1,) if single else super().choices_of(gene)

    @cached_property
    def whole(self) -> Arch:
        most = {"kernel": max(self.kernels), "expand": max(self.expands)}
        return self.arch(
            [
                most.get(gene.field) or (bound[1] if bound is not None else self.values(gene.field)[-1])
                for gene, bound in zip(self.forest.genes, self.forest.bounds, strict=True)
            ]
        )

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        return chain(self._parts(arch, classes))

    def _parts(self, arch: Arch, classes: int) -> Iterator[tuple[str, Part]]:
        yield from self.before_stages()
        for slot, kernel, expand in zip(self.slots, arch.kernel, arch.expand, strict=True):
            if expand:
                yield slot.name, self.block(slot.stage, slot.position, kernel, expand)
        width = self.stages[-1].width
        if self.final_width is None:
            yield "mix", Conv(width, self.feature_width, 1, 1, self.stem_act)
            yield "average", GlobalPool(self.feature_width)
            yield "classifier", Classifier(self.feature_width, classes)
        else:
            yield from self.head(width, self.final_width, self.feature_width, classes)

    def before_stages(self) -> Iterator[tuple[str, Part]]:
        """The stem and the fixed block, with their names."""
        first = self.first_width or self.stem_width
        yield "stem", Conv(3, self.stem_width, 3, self.stem_stride, self.stem_act)
        yield (
            "first",
            Inverted(
                self.stem_width,
                mid=self.stem_width,
                out_channels=first,
                kernel=3,
                stride=1,
                act=self.first_act,
                se=False,
                widens=False,
                residual=first == self.stem_width,
            ),
        )

    def head(self, width: int, final: int, features: int, classes: int) -> Iterator[tuple[str, Part]]:
        """MobileNetV3's head on `width` channels: an expanding convolution to `final`, pooling, `features`, a classifier."""
        yield "final", Conv(width, final, 1, 1, self.stem_act)
        yield "average", GlobalPool(final)
        yield "mix", Conv(final, features, 1, 1, self.stem_act, norm=False)
        yield "classifier", Classifier(features, classes)

    def block(self, stage: int, position: int, kernel: int, expand: float) -> Inverted:
        """The block of a slot with this kernel size (pixels) and expand ratio (relative to its input's channels)."""
        before = self.stages[stage - 1].width if stage else self.first_width or self.stem_width
        here = self.stages[stage]
        in_channels = here.width if position else before
        stride = 1 if position else here.stride
        return Inverted(
            in_channels,
            mid=make_divisible(round(in_channels * expand), self.divisor),
            out_channels=here.width,
            kernel=kernel,
            stride=stride,
            act=here.act,
            se=here.se,
            widens=True,
            residual=stride == 1 and in_channels == here.width,
        )
