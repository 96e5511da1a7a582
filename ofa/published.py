"""The tensors of Once-for-All's released checkpoints under the names of our supernets.

Source: the state dicts of `OFAMobileNetV3`, `OFAProxylessNASNets` and `OFAResNets` in Once-for-All's released code. Its
channel order, widths and kernel transforms are those of `ofa.layers`, so tensors are renamed and never changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from ofa.graph import Part
from ofa.parts.bottleneck import Bottleneck
from ofa.parts.conv import Conv
from ofa.parts.head import Classifier
from ofa.parts.inverted import Inverted
from ofa.space import Space
from ofa.spaces.mobile import MobileSpace
from ofa.spaces.resnet50 import ResNetSpace
from ofa.supernet import Supernet

SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")  # of which there are released checkpoints
# Nodes by their names here and there; blocks are numbered there.
_MOBILE = {"stem": "first_conv", "first": "blocks.0.conv", "classifier": "classifier"}
_HEADS = ({"mix": "feature_mix_layer"}, {"final": "final_expand_layer", "mix": "feature_mix_layer"})
_RESNET = {
    "stem": "input_stem.0",
    "stem_residual": "input_stem.1.conv",
    "stem_out": "input_stem.2",
    "classifier": "classifier",
}
# Of each type of part, its layers here and there.
_LAYERS: dict[type[Part], dict[str, str]] = {
    Conv: {"conv": "conv", "norm": "bn"},
    Inverted: {
        "widen": "inverted_bottleneck.conv",
        "widen_norm": "inverted_bottleneck.bn",
        "depth": "depth_conv.conv",
        "depth_norm": "depth_conv.bn",
        "se.reduce": "depth_conv.se.fc.reduce",
        "se.expand": "depth_conv.se.fc.expand",
        "narrow": "point_linear.conv",
        "narrow_norm": "point_linear.bn",
    },
    Bottleneck: {
        "reduce": "conv1.conv",
        "reduce_norm": "conv1.bn",
        "conv": "conv2.conv",
        "conv_norm": "conv2.bn",
        "expand": "conv3.conv",
        "expand_norm": "conv3.bn",
        "project": "downsample.conv",
        "project_norm": "downsample.bn",
    },
    Classifier: {"": "linear"},
}
_VALUES = {"mean": "running_mean", "var": "running_var"}  # of norms
_TRANSFORM = re.compile(r"transforms\.(\d+)$")
_REPEATED = re.compile(r"\.(conv|bn|linear)(?:\.\1)+(?=\.)")


def has_checkpoints(space: Space) -> bool:
    """Whether the released code has networks of this family."""
    return type(space) in (MobileSpace, ResNetSpace)


def simplified(name: str) -> str:
    """A tensor's name in a released checkpoint without what differs between them.

    These are a prefix of data-parallel training, wrappers of elastic layers (`conv.conv`, `bn.bn`), and the older name of a
    block's branch.
    """
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return _REPEATED.sub(r".\1", name.replace(".mobile_inverted_conv.", ".conv."))


def is_transform(name: str) -> bool:
    """Whether a tensor of `Supernet.state_dict()` is a kernel transform."""
    return _TRANSFORM.search(name) is not None


def published_names(net: Supernet) -> dict[str, str]:
    """The simplified name in the released checkpoints of every tensor of `net.state_dict()`, by its name there."""
    nodes = {node.name: node.part for node in net.graph(net.space.whole).nodes}
    there = _nodes(net.space, nodes)
    found: dict[str, str] = {}
    for name in net.state_dict():
        node, _, inner = name.removeprefix("parts.").partition(".")
        layer, _, value = inner.rpartition(".")
        if transform := _TRANSFORM.search(inner):
            layer, value = inner[: transform.start() - 1], _matrix(net.space, int(transform[1]))
        published = f"{there[node]}.{_LAYERS[type(nodes[node])][layer]}.{_VALUES.get(value, value)}"
        found[name] = simplified(published)
    return found


def _nodes(space: Space, nodes: Iterable[str]) -> dict[str, str]:
    """The names of nodes in the released checkpoints."""
    if isinstance(space, ResNetSpace):
        known, block, first = _RESNET, "blocks.{}", 0
    else:
        assert isinstance(space, MobileSpace)
        known, block, first = _MOBILE | _HEADS[not space.single_last], "blocks.{}.conv", 1
    blocks = {slot.name: block.format(first + number) for number, slot in enumerate(space.slots)}
    return {name: (known | blocks).get(name, name) for name in nodes}


def _matrix(space: Space, kernel: int) -> str:
    """The name of the transform to this kernel size (pixels) from the next larger one."""
    larger = min(size for size in space.values("kernel") if size > kernel)
    return f"{larger:g}to{kernel}_matrix"


def meta_supernet(space: Space, classes: int) -> Supernet:
    """A supernet of tensors that have a shape and no values."""
    with torch.device("meta"):
        return Supernet(space, classes)
