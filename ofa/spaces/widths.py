"""Two width multipliers in one space, as in NAT (arXiv:2005.05859): two networks that share no weights, and a gene for them.

`ofa_mbv3_w1.0_w1.2` has the MobileNetV3 supernets of both multipliers; OFAv2's spaces have the same form,
`ofav2_mbv3_ee_d_w1.0_w1.2`, and `_32px` and `_64px` are for small images. The gene `width` is the index of the multiplier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ofa.arch import Arch
from ofa.graph import IMAGES, Graph, Node
from ofa.spaces.mobilenetv3 import find as mobilenetv3
from ofa.spaces.ofav2 import OFAv2Space
from ofa.spaces.ofav2 import find as ofav2

NAMES = ("ofa_mbv3_w1.0_w1.2", "ofav2_mbv3_ee_d_w1.0_w1.2")


def find(name: str) -> WidthsSpace | None:
    """The space of this name, or None; multipliers must ascend, and each must be one of the single spaces."""
    found = re.fullmatch(r"(ofa_mbv3|ofav2_mbv3_(?:se|ee)_(?:b|d|p|dp))_w([0-9.]+)_w([0-9.]+)(_32px|_64px)?(_norm)?", name)
    if found is None:
        return None
    family, narrow, wide, size, norm = found.groups()
    variant = "ofav2_mbv3_se_b" if family == "ofa_mbv3" else family
    networks = [ofav2(f"{variant}_w{width}{size or ''}{norm or ''}") for width in (narrow, wide)]
    if None in networks or float(narrow) >= float(wide) or (norm and family == "ofa_mbv3"):
        return None
    narrower, wider = (network for network in networks if network is not None)
    resolutions = wider.resolutions
    if family == "ofa_mbv3":
        base = mobilenetv3(f"ofa_mbv3_w{wide}{size or ''}")
        assert base is not None
        resolutions = base.resolutions
    values = {field: getattr(wider, field) for field in wider.__dataclass_fields__}
    return WidthsSpace(**values | {"name": name, "resolutions": resolutions, "networks": (narrower, wider)})


@dataclass(frozen=True)
class WidthsSpace(OFAv2Space):
    """Networks of several width multipliers; `width` chooses one, and the other genes are those of each.

    The fields of `OFAv2Space` are those of the widest. The nodes of each network have names of their own.
    """

    networks: tuple[OFAv2Space, ...] = ()
    widths: tuple[int, ...] = (0, 1)

    @property
    def counts(self) -> dict[str, int]:
        return super().counts | {"width": 1}

    @property
    def wholes(self) -> tuple[Arch, ...]:
        return tuple(replace(super(WidthsSpace, self).whole, width=(index,)) for index in range(len(self.networks)))

    @property
    def whole(self) -> Arch:
        return self.wholes[-1]

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        [index] = arch.width
        graph = self.networks[index].build_graph(replace(arch, width=()), exits, classes)

        def named(name: str) -> str:
            return name if name == IMAGES else f"net{index}_{name}"

        nodes = [Node(named(node.name), node.part, tuple(map(named, node.inputs))) for node in graph.nodes]
        return Graph(tuple(nodes), tuple(map(named, graph.outputs)))
