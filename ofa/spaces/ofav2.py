"""The spaces of OFAv2 (arXiv:2302.01888): early exits, parallel blocks and dense skips on MobileNetV3.

`ofav2_mbv3_ee_dp_w1.0` has early exits (`ee`; `se` has a single one), dense skips (`d`) and parallel blocks (`p`; `b` has
neither), at any width multiplier. The published resolutions are 48 to 64 pixels; `_32px` and `_64px` have fewer strides, as
the MobileNetV3 spaces for small images. With `_published` the widths of heads are multiplied twice, as in the released
code: at width 1.2 it counts more parameters than Once-for-All's own network. With `_norm`, the sum of a parallel block's
branches is normalised, which the published ones are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ofa.arch import Arch, ArchError
from ofa.graph import IMAGES, Graph, Node
from ofa.layout import MAIN_BRANCH
from ofa.parts.conv import Conv, make_divisible
from ofa.parts.parallel import SumNorm, Transformation
from ofa.spaces.mobile import MobileSpace
from ofa.spaces.mobilenetv3 import NARROWEST, WIDEST
from ofa.spaces.mobilenetv3 import find as mobilenetv3

NAMES = (
    *(f"ofav2_mbv3_{exits}_{blocks}_w1.0" for exits in ("se", "ee") for blocks in ("b", "d", "p", "dp")),
    "ofav2_mbv3_ee_dp_w1.2_32px_published (any multiplier; 32px, 64px or neither; published or not; _norm)",
)
CONV_BRANCH, TRANSFORM_BRANCH = 2, 1  # the bits of a level, beside MAIN_BRANCH
LEVELS = tuple(range(1, 8))  # every set of branches but none
PUBLISHED_RESOLUTIONS = (48, 52, 56, 60, 64)
HEAD = (6, 8)  # widths of a head's two layers, as multiples of its input's


def find(name: str) -> OFAv2Space | None:
    """The space of this name, or None; a width multiplier that no network can have is an `ArchError`."""
    found = re.fullmatch(r"ofav2_mbv3_(se|ee)_(b|d|p|dp)_w([0-9]+\.[0-9]+)(_32px|_64px)?(_published)?(_norm)?", name)
    if found is None or (found[6] and "p" not in found[2]):
        return None
    exits, blocks, width, size, published, norm = found.groups()
    multiplier = float(width)
    if not NARROWEST <= multiplier <= WIDEST:
        raise ArchError(f"space {name}: the width multiplier is {multiplier}; use {NARROWEST} to {WIDEST}")
    base = mobilenetv3(f"ofa_mbv3_w{width}{size or ''}")
    unscaled = mobilenetv3("ofa_mbv3_w1.0")
    assert base is not None and unscaled is not None
    inputs = [stage.width for stage in (base if published else unscaled).stages]
    heads = tuple(
        (make_divisible(inner * multiplier), make_divisible(outer * multiplier))
        for inner, outer in ([times * width for times in HEAD] for width in inputs)
    )
    values = {field: getattr(base, field) for field in base.__dataclass_fields__}
    return OFAv2Space(
        **values
        | {
            "name": name,
            "resolutions": base.resolutions if size else PUBLISHED_RESOLUTIONS,
            "levels": LEVELS if "p" in blocks else (),
            "exits": tuple(range(1, len(base.stages) + 1)) if exits == "ee" else (),
            "dense": "d" in blocks,
            "normalised": norm is not None,
            "heads": heads,
            "final_width": heads[-1][0],
            "feature_width": heads[-1][1],
        }
    )


@dataclass(frozen=True)
class OFAv2Space(MobileSpace):
    """MobileNetV3 with exits, parallel blocks and dense skips, each of which a space may lack (arXiv:2302.01888).

    A parallel block adds up the branches in its `level`: MAIN_BRANCH, the elastic inverted residual block; CONV_BRANCH, a
    1x1 convolution; TRANSFORM_BRANCH, pooling and at most a 1x1 convolution. Of d blocks in a stage with outputs y_1 to y_d,
    a dense skip adds y_1 to y_(d-2) to the input of the next block and to the output of the stage; y_(d-1) is in y_d already
    (its block is residual). The exit after stage i has a head of widths `heads[i - 1]`; a space without `exits` has only the
    last one.
    """

    levels: tuple[int, ...] = ()
    exits: tuple[int, ...] = ()
    dense: bool = False
    normalised: bool = False  # the sum of a block's branches
    heads: tuple[tuple[int, int], ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        found = super().counts
        if self.levels:
            found["level"] = found["expand"]
        if self.exits:
            found["exit"] = 1
        return found

    @property
    def whole(self) -> Arch:
        return replace(super().whole, level=(LEVELS[-1],) * len(self.slots)) if self.levels else super().whole

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        last = arch.exit or len(self.stages)
        wanted = sorted(exits) or [last]
        beyond = [after for after in wanted if not 1 <= after <= last]
        if beyond or (exits and not self.exits):
            raise ArchError(f"{arch.key}: exit {(beyond or wanted)[0]} was asked for; it has {self._exits_up_to(last)}")
        nodes: list[Node] = []
        output: tuple[str, ...] = (IMAGES,)
        for name, part in self.before_stages():
            nodes.append(Node(name, part, output))
            output = (name,)
        outputs = []
        for stage in range(wanted[-1]):
            blocks: list[tuple[str, ...]] = []  # the names of the nodes of each block so far
            for slot in self.slots:
                if slot.stage == stage and slot.position < arch.depth[stage]:
                    place = self.slots.index(slot)
                    made = self._branches(arch, place, output)
                    nodes += made
                    blocks.append(tuple(node.name for node in made))
                    if self.normalised:
                        nodes.append(Node(f"{slot.name}_sum", SumNorm(self.stages[stage].width), blocks[-1]))
                        blocks[-1] = (nodes[-1].name,)
                    output = sum(blocks[:-2], blocks[-1]) if self.dense else blocks[-1]
            if stage + 1 in wanted:
                head, before = f"exit{stage + 1}_" if self.exits else "", output
                for name, part in self.head(self.stages[stage].width, *self.heads[stage], classes):
                    nodes.append(Node(head + name, part, before))
                    before = (head + name,)
                outputs.append(before[0])
        return Graph(tuple(nodes), tuple(outputs))

    def _branches(self, arch: Arch, place: int, inputs: tuple[str, ...]) -> list[Node]:
        """The nodes of the block in a slot, which are added up."""
        slot = self.slots[place]
        level = arch.level[place] if self.levels else MAIN_BRANCH
        block = self.block(slot.stage, slot.position, arch.kernel[place], arch.expand[place])
        nodes = []
        if level & MAIN_BRANCH:
            nodes.append(Node(slot.name, block, inputs))
        if level & CONV_BRANCH:
            conv = Conv(block.in_channels, block.out_channels, 1, block.stride, block.act)
            nodes.append(Node(f"{slot.name}_conv", conv, inputs))
        if level & TRANSFORM_BRANCH:
            transform = Transformation(block.in_channels, block.out_channels, block.stride, block.act)
            nodes.append(Node(f"{slot.name}_transform", transform, inputs))
        return nodes

    def _exits_up_to(self, last: int) -> str:
        return f"exits 1 to {last}" if self.exits else "one exit, at its end"
