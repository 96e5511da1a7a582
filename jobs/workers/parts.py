"""Times the parts of a space's networks on this machine, one by one: the entries of a latency table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from jobs.workers.devices import name_of, usable
from ofa.extract import extract_part
from ofa.graph import strided
from ofa.latency import times_ms
from ofa.space import Space
from ofa.supernet import Supernet
from search.costs.exact import node_tables
from search.costs.latency import keys

SEED = 1  # of the weights, which do not affect the times


def untrained(space: Space, classes: int) -> Supernet:
    """A supernet of the space with random weights, for timing."""
    return Supernet(space, classes, torch.Generator().manual_seed(SEED)).eval().requires_grad_(False)


def part_table(
    space: Space, classes: int, resolutions: Sequence[int], runs: int, threads: int, device: str = "cpu"
) -> dict[str, Any]:
    """The latencies of the parts of all the space's networks, in OFA's published format, as a JSON document.

    Every part at every resolution is timed alone, on one image. classes: of the classifiers. runs: timed runs of each part.
    device: cpu or cuda.
    """
    net = untrained(space, classes).to(usable(device, "measure.device"))
    table: dict[str, Any] = {"unit": "ms", "_device": name_of(device), "_threads": threads, "_batch": 1}
    for resolution in resolutions:
        timed = dict(_modules(net, space, classes, resolution))
        times = times_ms(list(timed.values()), runs=runs, threads=threads, device=device)
        table[str(resolution)] = {
            key: {"count": len(taken), "mean": statistics.mean(taken), "std": statistics.pstdev(taken)}
            for key, taken in zip(timed, map(_undisturbed, times), strict=True)
        }
    return table


def _undisturbed(times: Sequence[float]) -> list[float]:
    """The middle half of the times, which excludes disturbances by other processes."""
    ordered, quarter = sorted(times), len(times) // 4
    return ordered[quarter : len(ordered) - quarter]


def _modules(
    net: Supernet, space: Space, classes: int, resolution: int
) -> Iterator[tuple[str, tuple[nn.Module, tuple[int, ...]]]]:
    """The parts of all networks at this resolution: key, and a module with its input's shape."""
    nodes = node_tables(space, classes)
    for name in nodes.names:
        for part, stride in filter(None, nodes.entries[name].values()):
            size, keyed = strided(resolution, stride), cast(Any, part)  # parts with keys have input channels
            shape = (keyed.in_channels, size, size)
            yield keys(name, part, size)[0], (extract_part(net, name, part), shape)
