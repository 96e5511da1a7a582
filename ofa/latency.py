"""Measures the latency of networks on the local machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from ofa.threads import torch_threads


class Latency(NamedTuple):
    """The median latency for one image, and half the distance between the quartiles, in milliseconds."""

    latency_ms: float
    latency_spread_ms: float


def measure_latencies(
    nets: Sequence[tuple[nn.Module, int]], *, runs: int, threads: int, rounds: int = 3, warm_up: int = 3
) -> list[Latency]:
    """The latency of every network on one image of its resolution (pixels), on `threads` CPU threads; see `times_ms`.

    Networks should be extracted: the slicing of a supernet's weights is no part of a network's latency.
    """
    shaped = [(net, (3, resolution, resolution)) for net, resolution in nets]
    found = times_ms(shaped, runs=runs, threads=threads, rounds=rounds, warm_up=warm_up)
    quartiles = [statistics.quantiles(times, n=4) for times in found]
    return [Latency(median, (high - low) / 2) for low, median, high in quartiles]


@torch.inference_mode()
def times_ms(
    modules: Sequence[tuple[nn.Module, tuple[int, ...]]], *, runs: int, threads: int, rounds: int = 3, warm_up: int = 3
) -> list[list[float]]:
    """The milliseconds of every run of every module, each on one input of its shape (without the batch).

    Each module gets `runs` timed runs in `rounds` turns with the others, so that a temporary slowdown of the machine
    affects all modules alike; each turn starts with untimed runs.
    """
    found: list[list[float]] = [[] for _ in modules]
    with torch_threads(threads):
        for _ in range(rounds):
            for (module, shape), times in zip(modules, found, strict=True):
                x = torch.zeros(1, *shape)
                for run in range(warm_up + -(-runs // rounds)):
                    start = time.perf_counter()
                    module(x)
                    if run >= warm_up:
                        times.append((time.perf_counter() - start) * 1e3)
    return found
