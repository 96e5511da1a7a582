"""The elastic layers of a parallel block's third branch and of the norm of its sum."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ofa.layers.base import ACTIVATIONS, ElasticConv, ElasticNorm, Layer, Norm, PlainBlock, PlainNorm
from ofa.parts.parallel import SumNorm, Transformation
from ofa.space import Space


class ElasticTransformation(Layer[Transformation]):
    """Pooling by the stride, a convolution where the width changes, norm and activation; nothing in it is elastic."""

    def __init__(self, largest: Transformation, space: Space) -> None:
        super().__init__()
        self.stride = largest.stride
        self.conv = ElasticConv(largest.in_channels, largest.out_channels, bias=True) if largest.projects else None
        self.norm = ElasticNorm(largest.out_channels, space.eps)
        self.act = ACTIVATIONS[largest.act]()

    def forward(self, x_NIHW: Tensor, part: Transformation, norm: Norm) -> Tensor:
        y = x_NIHW if self.stride == 1 else F.max_pool2d(x_NIHW, self.stride, stride=self.stride, ceil_mode=True)
        if self.conv is not None:
            y = self.conv(y, part.out_channels)
        activated: Tensor = self.act(norm(self.norm, y))
        return activated

    def plain(self, part: Transformation, norm: PlainNorm) -> PlainBlock:
        layers: dict[str, nn.Module] = {}
        if self.stride > 1:
            layers["pool"] = nn.MaxPool2d(self.stride, stride=self.stride, ceil_mode=True)
        if self.conv is not None:
            layers["conv"] = self.conv.plain(part.in_channels, part.out_channels)
        layers["norm"] = norm(self.norm, part.out_channels)
        layers["act"] = type(self.act)()
        return PlainBlock(layers, residual=False)


class ElasticSumNorm(Layer[SumNorm]):
    """The norm of a sum of branches, which has no elastic dimension."""

    def __init__(self, largest: SumNorm, space: Space) -> None:
        super().__init__()
        self.norm = ElasticNorm(largest.in_channels, space.eps)

    def forward(self, x_NCHW: Tensor, part: SumNorm, norm: Norm) -> Tensor:
        return norm(self.norm, x_NCHW)

    def plain(self, part: SumNorm, norm: PlainNorm) -> nn.BatchNorm2d:
        return norm(self.norm, part.in_channels)
