"""Elastic inverted residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ofa.layers.base import (
    ACTIVATIONS,
    ElasticConv,
    ElasticDepthwise,
    ElasticNorm,
    Layer,
    Norm,
    PlainBlock,
    PlainNorm,
    descending,
    permute_,
    permute_norm_,
)
from ofa.parts.inverted import Inverted, se_hidden
from ofa.space import Space


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
    """The plain form of `ElasticSqueezeExcite` at one width."""

    def __init__(self, reduce: nn.Conv2d, expand: nn.Conv2d) -> None:
        super().__init__()
        self.reduce = reduce
        self.expand = expand

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NC11 = F.relu(self.reduce(x_NCHW.mean((2, 3), keepdim=True)))
        return x_NCHW * F.hardsigmoid(self.expand(y_NC11))


class ElasticInverted(Layer[Inverted]):
    """An inverted residual block of elastic width and kernel size; an `Inverted` selects them."""

    def __init__(self, largest: Inverted, space: Space) -> None:
        super().__init__()
        mid, eps = largest.mid, space.eps
        self.residual = largest.residual
        kernels = space.kernel_sizes if largest.widens else (largest.kernel,)
        self.act = ACTIVATIONS[largest.act]()
        self.widen = ElasticConv(largest.in_channels, mid) if largest.widens else None
        self.widen_norm = ElasticNorm(mid, eps) if largest.widens else None
        self.depth = ElasticDepthwise(mid, kernels, largest.stride)
        self.depth_norm = ElasticNorm(mid, eps)
        self.se = ElasticSqueezeExcite(mid) if largest.se else None
        self.narrow = ElasticConv(mid, largest.out_channels)
        self.narrow_norm = ElasticNorm(largest.out_channels, eps)

    def forward(self, x_NIHW: Tensor, part: Inverted, norm: Norm) -> Tensor:
        y = x_NIHW
        if self.widen is not None and self.widen_norm is not None:
            y = self.act(norm(self.widen_norm, self.widen(y, part.mid)))
        y = self.act(norm(self.depth_norm, self.depth(y, part.kernel)))
        if self.se is not None:
            y = self.se(y)
        y = norm(self.narrow_norm, self.narrow(y, part.out_channels))
        return x_NIHW + y if part.residual else y

    @property
    def last_norm(self) -> ElasticNorm | None:
        return self.narrow_norm if self.residual else None

    def plain(self, part: Inverted, norm: PlainNorm) -> PlainBlock:
        layers: dict[str, nn.Module] = {}
        if self.widen is not None and self.widen_norm is not None:
            layers["widen"] = self.widen.plain(part.in_channels, part.mid)
            layers["widen_norm"] = norm(self.widen_norm, part.mid)
            layers["widen_act"] = type(self.act)()
        layers["depth"] = self.depth.plain(part.mid, part.kernel)
        layers["depth_norm"] = norm(self.depth_norm, part.mid)
        layers["depth_act"] = type(self.act)()
        if self.se is not None:
            hidden = se_hidden(part.mid)
            layers["se"] = PlainSqueezeExcite(self.se.reduce.plain(part.mid, hidden), self.se.expand.plain(hidden, part.mid))
        layers["narrow"] = self.narrow.plain(part.mid, part.out_channels)
        layers["narrow_norm"] = norm(self.narrow_norm, part.out_channels)
        return PlainBlock(layers, residual=part.residual)

    def sort(self, trained: Sequence[Inverted]) -> None:
        """Sorts by the L1 norm of the consuming weights; squeeze-and-excitation's hidden channels in the same way."""
        if self.widen is None or self.widen_norm is None:
            return
        bounds = [part.mid for part in trained]
        order = descending(self.narrow.weight.abs().sum((0, 2, 3)), bounds)
        permute_(self.narrow.weight, order, dim=1)
        permute_(self.depth.weight, order)
        permute_norm_(self.depth_norm, order)
        permute_(self.widen.weight, order)
        permute_norm_(self.widen_norm, order)
        if self.se is not None and self.se.expand.bias is not None and self.se.reduce.bias is not None:
            permute_(self.se.expand.weight, order)
            permute_(self.se.expand.bias, order)
            permute_(self.se.reduce.weight, order, dim=1)
            hidden = descending(self.se.expand.weight.abs().sum((0, 2, 3)), [se_hidden(bound) for bound in bounds])
            permute_(self.se.expand.weight, hidden, dim=1)
            permute_(self.se.reduce.weight, hidden)
            permute_(self.se.reduce.bias, hidden)
