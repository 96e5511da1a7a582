"""Times the parts of a space's networks on this machine, within whole networks: the entries of a latency table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from jobs.workers.devices import name_of, usable
from ofa.arch import Arch
from ofa.extract import PlainNet, extract_part
from ofa.graph import strided
from ofa.latency import node_times_ms
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

    Every part at every resolution is timed within whole networks, on one image: some networks that together have all parts
    are run, and each part's time is taken there, so that sums are those of networks. classes: of the classifiers. runs:
    timed runs of each of these networks. device: cpu or cuda.
    """
    net = untrained(space, classes).to(usable(device, "measure.device"))
    table: dict[str, Any] = {"unit": "ms", "_device": name_of(device), "_threads": threads, "_batch": 1}
    archs = covering_archs(space, classes)
    nets = [network_of(net, arch) for arch in archs]
    for resolution in resolutions:
        found = node_times_ms([(one, resolution) for one in nets], runs=runs, threads=threads, device=device)
        times: dict[str, list[float]] = {}
        for one, times_of in zip(nets, found, strict=True):
            for node, size in zip(one.graph.nodes, one.graph.sizes(resolution), strict=True):
                times.setdefault(keys(node.name, node.part, size)[0], []).extend(_undisturbed(times_of[node.name]))
        table[str(resolution)] = {
            key: {"count": len(taken), "mean": statistics.mean(taken), "std": statistics.pstdev(taken)}
            for key, taken in times.items()
        }
    return table


def covering_archs(space: Space, classes: int) -> list[Arch]:
    """Some archs that together have all parts of all the space's networks, at one resolution."""
    side = space.resolutions[-1]
    return node_tables(space, classes).covering(lambda name, part, stride: keys(name, part, strided(side, stride))[0])


def network_of(net: Supernet, arch: Arch) -> PlainNet:
    """The network of an arch, for images of any resolution."""
    graph = net.graph(arch)
    return PlainNet(graph, {node.name: extract_part(net, node.name, node.part) for node in graph.nodes}).eval()


def _undisturbed(times: Sequence[float]) -> list[float]:
    """The middle half of the times, which excludes disturbances by other processes."""
    ordered, quarter = sorted(times), len(times) // 4
    return ordered[quarter : len(ordered) - quarter]
