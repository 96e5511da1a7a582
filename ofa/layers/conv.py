"""Elastic convolutions with norm and activation, pooling, and the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.layers.base import ACTIVATIONS, ElasticConv, ElasticNorm, Layer, Norm, PlainBlock, PlainNorm, Weights
from ofa.parts.conv import Conv, MaxPool
from ofa.parts.head import Classifier, GlobalPool
from ofa.space import Space


class ElasticUnit(Layer[Conv]):
    """A convolution with or without norm and activation."""

    def __init__(self, largest: Conv, space: Space) -> None:
        super().__init__()
        self.conv = ElasticConv(largest.in_channels, largest.out_channels, largest.kernel, largest.stride)
        self.norm = ElasticNorm(largest.out_channels, space.eps) if largest.norm else None
        self.act = ACTIVATIONS[largest.act]() if largest.act else None

    def forward(self, x_NIHW: Tensor, part: Conv, norm: Norm) -> Tensor:
        y = self.conv(x_NIHW, part.out_channels)
        if self.norm is not None:
            y = norm(self.norm, y)
        if self.act is not None:
            y = self.act(y)
        return x_NIHW + y if part.residual else y

    def plain(self, part: Conv, norm: PlainNorm) -> PlainBlock:
        layers: dict[str, nn.Module] = {"conv": self.conv.plain(part.in_channels, part.out_channels)}
        if self.norm is not None:
            layers["norm"] = norm(self.norm, part.out_channels)
        if self.act is not None:
            layers["act"] = type(self.act)()
        return PlainBlock(layers, residual=part.residual)


class ElasticMaxPool(Layer[MaxPool]):
    """The pooling of ResNet's stem, which has no elastic dimension."""

    def __init__(self, largest: MaxPool, space: Space) -> None:
        super().__init__()
        self.stride = largest.stride

    def forward(self, x_NCHW: Tensor, part: MaxPool, norm: Norm) -> Tensor:
        return F.max_pool2d(x_NCHW, 3, stride=self.stride, padding=1)

    def plain(self, part: MaxPool, norm: PlainNorm) -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=self.stride, padding=1)


class ElasticGlobalPool(Layer[GlobalPool]):
    """Global pooling, which has no elastic dimension."""

    def __init__(self, largest: GlobalPool, space: Space) -> None:
        super().__init__()

    def forward(self, x_NCHW: Tensor, part: GlobalPool, norm: Norm) -> Tensor:
        return x_NCHW.mean((2, 3), keepdim=True)

    def plain(self, part: GlobalPool, norm: PlainNorm) -> PlainGlobalPool:
        return PlainGlobalPool()


class PlainGlobalPool(nn.Module):
    """The plain form of `ElasticGlobalPool`; `nn.AdaptiveAvgPool2d` adds in another order."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.mean((2, 3), keepdim=True)


class ElasticClassifier(Layer[Classifier], Weights):
    """A linear layer on the first features."""

    def __init__(self, largest: Classifier, space: Space) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(largest.classes, largest.in_channels))
        self.bias = nn.Parameter(torch.zeros(largest.classes))

    def draw(self, generator: torch.Generator) -> None:
        bound = self.weight.shape[1] ** -0.5
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            self.bias.zero_()

    def forward(self, x_NCHW: Tensor, part: Classifier, norm: Norm) -> Tensor:
        return F.linear(x_NCHW.flatten(1), self.weight[:, : part.in_channels], self.bias)

    def plain(self, part: Classifier, norm: PlainNorm) -> PlainClassifier:
        linear = nn.utils.skip_init(PlainClassifier, part.in_channels, part.classes)
        with torch.no_grad():
            linear.weight.copy_(self.weight[:, : part.in_channels])
            linear.bias.copy_(self.bias)
        return linear


class PlainClassifier(nn.Linear):
    """A linear layer on pooled features [N, C, 1, 1]."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return super().forward(x_NCHW.flatten(1))
