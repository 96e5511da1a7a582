"""One sub-network out of a supernet, as a plain torch module that knows nothing of elasticity."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ofa.arch import Arch
from ofa.blocks import Part, head, parts
from ofa.layers import ElasticNorm
from ofa.norms import Statistics
from ofa.supernet import Supernet


class PlainNet(nn.Module):
    """A network of plain convolutions and norms: images [N, 3, H, W] to logits [N, classes]."""

    def __init__(self, features: dict[str, nn.Module], mix: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(features))
        self.mix = mix
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        x = self.mix(self.features(images).mean((2, 3), keepdim=True))
        return self.classifier(x.flatten(1))


@torch.no_grad()
def extract(net: Supernet, arch: Arch, statistics: Statistics | None = None) -> PlainNet:
    """`arch` with copies of its weights, in evaluation mode; `net(x, arch, statistics)` in eval mode gives the same logits.

    statistics: the arch's own (`ofa.norms.calibrate`); without them it gets the supernet's stored ones.
    """
    net.space.checked(arch)

    norm = _norm(net, statistics)
    features: dict[str, nn.Module] = {name: net.part(name).plain(part, norm) for name, part in parts(net.space, arch)}
    top = head(net.space, arch)
    mix = net.mix.plain(top.mix, norm) if net.mix is not None and top.mix is not None else nn.Identity()
    classifier = nn.utils.skip_init(nn.Linear, top.features, net.classes)
    classifier.weight.copy_(net.classifier.weight[:, : top.features])
    classifier.bias.copy_(net.classifier.bias)
    return PlainNet(features, mix, classifier).eval()


@torch.no_grad()
def extract_part(net: Supernet, name: str, part: Part) -> nn.Module:
    """One part of that name as it is in archs that have it so, with the supernet's stored statistics."""
    module: nn.Module = net.part(name).plain(part, _norm(net, None)).eval()
    return module


def _norm(net: Supernet, statistics: Statistics | None) -> Callable[[ElasticNorm, int], nn.BatchNorm2d]:
    """How norms are extracted."""

    def norm(layer: ElasticNorm, channels: int) -> nn.BatchNorm2d:
        mean, var = (layer.mean, layer.var) if statistics is None else statistics[net.norm_names[layer]]
        return layer.plain(channels, mean, var)

    return norm
