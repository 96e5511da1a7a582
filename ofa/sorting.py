"""Channels in the order of their importance, so that a narrower block keeps the ones that matter."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ofa.blocks import Block, Bottleneck, parts, se_hidden, whole
from ofa.layers import ElasticBlock, ElasticBottleneck, ElasticNorm
from ofa.supernet import Supernet


@torch.no_grad()
def sort_channels(net: Supernet, trained_expands: tuple[float, ...]) -> None:
    """Reorders the middle channels of every block by the L1 norm of what consumes them, largest first.

    The largest network computes the same function as before. Widths that `trained_expands` already uses keep
    their set of channels: sorting happens only between one trained width and the next.
    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (channel sorting); squeeze-and-excitation's hidden
    channels are sorted the same way.
    """
    full = whole(net.space)
    archs = [replace(full, expand=(expand,) * len(full.expand)) for expand in sorted(trained_expands)]
    trained = [dict(parts(net.space, arch)) for arch in archs]
    for name, _ in parts(net.space, full):
        layer, used = net.part(name), [of[name] for of in trained]
        bounds = [part.mid for part in used if isinstance(part, Block | Bottleneck)]
        if isinstance(layer, ElasticBlock) and layer.widen is not None:
            _sort_block(layer, bounds)
        elif isinstance(layer, ElasticBottleneck):
            _sort_bottleneck(layer, bounds)


def _sort_block(layer: ElasticBlock, bounds: list[int]) -> None:
    order = _descending(layer.narrow.weight.abs().sum((0, 2, 3)), bounds)
    _permute_(layer.narrow.weight, order, dim=1)
    _permute_(layer.depth.weight, order)
    _permute_norm_(layer.depth_norm, order)
    if layer.widen is not None and layer.widen_norm is not None:
        _permute_(layer.widen.weight, order)
        _permute_norm_(layer.widen_norm, order)
    if layer.se is not None and layer.se.expand.bias is not None and layer.se.reduce.bias is not None:
        _permute_(layer.se.expand.weight, order)
        _permute_(layer.se.expand.bias, order)
        _permute_(layer.se.reduce.weight, order, dim=1)
        hidden = _descending(layer.se.expand.weight.abs().sum((0, 2, 3)), [se_hidden(bound) for bound in bounds])
        _permute_(layer.se.expand.weight, hidden, dim=1)
        _permute_(layer.se.reduce.weight, hidden)
        _permute_(layer.se.reduce.bias, hidden)


def _sort_bottleneck(layer: ElasticBottleneck, bounds: list[int]) -> None:
    """What the last convolution consumes, then what the one in the middle consumes."""
    order = _descending(layer.expand.weight.abs().sum((0, 2, 3)), bounds)
    _permute_(layer.expand.weight, order, dim=1)
    _permute_(layer.conv.weight, order)
    _permute_norm_(layer.conv_norm, order)
    order = _descending(layer.conv.weight.abs().sum((0, 2, 3)), bounds)
    _permute_(layer.conv.weight, order, dim=1)
    _permute_(layer.reduce.weight, order)
    _permute_norm_(layer.reduce_norm, order)


def _descending(importance_C: Tensor, bounds: list[int]) -> Tensor:
    edges = sorted({0, *bounds, len(importance_C)})
    parts = [
        start + torch.sort(importance_C[start:end], descending=True, stable=True).indices for start, end in pairwise(edges)
    ]
    return torch.cat(parts)


def _permute_(tensor: Tensor, order: Tensor, dim: int = 0) -> None:
    tensor.copy_(tensor.index_select(dim, order))


def _permute_norm_(norm: ElasticNorm, order: Tensor) -> None:
    for tensor in (norm.weight, norm.bias, norm.mean, norm.var):
        _permute_(tensor, order)
