"""Layers that can run as any smaller layer they contain.

Shape letters in this file: N batch, I in-channels, O out-channels, C channels, H height, W width, K kernel.
Each layer has its slicing in one method, which both `forward` and `plain` use, so that the elastic layer and
the plain one that is extracted from it compute the same to the last bit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.graph import Part

P = TypeVar("P", bound=Part)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish}


class Weights(nn.Module):
    """A module with weights of its own, whose initial values are sampled."""

    def draw(self, generator: torch.Generator) -> None:
        """Samples new initial values for every weight."""
        raise NotImplementedError


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


class ElasticConv(Weights):
    """A convolution that uses its first output channels and as many input channels as its input has.

    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (elastic width).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, bias: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def draw(self, generator: torch.Generator) -> None:
        """See `Weights.draw`; biases are unchanged."""
        he_fan_out(self.weight, generator)

    def sliced(self, in_channels: int, out_channels: int) -> tuple[Tensor, Tensor | None]:
        """The weight [out_channels, in_channels, K, K] and the bias [out_channels] or None, as views."""
        bias = None if self.bias is None else self.bias[:out_channels]
        return self.weight[:out_channels, :in_channels], bias

    def forward(self, x_NIHW: Tensor, out_channels: int) -> Tensor:
        """The first `out_channels` outputs, [N, O, H / stride, W / stride]."""
        weight, bias = self.sliced(x_NIHW.shape[1], out_channels)
        return F.conv2d(x_NIHW, weight, bias, stride=self.stride, padding=weight.shape[-1] // 2)

    def plain(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        """The plain convolution of these widths, with a copy of the weights."""
        weight, bias = self.sliced(in_channels, out_channels)
        return plain_conv(weight, stride=self.stride, bias_O=bias)


class ElasticDepthwise(Weights):
    """A depthwise convolution whose smaller kernels are transformed centres of the larger ones.

    The 5x5 kernel is the centre of the 7x7 one times a learned 25x25 matrix, the 3x3 one the centre of that
    5x5 kernel times a learned 9x9 matrix; the matrices start as identities and are shared by all channels.
    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (elastic kernel size).
    """

    def __init__(self, channels: int, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(channels, 1, kernels[-1], kernels[-1]))
        self.transforms = nn.ParameterDict({str(k): nn.Parameter(torch.eye(k * k)) for k in kernels[:-1]})

    def draw(self, generator: torch.Generator) -> None:
        """See `Weights.draw`; the kernel transforms are unchanged."""
        he_fan_out(self.weight, generator)

    def sliced(self, channels: int, kernel: int) -> Tensor:
        """The weight [channels, 1, kernel, kernel] of one kernel size (pixels)."""
        weight_C1KK = self.weight[:channels]
        for smaller in reversed(self.kernels[:-1]):
            if smaller < kernel:
                break
            edge = (weight_C1KK.shape[-1] - smaller) // 2
            centre = weight_C1KK[:, :, edge : edge + smaller, edge : edge + smaller].reshape(channels, -1)
            weight_C1KK = F.linear(centre, self.transforms[str(smaller)]).view(channels, 1, smaller, smaller)
        return weight_C1KK

    def forward(self, x_NCHW: Tensor, kernel: int) -> Tensor:
        """The output of one kernel size (pixels), [N, C, H / stride, W / stride]."""
        channels = x_NCHW.shape[1]
        weight = self.sliced(channels, kernel)
        return F.conv2d(x_NCHW, weight, stride=self.stride, padding=kernel // 2, groups=channels)

    def plain(self, channels: int, kernel: int) -> nn.Conv2d:
        """The plain convolution of this width and kernel size, with a copy of the weights."""
        return plain_conv(self.sliced(channels, kernel), stride=self.stride, groups=channels)


class ElasticNorm(nn.Module):
    """Batch normalisation of the first channels of a wider one.

    It never updates its statistics: the mean and variance of a batch, of a calibration or of a stored state are
    arguments (`ofa.norms`), because statistics shared between sub-networks are right for none of them.
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
        """As `with_batch`, with the batch's mean and biased variance [C] (torch.var_mean takes seven times as long)."""
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


Norm = Callable[[ElasticNorm, Tensor], Tensor]  # normalises the output of a layer: see ofa.norms
PlainNorm = Callable[[ElasticNorm, int], nn.BatchNorm2d]  # the plain norm of the first channels of an elastic one


class Layer(nn.Module, Generic[P]):
    """The elastic layer of a node: it can run as the largest part of that node and as every smaller one."""

    @property
    def last_norm(self) -> ElasticNorm | None:
        """The norm whose output is added to a shortcut, where there is one."""
        return None

    def forward(self, x_NCHW: Tensor, part: P, norm: Norm) -> Tensor:
        """The output of `part` for images [N, C, H, W], normalised by `norm`."""
        raise NotImplementedError

    def plain(self, part: P, norm: PlainNorm) -> nn.Module:
        """A module without elastic layers that computes the same as `part`, to the last bit."""
        raise NotImplementedError

    def sort(self, trained: Sequence[P]) -> None:
        """Reorders the inner channels by importance, if there are any; widths in `trained` keep their sets of channels."""


class PlainBlock(nn.Module):
    """A sequence of plain layers, added to its input if residual."""

    def __init__(self, layers: dict[str, nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.residual = residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y: Tensor = self.layers(x_NCHW)
        return x_NCHW + y if self.residual else y


def he_fan_out(weight_OIKK: Tensor, generator: torch.Generator) -> None:
    """Samples normal weights of variance 2 / (out-channels * kernel area), the published initialisation."""
    out_channels, kernel = weight_OIKK.shape[0], weight_OIKK.shape[-1]
    with torch.no_grad():
        weight_OIKK.normal_(0.0, math.sqrt(2.0 / (out_channels * kernel * kernel)), generator=generator)


def descending(importance_C: Tensor, bounds: Sequence[int]) -> Tensor:
    """The order of channels by importance, largest first, within each range between two of `bounds`."""
    edges = sorted({0, *bounds, len(importance_C)})
    parts = [
        start + torch.sort(importance_C[start:end], descending=True, stable=True).indices for start, end in pairwise(edges)
    ]
    return torch.cat(parts)


def permute_(tensor: Tensor, order: Tensor, dim: int = 0) -> None:
    """Reorders a tensor in place along one dimension, and with it the tensors in its attribute `companions`, if any."""
    for one in (tensor, *getattr(tensor, "companions", ())):
        one.copy_(one.index_select(dim, order))


def permute_norm_(norm: ElasticNorm, order: Tensor) -> None:
    """Reorders the channels of a norm in place."""
    for tensor in (norm.weight, norm.bias, norm.mean, norm.var):
        permute_(tensor, order)
