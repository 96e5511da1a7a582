"""Elastic ResNet-D blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ofa.layers.base import ElasticConv, ElasticNorm, Layer, Norm, PlainNorm, descending, permute_, permute_norm_
from ofa.parts.bottleneck import Bottleneck
from ofa.space import Space


class ElasticBottleneck(Layer[Bottleneck]):
    """A ResNet-D block of elastic width; a `Bottleneck` selects the widths.

    Source: Bag of Tricks, arXiv:1812.01187, sec. 4.1 (ResNet-D); elastic in Once-for-All's released code.
    """

    def __init__(self, largest: Bottleneck, space: Space) -> None:
        super().__init__()
        out_channels, mid, eps = largest.out_channels, largest.mid, space.eps
        self.reduce = ElasticConv(largest.in_channels, mid)
        self.reduce_norm = ElasticNorm(mid, eps)
        self.conv = ElasticConv(mid, mid, 3, largest.stride)
        self.conv_norm = ElasticNorm(mid, eps)
        self.expand = ElasticConv(mid, out_channels)
        self.expand_norm = ElasticNorm(out_channels, eps)
        self.project = ElasticConv(largest.in_channels, out_channels) if largest.projects else None
        self.project_norm = ElasticNorm(out_channels, eps) if largest.projects else None

    def forward(self, x_NIHW: Tensor, part: Bottleneck, norm: Norm) -> Tensor:
        y = F.relu(norm(self.reduce_norm, self.reduce(x_NIHW, part.mid)))
        y = F.relu(norm(self.conv_norm, self.conv(y, part.mid)))
        y = norm(self.expand_norm, self.expand(y, part.out_channels))
        if self.project is None or self.project_norm is None:
            return F.relu(x_NIHW + y)
        averaged = F.avg_pool2d(x_NIHW, part.stride, ceil_mode=True) if part.stride > 1 else x_NIHW
        return F.relu(norm(self.project_norm, self.project(averaged, part.out_channels)) + y)

    @property
    def last_norm(self) -> ElasticNorm:
        return self.expand_norm

    def plain(self, part: Bottleneck, norm: PlainNorm) -> PlainBottleneck:
        layers: dict[str, nn.Module] = {
            "reduce": self.reduce.plain(part.in_channels, part.mid),
            "reduce_norm": norm(self.reduce_norm, part.mid),
            "reduce_act": nn.ReLU(),
            "conv": self.conv.plain(part.mid, part.mid),
            "conv_norm": norm(self.conv_norm, part.mid),
            "conv_act": nn.ReLU(),
            "expand": self.expand.plain(part.mid, part.out_channels),
            "expand_norm": norm(self.expand_norm, part.out_channels),
        }
        shortcut: dict[str, nn.Module] = {}
        if self.project is not None and self.project_norm is not None:
            if part.stride > 1:
                shortcut["average"] = nn.AvgPool2d(part.stride, ceil_mode=True)
            shortcut["project"] = self.project.plain(part.in_channels, part.out_channels)
            shortcut["project_norm"] = norm(self.project_norm, part.out_channels)
        return PlainBottleneck(layers, shortcut)

    def sort(self, trained: Sequence[Bottleneck]) -> None:
        """Sorts by the weights of the last convolution, then by those of the middle convolution."""
        bounds = [part.mid for part in trained]
        order = descending(self.expand.weight.abs().sum((0, 2, 3)), bounds)
        permute_(self.expand.weight, order, dim=1)
        permute_(self.conv.weight, order)
        permute_norm_(self.conv_norm, order)
        order = descending(self.conv.weight.abs().sum((0, 2, 3)), bounds)
        permute_(self.conv.weight, order, dim=1)
        permute_(self.reduce.weight, order)
        permute_norm_(self.reduce_norm, order)


class PlainBottleneck(nn.Module):
    """The plain form of `ElasticBottleneck` for one `Bottleneck`."""

    def __init__(self, layers: dict[str, nn.Module], shortcut: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.shortcut = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.relu(self.shortcut(x_NCHW) + self.layers(x_NCHW))
