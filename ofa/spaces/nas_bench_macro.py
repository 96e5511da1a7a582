"""The space of NAS-Bench-Macro (arXiv:2103.11922, github.com/xiusu/NAS-Bench-Macro), whose networks were all trained alone.

A network has eight layers, in stages of 2, 3 and 3. The published keys, such as 02012100, have a digit for each layer: 0 is
an identity, 1 an inverted residual block of kernel size 3 and expand ratio 3, 2 one of kernel size 5 and expand ratio 6.
Where a stage's first layer is an identity, a 1x1 convolution with norm and without activation takes its place, since the
layer changes the size and the width. The published params and FLOPs are those of `ofa.cost.cost` for images of 32 pixels
and 10 classes: FLOPs are the multiply-accumulates of convolutions and classifier, without biases, norms, activations,
additions and pooling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ofa.arch import Arch, ArchError
from ofa.checks import shown
from ofa.graph import Graph, Part, chain
from ofa.layout import MACRO_SLOTS, Gene
from ofa.parts.conv import Conv
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted
from ofa.space import Space

NAMES = ("nas_bench_macro",)
WIDTHS = (64, 128, 256)  # channels of the stages, each of which halves the size
STEM_WIDTH, FEATURE_WIDTH = 32, 1280
REDUCTION = 1  # the expand ratio of a 1x1 convolution in a stage's first place
KERNELS = {3: 3, 6: 5}  # the kernel size (pixels) of a block by its expand ratio
DIGITS = {"0": REDUCTION, "1": 3, "2": 6}  # the expand ratio of a stage's first layer by its digit in a published key
_DIGIT = {ratio: digit for digit, ratio in DIGITS.items()}


def find(name: str) -> MacroSpace | None:
    """The space if `name` is its name, else None."""
    return NAS_BENCH_MACRO if name in NAMES else None


@dataclass(frozen=True)
class MacroSpace(Space):
    """Stages of 2, 3 and 3 layers, whose kernel size and expand ratio are one choice.

    An arch's depth counts a stage's first layer and its later blocks: networks that differ only in where identities stand
    after the first layer are one network. Its expand ratio is that of a block, which also determines the kernel size, or
    `REDUCTION` for the 1x1 convolution, which only a first layer can be.
    """

    depths: tuple[int, ...] = (1, 2, 3)
    expands: tuple[int, ...] = (REDUCTION, *KERNELS)
    eps: float = 1e-5
    classes = 10

    @property
    def stride(self) -> int:
        return 2 ** len(MACRO_SLOTS)

    @property
    def counts(self) -> dict[str, int]:
        return {"depth": len(MACRO_SLOTS), "expand": sum(MACRO_SLOTS)}

    def choices_of(self, gene: Gene) -> tuple[float, ...]:
        if gene.field == "depth":
            return tuple(sorted({min(depth, MACRO_SLOTS[gene.place]) for depth in self.depths}))
        if gene.field == "expand" and self.forest.slots[gene.place].position:
            return self.blocks
        return super().choices_of(gene)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The expand ratios of blocks."""
        return tuple(ratio for ratio in self.expands if ratio in KERNELS) or (min(KERNELS),)

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        return tuple(KERNELS[ratio] for ratio in self.blocks)

    @property
    def wholes(self) -> tuple[Arch, ...]:
        """The network of the largest blocks, and with a 1x1 convolution in the first place of every stage."""
        blocks = Arch(self.resolutions[-1], MACRO_SLOTS, (), (self.blocks[-1],) * sum(MACRO_SLOTS))
        if REDUCTION not in self.expands:
            return (blocks,)
        first = [slot.position == 0 for slot in self.slots]
        mixed = zip(first, blocks.expand, strict=True)
        return blocks, replace(blocks, expand=tuple(REDUCTION if here else ratio for here, ratio in mixed))

    @property
    def whole(self) -> Arch:
        return self.wholes[0]

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        return chain(self._parts(arch, classes))

    def _parts(self, arch: Arch, classes: int) -> Iterator[tuple[str, Part]]:
        yield "stem", Conv(3, STEM_WIDTH, 3, 1, "relu")
        before = STEM_WIDTH
        for slot, ratio in zip(self.slots, arch.expand, strict=True):
            if not ratio:
                continue
            after, stride = WIDTHS[slot.stage], 1 if slot.position else 2
            if ratio == REDUCTION:
                yield f"{slot.name}_conv", Conv(before, after, 1, stride, None)
            else:
                yield (
                    slot.name,
                    Inverted(
                        before,
                        mid=round(before * ratio),
                        out_channels=after,
                        kernel=KERNELS[int(ratio)],
                        stride=stride,
                        act="relu",
                        se=False,
                        widens=True,
                        residual=stride == 1,
                    ),
                )
            before = after
        yield "final", Conv(before, FEATURE_WIDTH, 1, 1, "relu")
        yield "average", GlobalPool(FEATURE_WIDTH)
        yield "classifier", Classifier(FEATURE_WIDTH, classes)

    def named(self, name: str) -> Arch:
        """The arch of its key, or of a published key such as 02012100, which is then of the space's largest resolution."""
        if not re.fullmatch("[0-9]+", name):
            return super().named(name)
        count = sum(MACRO_SLOTS)
        if not re.fullmatch(f"[012]{{{count}}}", name):
            raise ArchError(f"{shown(name)} is no key of {self.name}; one has {count} digits from 0 to 2, such as 02012100")
        depth, expand, rest = [], [], name
        for slots in MACRO_SLOTS:
            first, later, rest = rest[0], rest[1:slots].replace("0", ""), rest[slots:]
            depth.append(1 + len(later))
            expand += [DIGITS[digit] for digit in first + later] + [0] * (slots - 1 - len(later))
        return Arch(self.resolutions[-1], tuple(depth), (), tuple(expand))

    def own_name(self, arch: Arch) -> str:
        """The published key of the network, with the identities of each stage behind its blocks."""
        return "".join(_DIGIT[int(ratio)] if ratio else "0" for ratio in arch.expand)


NAS_BENCH_MACRO = MacroSpace(name="nas_bench_macro", resolutions=(32,))
