"""The sources of batch normalisation's mean and variance, and the calibration of a sub-network's own.

Every sub-network needs its own statistics (reports in Once-for-All's issue tracker describe networks that were evaluated
with those of another), so they are a value next to the arch and are never stored in the supernet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ofa.layers.base import ElasticNorm, Norm

if TYPE_CHECKING:
    from ofa.arch import Arch
    from ofa.supernet import Supernet

# By a norm's qualified name: its mean and biased variance, of as many channels as the arch uses.
Statistics = Mapping[str, tuple[Tensor, Tensor]]


def by_batch(norm: ElasticNorm, x_NCHW: Tensor) -> Tensor:
    """Normalises every batch by its own statistics, as in training."""
    return norm.with_batch(x_NCHW)


def by_buffers(norm: ElasticNorm, x_NCHW: Tensor) -> Tensor:
    """Normalises by the statistics stored in the supernet, which are the largest network's."""
    return norm.with_statistics(x_NCHW, norm.mean, norm.var)


def by_statistics(net: Supernet, statistics: Statistics) -> Norm:
    """Normalises by the given statistics of one arch."""
    names = net.norm_names

    def norm(layer: ElasticNorm, x_NCHW: Tensor) -> Tensor:
        return layer.with_statistics(x_NCHW, *statistics[names[layer]])

    return norm


@torch.no_grad()
def calibrate(
    net: Supernet, arch: Arch, batches: Iterable[Tensor], exits: Sequence[int] = ()
) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean and variance of every norm of `arch`, averaged over `batches` by their number of images.

    Each batch is normalised by its own statistics in every layer, as in training (the published re-calibration,
    OFA's `set_running_statistics`); `net` is not changed. batches: images [N, 3, arch.resolution, arch.resolution]. exits:
    of a network with several, those whose heads are included.
    """
    names = net.norm_names
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    images = 0

    for batch_N3HW in batches:
        count = len(batch_N3HW)

        def observe(layer: ElasticNorm, x_NCHW: Tensor, count: int = count) -> Tensor:
            normalised, mean, var = layer.observed(x_NCHW)
            before = sums.get(names[layer], (torch.zeros_like(mean), torch.zeros_like(var)))
            sums[names[layer]] = (before[0] + mean * count, before[1] + var * count)
            return normalised

        net.run(batch_N3HW, arch, observe, exits=exits)
        images += count
    assert images, "calibration needs at least one batch"
    return {name: (mean / images, var / images) for name, (mean, var) in sums.items()}


@torch.no_grad()
def store(net: Supernet, statistics: Statistics) -> None:
    """Writes statistics into the buffers of `net`, for `by_buffers`."""
    for norm, name in net.norm_names.items():
        if name in statistics:
            mean, var = statistics[name]
            norm.mean[: len(mean)] = mean
            norm.var[: len(var)] = var
