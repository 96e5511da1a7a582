"""One sub-network out of a supernet, as a plain torch module that knows nothing of elasticity."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ofa.arch import Arch
from ofa.blocks import Block, first_block, se_hidden, stages
from ofa.layers import ACTIVATIONS, ElasticBlock, ElasticNorm, PlainBlock, PlainSqueezeExcite, plain_conv
from ofa.norms import Statistics
from ofa.supernet import Supernet


class PlainNet(nn.Module):
    """A network of plain convolutions and norms: images [N, 3, H, W] to logits [N, classes]."""

    def __init__(self, features: nn.Sequential, mix: nn.Sequential, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
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

    def norm(layer: ElasticNorm, channels: int) -> nn.BatchNorm2d:
        mean, var = (layer.mean, layer.var) if statistics is None else statistics[net.norm_names[layer]]
        return layer.plain(channels, mean, var)

    def plain_block(elastic: ElasticBlock, block: Block) -> PlainBlock:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if elastic.widen is not None and elastic.widen_norm is not None:
            layers["widen"] = elastic.widen.plain(block.in_channels, block.mid)
            layers["widen_norm"] = norm(elastic.widen_norm, block.mid)
            layers["widen_act"] = ACTIVATIONS[block.act]()
        layers["depth"] = elastic.depth.plain(block.mid, block.kernel)
        layers["depth_norm"] = norm(elastic.depth_norm, block.mid)
        layers["depth_act"] = ACTIVATIONS[block.act]()
        if elastic.se is not None:
            hidden = se_hidden(block.mid)
            layers["se"] = PlainSqueezeExcite(
                elastic.se.reduce.plain(block.mid, hidden), elastic.se.expand.plain(hidden, block.mid)
            )
        layers["narrow"] = elastic.narrow.plain(block.mid, block.out_channels)
        layers["narrow_norm"] = norm(elastic.narrow_norm, block.out_channels)
        return PlainBlock(nn.Sequential(layers), residual=block.residual)

    space = net.space
    features: OrderedDict[str, nn.Module] = OrderedDict(
        stem=plain_conv(net.stem.weight, stride=space.stem_stride),
        stem_norm=norm(net.stem_norm, space.stem_width),
        stem_act=nn.Hardswish(),
        first=plain_block(net.first, first_block(space)),
    )
    for s, (layers, blocks) in enumerate(zip(net.blocks(), stages(space, arch), strict=True)):
        for i, block in enumerate(blocks):
            features[f"stage{s}_block{i}"] = plain_block(layers[i], block)
    features["final"] = net.final.plain(space.stages[-1].width, space.final_width)
    features["final_norm"] = norm(net.final_norm, space.final_width)
    features["final_act"] = nn.Hardswish()
    mix = nn.Sequential(net.mix.plain(space.final_width, space.feature_width), nn.Hardswish())
    classifier = nn.utils.skip_init(nn.Linear, space.feature_width, net.classes)
    classifier.load_state_dict(net.classifier.state_dict())
    return PlainNet(nn.Sequential(features), mix, classifier).eval()
