"""The ResNet-50D space of Once-for-All's released code (`ofa_resnets.py`); resolutions as its predictor encodes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from ofa.arch import Arch
from ofa.graph import Graph, Part, chain
from ofa.layout import BOTTLENECK_SLOTS, Gene
from ofa.parts.bottleneck import Bottleneck
from ofa.parts.conv import Conv, MaxPool, make_divisible
from ofa.parts.head import Classifier, GlobalPool
from ofa.space import Space

NAMES = ("ofa_resnet50",)


def find(name: str) -> ResNetSpace | None:
    """The space if `name` is its name, else None."""
    return RESNET50 if name in NAMES else None


MULTIPLIERS = (0.65, 0.8, 1.0)  # of ResNet-50D's widths


@dataclass(frozen=True)
class ResNetSpace(Space):
    """ResNet-50D with elastic depth, bottleneck ratio and width (Once-for-All's released code, `ofa_resnets.py`).

    An arch's `width` holds six indices into `MULTIPLIERS`: of the stem's inner and outer width and of each stage;
    its first depth entry is 2 with and 0 without the stem's residual convolution, the others count blocks beyond
    the fixed ones.
    """

    depths: tuple[int, ...]
    expands: tuple[float, ...]
    stem_width: int = 64
    stage_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    widths: tuple[int, ...] = (0, 1, 2)
    eps: float = 1e-5

    @property
    def stride(self) -> int:
        return 4 * prod(self.strides)  # the stem's convolution and its pooling

    @property
    def counts(self) -> dict[str, int]:
        stages = len(self.stage_widths)
        return {"depth": stages + 1, "expand": sum(BOTTLENECK_SLOTS), "width": stages + 2}

    def choices_of(self, gene: Gene) -> tuple[float, ...]:
        if gene.field == "depth" and gene.place == 0:  # the stem has its residual convolution or not
            return tuple(depth for depth in self.depths if depth != 1) or (2,)
        return super().choices_of(gene)

    @cached_property
    def whole(self) -> Arch:
        count, most = len(self.slots), len(MULTIPLIERS) - 1
        return Arch(self.resolutions[-1], (2,) * 5, (), (max(self.expands),) * count, (most,) * 6)

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        return chain(self._parts(arch, classes))

    def _parts(self, arch: Arch, classes: int) -> Iterator[tuple[str, Part]]:
        stem = [make_divisible(self.stem_width * multiplier) for multiplier in MULTIPLIERS]
        inner, before = make_divisible(stem[arch.width[0]] // 2), stem[arch.width[1]]
        yield "stem", Conv(3, inner, 3, 2, "relu")
        if arch.depth[0]:
            yield "stem_residual", Conv(inner, inner, 3, 1, "relu", residual=True)
        yield "stem_out", Conv(inner, before, 3, 1, "relu")
        yield "pool", MaxPool()
        for slot, expand in zip(self.slots, arch.expand, strict=True):
            if expand:
                after = make_divisible(self.stage_widths[slot.stage] * MULTIPLIERS[arch.width[2 + slot.stage]])
                yield (
                    slot.name,
                    Bottleneck(
                        before,
                        mid=make_divisible(round(after * expand)),
                        out_channels=after,
                        stride=1 if slot.position else self.strides[slot.stage],
                        projects=slot.position == 0,
                    ),
                )
                before = after
        yield "average", GlobalPool(before)
        yield "classifier", Classifier(before, classes)


RESNET50 = ResNetSpace(
    name="ofa_resnet50",
    resolutions=(128, 144, 160, 176, 192, 224, 240, 256),
    depths=(0, 1, 2),
    expands=(0.2, 0.25, 0.35),
)
