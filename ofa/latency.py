"""How long a network takes on the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class Latency(NamedTuple):
    """Milliseconds for one image: the median, and half the distance between the quartiles."""

    latency_ms: float
    latency_spread_ms: float


@torch.inference_mode()
def measure_latencies(
    nets: Sequence[tuple[nn.Module, int]], *, runs: int, threads: int, rounds: int = 3, warm_up: int = 3
) -> list[Latency]:
    """Times every network on one image of its resolution (pixels), on `threads` CPU threads.

    Each gets `runs` timed runs, in `rounds` turns with the others, so that a machine that slows down for a while
    does not slow down one network; a turn starts with untimed runs. Time networks extracted: a supernet's slicing
    is no part of a network's latency.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    times_ms: list[list[float]] = [[] for _ in nets]
    try:
        for _ in range(rounds):
            for (net, resolution), times in zip(nets, times_ms, strict=True):
                images = torch.zeros(1, 3, resolution, resolution)
                for run in range(warm_up + -(-runs // rounds)):
                    start = time.perf_counter()
                    net(images)
                    if run >= warm_up:
                        times.append((time.perf_counter() - start) * 1e3)
    finally:
        torch.set_num_threads(before)
    quartiles = [statistics.quantiles(times, n=4) for times in times_ms]
    return [Latency(median, (high - low) / 2) for low, median, high in quartiles]
