"""Layers that can run as any smaller layer they contain.

Shape letters in this file: N batch, I in-channels, O out-channels, C channels, H height, W width, K kernel.
Each layer has its slicing in one method, which both `forward` and `plain` use, so that the elastic layer and
the plain one that is extracted from it compute the same to the last bit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.blocks import Block, Bottleneck, Conv, Part, Pool, se_hidden

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish}


def plain_conv(weight_OIKK: Tensor, *, stride: int = 1, groups: int = 1, bias_O: Tensor | None = None) -> nn.Conv2d:
    """A plain convolution with these weights, padded to keep the size at stride 1."""
    out_channels, in_channels, kernel, _ = weight_OIKK.shape
    conv = nn.utils.skip_init(
        nn.Conv2d,
        in_channels * groups,
        out_channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=bias_O is not None,
    )
    with torch.no_grad():
        conv.weight.copy_(weight_OIKK)
        if bias_O is not None:
            assert conv.bias is not None
            conv.bias.copy_(bias_O)
    return conv


class ElasticConv(nn.Module):
    """A convolution that uses its first outputs and as many input channels as it is given.

    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (elastic width).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, bias: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def sliced(self, in_channels: int, out_channels: int) -> tuple[Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias[:out_channels]
        return self.weight[:out_channels, :in_channels], bias

    def forward(self, x_NIHW: Tensor, out_channels: int) -> Tensor:
        weight, bias = self.sliced(x_NIHW.shape[1], out_channels)
        return F.conv2d(x_NIHW, weight, bias, stride=self.stride, padding=weight.shape[-1] // 2)

    def plain(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        weight, bias = self.sliced(in_channels, out_channels)
        return plain_conv(weight, stride=self.stride, bias_O=bias)


class ElasticDepthwise(nn.Module):
    """A depthwise convolution whose smaller kernels are transformed centres of the larger ones.

    The 5x5 kernel is the centre of the 7x7 one times a learned 25x25 matrix, the 3x3 one the centre of that
    5x5 kernel times a learned 9x9 matrix; the matrices start as identities and all channels share them.
    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (elastic kernel size).
    """

    def __init__(self, channels: int, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(channels, 1, kernels[-1], kernels[-1]))
        self.transforms = nn.ParameterDict({str(k): nn.Parameter(torch.eye(k * k)) for k in kernels[:-1]})

    def sliced(self, channels: int, kernel: int) -> Tensor:
        weight_C1KK = self.weight[:channels]
        for smaller in reversed(self.kernels[:-1]):
            if smaller < kernel:
                break
            edge = (weight_C1KK.shape[-1] - smaller) // 2
            centre = weight_C1KK[:, :, edge : edge + smaller, edge : edge + smaller].reshape(channels, -1)
            weight_C1KK = F.linear(centre, self.transforms[str(smaller)]).view(channels, 1, smaller, smaller)
        return weight_C1KK

    def forward(self, x_NCHW: Tensor, kernel: int) -> Tensor:
        channels = x_NCHW.shape[1]
        weight = self.sliced(channels, kernel)
        return F.conv2d(x_NCHW, weight, stride=self.stride, padding=kernel // 2, groups=channels)

    def plain(self, channels: int, kernel: int) -> nn.Conv2d:
        return plain_conv(self.sliced(channels, kernel), stride=self.stride, groups=channels)


class ElasticNorm(nn.Module):
    """Batch normalisation of the first channels of a wider one.

    It never updates its statistics: what a batch, a calibration or a stored state says of mean and variance
    comes in from outside (`ofa.norms`), because statistics shared between sub-networks belong to none of them.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def with_batch(self, x_NCHW: Tensor) -> Tensor:
        """Normalised by the batch's own mean and variance."""
        c = x_NCHW.shape[1]
        return F.batch_norm(x_NCHW, None, None, self.weight[:c], self.bias[:c], training=True, eps=self.eps)

    def observed(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`with_batch`, and the batch's mean and biased variance [C] (torch.var_mean takes seven times as long)."""
        c = x_NCHW.shape[1]
        mean_C, var_C = torch.zeros_like(self.mean[:c]), torch.zeros_like(self.var[:c])
        y = F.batch_norm(x_NCHW, mean_C, var_C, self.weight[:c], self.bias[:c], training=True, momentum=1.0, eps=self.eps)
        count = x_NCHW.numel() // c
        return y, mean_C, var_C * ((count - 1) / count)

    def with_statistics(self, x_NCHW: Tensor, mean_C: Tensor, var_C: Tensor) -> Tensor:
        """Normalised by a given mean and variance of at least as many channels."""
        c = x_NCHW.shape[1]
        return F.batch_norm(x_NCHW, mean_C[:c], var_C[:c], self.weight[:c], self.bias[:c], eps=self.eps)

    def plain(self, channels: int, mean_C: Tensor, var_C: Tensor) -> nn.BatchNorm2d:
        norm = nn.BatchNorm2d(channels, eps=self.eps)
        with torch.no_grad():
            norm.weight.copy_(self.weight[:channels])
            norm.bias.copy_(self.bias[:channels])
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean_C[:channels])
            norm.running_var.copy_(var_C[:channels])
        return norm


Norm = Callable[[ElasticNorm, Tensor], Tensor]  # how a layer's output is normalised: see ofa.norms
PlainNorm = Callable[[ElasticNorm, int], nn.BatchNorm2d]  # the plain norm of the first channels of an elastic one


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-and-excitation whose hidden width follows the width of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = se_hidden(channels)
        self.reduce = ElasticConv(channels, hidden, bias=True)
        self.expand = ElasticConv(hidden, channels, bias=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        channels = x_NCHW.shape[1]
        y_NC11 = F.relu(self.reduce(x_NCHW.mean((2, 3), keepdim=True), se_hidden(channels)))
        return x_NCHW * F.hardsigmoid(self.expand(y_NC11, channels))


class PlainSqueezeExcite(nn.Module):
    """What `ElasticSqueezeExcite` is at one width."""

    def __init__(self, reduce: nn.Conv2d, expand: nn.Conv2d) -> None:
        super().__init__()
        self.reduce = reduce
        self.expand = expand

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NC11 = F.relu(self.reduce(x_NCHW.mean((2, 3), keepdim=True)))
        return x_NCHW * F.hardsigmoid(self.expand(y_NC11))


class ElasticUnit(nn.Module):
    """A convolution with norm (or without) and activation."""

    def __init__(self, largest: Conv, eps: float) -> None:
        super().__init__()
        self.conv = ElasticConv(largest.in_channels, largest.out_channels, largest.kernel, largest.stride)
        self.norm = ElasticNorm(largest.out_channels, eps) if largest.norm else None
        self.act = ACTIVATIONS[largest.act]()

    def forward(self, x_NIHW: Tensor, conv: Conv, norm: Norm) -> Tensor:
        y = self.conv(x_NIHW, conv.out_channels)
        if self.norm is not None:
            y = norm(self.norm, y)
        y = self.act(y)
        return x_NIHW + y if conv.residual else y

    def plain(self, conv: Conv, norm: PlainNorm) -> PlainBlock:
        layers: dict[str, nn.Module] = {"conv": self.conv.plain(conv.in_channels, conv.out_channels)}
        if self.norm is not None:
            layers["norm"] = norm(self.norm, conv.out_channels)
        layers["act"] = type(self.act)()
        return PlainBlock(layers, residual=conv.residual)


class ElasticPool(nn.Module):
    """The pooling of ResNet's stem, which has nothing elastic."""

    def __init__(self, largest: Pool, eps: float) -> None:
        super().__init__()
        self.stride = largest.stride

    def forward(self, x_NCHW: Tensor, pool: Pool, norm: Norm) -> Tensor:
        return F.max_pool2d(x_NCHW, 3, stride=self.stride, padding=1)

    def plain(self, pool: Pool, norm: PlainNorm) -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=self.stride, padding=1)


class ElasticBlock(nn.Module):
    """An inverted residual block of elastic width and kernel size; `Block` says which one to be."""

    def __init__(self, largest: Block, kernels: tuple[int, ...], eps: float) -> None:
        super().__init__()
        mid = largest.mid
        self.act = ACTIVATIONS[largest.act]()
        self.widen = ElasticConv(largest.in_channels, mid) if largest.widens else None
        self.widen_norm = ElasticNorm(mid, eps) if largest.widens else None
        self.depth = ElasticDepthwise(mid, kernels, largest.stride)
        self.depth_norm = ElasticNorm(mid, eps)
        self.se = ElasticSqueezeExcite(mid) if largest.se else None
        self.narrow = ElasticConv(mid, largest.out_channels)
        self.narrow_norm = ElasticNorm(largest.out_channels, eps)

    def forward(self, x_NIHW: Tensor, block: Block, norm: Norm) -> Tensor:
        y = x_NIHW
        if self.widen is not None and self.widen_norm is not None:
            y = self.act(norm(self.widen_norm, self.widen(y, block.mid)))
        y = self.act(norm(self.depth_norm, self.depth(y, block.kernel)))
        if self.se is not None:
            y = self.se(y)
        y = norm(self.narrow_norm, self.narrow(y, block.out_channels))
        return x_NIHW + y if block.residual else y

    def plain(self, block: Block, norm: PlainNorm) -> PlainBlock:
        layers: dict[str, nn.Module] = {}
        if self.widen is not None and self.widen_norm is not None:
            layers["widen"] = self.widen.plain(block.in_channels, block.mid)
            layers["widen_norm"] = norm(self.widen_norm, block.mid)
            layers["widen_act"] = type(self.act)()
        layers["depth"] = self.depth.plain(block.mid, block.kernel)
        layers["depth_norm"] = norm(self.depth_norm, block.mid)
        layers["depth_act"] = type(self.act)()
        if self.se is not None:
            hidden = se_hidden(block.mid)
            layers["se"] = PlainSqueezeExcite(
                self.se.reduce.plain(block.mid, hidden), self.se.expand.plain(hidden, block.mid)
            )
        layers["narrow"] = self.narrow.plain(block.mid, block.out_channels)
        layers["narrow_norm"] = norm(self.narrow_norm, block.out_channels)
        return PlainBlock(layers, residual=block.residual)


class ElasticBottleneck(nn.Module):
    """A ResNet-D block of elastic width; `Bottleneck` says which one to be.

    Source: Bag of Tricks, arXiv:1812.01187, sec. 4.1 (ResNet-D); elastic in Once-for-All's released code.
    """

    def __init__(self, largest: Bottleneck, eps: float) -> None:
        super().__init__()
        out_channels, mid = largest.out_channels, largest.mid
        self.reduce = ElasticConv(largest.in_channels, mid)
        self.reduce_norm = ElasticNorm(mid, eps)
        self.conv = ElasticConv(mid, mid, 3, largest.stride)
        self.conv_norm = ElasticNorm(mid, eps)
        self.expand = ElasticConv(mid, out_channels)
        self.expand_norm = ElasticNorm(out_channels, eps)
        self.project = ElasticConv(largest.in_channels, out_channels) if largest.projects else None
        self.project_norm = ElasticNorm(out_channels, eps) if largest.projects else None

    def forward(self, x_NIHW: Tensor, block: Bottleneck, norm: Norm) -> Tensor:
        y = F.relu(norm(self.reduce_norm, self.reduce(x_NIHW, block.mid)))
        y = F.relu(norm(self.conv_norm, self.conv(y, block.mid)))
        y = norm(self.expand_norm, self.expand(y, block.out_channels))
        if self.project is None or self.project_norm is None:
            return F.relu(x_NIHW + y)
        averaged = F.avg_pool2d(x_NIHW, block.stride, ceil_mode=True) if block.stride > 1 else x_NIHW
        return F.relu(norm(self.project_norm, self.project(averaged, block.out_channels)) + y)

    def plain(self, block: Bottleneck, norm: PlainNorm) -> PlainBottleneck:
        layers: dict[str, nn.Module] = {
            "reduce": self.reduce.plain(block.in_channels, block.mid),
            "reduce_norm": norm(self.reduce_norm, block.mid),
            "reduce_act": nn.ReLU(),
            "conv": self.conv.plain(block.mid, block.mid),
            "conv_norm": norm(self.conv_norm, block.mid),
            "conv_act": nn.ReLU(),
            "expand": self.expand.plain(block.mid, block.out_channels),
            "expand_norm": norm(self.expand_norm, block.out_channels),
        }
        shortcut: dict[str, nn.Module] = {}
        if self.project is not None and self.project_norm is not None:
            if block.stride > 1:
                shortcut["average"] = nn.AvgPool2d(block.stride, ceil_mode=True)
            shortcut["project"] = self.project.plain(block.in_channels, block.out_channels)
            shortcut["project_norm"] = norm(self.project_norm, block.out_channels)
        return PlainBottleneck(layers, shortcut)


Elastic = ElasticUnit | ElasticPool | ElasticBlock | ElasticBottleneck


def elastic(largest: Part, kernels: tuple[int, ...], eps: float) -> Elastic:
    """The layer that can be `largest` and every smaller part in its place, with uninitialised weights."""
    match largest:
        case Conv():
            return ElasticUnit(largest, eps)
        case Pool():
            return ElasticPool(largest, eps)
        case Bottleneck():
            return ElasticBottleneck(largest, eps)
        case Block():
            return ElasticBlock(largest, kernels if largest.widens else (largest.kernel,), eps)


class PlainBlock(nn.Module):
    """A sequence of plain layers, added to its input if residual."""

    def __init__(self, layers: dict[str, nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.residual = residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y: Tensor = self.layers(x_NCHW)
        return x_NCHW + y if self.residual else y


class PlainBottleneck(nn.Module):
    """What `ElasticBottleneck` is for one `Bottleneck`."""

    def __init__(self, layers: dict[str, nn.Module], shortcut: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.shortcut = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.relu(self.shortcut(x_NCHW) + self.layers(x_NCHW))


def he_fan_out(weight_OIKK: Tensor, generator: torch.Generator) -> None:
    """Draws normal weights of variance 2 / (out-channels * kernel area), the published initialisation."""
    out_channels, kernel = weight_OIKK.shape[0], weight_OIKK.shape[-1]
    with torch.no_grad():
        weight_OIKK.normal_(0.0, math.sqrt(2.0 / (out_channels * kernel * kernel)), generator=generator)
