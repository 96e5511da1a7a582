"""Measures the latency of networks on the local machine, on its CPU or on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from ofa.extract import PlainNet
from ofa.graph import Node
from ofa.threads import torch_threads


class Latency(NamedTuple):
    """The median latency for one image, and half the distance between the quartiles, in milliseconds."""

    latency_ms: float
    latency_spread_ms: float


def measure_latencies(
    nets: Sequence[tuple[nn.Module, int]],
    *,
    runs: int,
    threads: int,
    rounds: int = 3,
    warm_up: int = 3,
    device: str = "cpu",
) -> list[Latency]:
    """The latency of every network on one image of its resolution (pixels), on `threads` CPU threads; see `times_ms`.

    Networks should be extracted: the slicing of a supernet's weights is no part of a network's latency.
    """
    shaped = [(net, (3, resolution, resolution)) for net, resolution in nets]
    found = times_ms(shaped, runs=runs, threads=threads, rounds=rounds, warm_up=warm_up, device=device)
    quartiles = [statistics.quantiles(times, n=4) for times in found]
    return [Latency(median, (high - low) / 2) for low, median, high in quartiles]


@torch.inference_mode()
def times_ms(
    modules: Sequence[tuple[nn.Module, tuple[int, ...]]],
    *,
    runs: int,
    threads: int,
    rounds: int = 3,
    warm_up: int = 3,
    device: str = "cpu",
) -> list[list[float]]:
    """The milliseconds of every run of every module, each on one input of its shape (without the batch).

    Each module gets `runs` timed runs in `rounds` turns with the others, so that a temporary slowdown of the machine
    affects all modules alike; each turn starts with untimed runs. On a GPU a run lasts from the launch of its first kernel
    to the end of its last one, by CUDA events, with nothing else queued. device: where the modules are.
    """
    found: list[list[float]] = [[] for _ in modules]
    clock = _cuda_ms if torch.device(device).type == "cuda" else _cpu_ms
    with torch_threads(threads):
        for _ in range(rounds):
            for (module, shape), times in zip(modules, found, strict=True):
                x = torch.zeros(1, *shape, device=device)
                for run in range(warm_up + -(-runs // rounds)):
                    took_ms = clock(module, x)
                    if run >= warm_up:
                        times.append(took_ms)
    return found


@torch.inference_mode()
def node_times_ms(
    nets: Sequence[tuple[PlainNet, int]],
    *,
    runs: int,
    threads: int,
    rounds: int = 3,
    warm_up: int = 3,
    device: str = "cpu",
) -> list[dict[str, list[float]]]:
    """The milliseconds of every node of each network, by its name, in every run of the whole network.

    A node's time is from the end of the node before to its own end, so the times of one run add up to that of the network,
    and each node finds the caches as its predecessors leave them. nets, the other arguments and turns: as in
    `measure_latencies`.
    """
    found: list[dict[str, list[float]]] = [{node.name: [] for node in net.graph.nodes} for net, _ in nets]
    cuda = torch.device(device).type == "cuda"
    with torch_threads(threads):
        for _ in range(rounds):
            for (net, resolution), times in zip(nets, found, strict=True):
                x = torch.zeros(1, 3, resolution, resolution, device=device)
                for run in range(warm_up + -(-runs // rounds)):
                    took = _cuda_node_ms(net, x) if cuda else _cpu_node_ms(net, x)
                    if run >= warm_up:
                        for name, took_ms in zip(times, took, strict=True):
                            times[name].append(took_ms)
    return found


def _cpu_node_ms(net: PlainNet, x: torch.Tensor) -> list[float]:
    ends: list[float] = []

    def timed(node: Node, given: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = net.part(node.name)(given)
        ends.append(time.perf_counter())
        return output

    start = time.perf_counter()
    net.graph.flow(x, timed)
    return [(end - before) * 1e3 for before, end in pairwise((start, *ends))]


def _cuda_node_ms(net: PlainNet, x: torch.Tensor) -> list[float]:
    ends = [torch.cuda.Event(enable_timing=True)]

    def timed(node: Node, given: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = net.part(node.name)(given)
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()
        return output

    torch.cuda.synchronize(x.device)
    ends[0].record()
    net.graph.flow(x, timed)
    torch.cuda.synchronize(x.device)
    return [float(before.elapsed_time(end)) for before, end in pairwise(ends)]


def _cpu_ms(module: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    module(x)
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(module: nn.Module, x: torch.Tensor) -> float:
    torch.cuda.synchronize(x.device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    module(x)
    end.record()
    torch.cuda.synchronize(x.device)
    return float(start.elapsed_time(end))
