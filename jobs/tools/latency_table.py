"""Measure a latency table of this machine: the latency of each part of a space's networks, in OFA's published format.

    ofa measure --latency-table FILE --space ofa_mbv3_w1.0 --resolution 224

Every part of the space's networks, at every given resolution, is timed within whole networks; a network's latency by the
table is the sum of its parts. The agreement with other whole networks is measured too, and recorded in the file; so is
that of these networks with themselves, timed a second time, which shows the noise.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError
from jobs.workers.parts import SEED, part_table, untrained
from ofa.extract import extract
from ofa.genes import Genes
from ofa.latency import measure_latencies
from ofa.space import Space
from search.costs.latency import PUBLISHED_CLASSES, LatencyTable, TableLatency, has_keys
from search.predict.predictor import tau

CLASSES = PUBLISHED_CLASSES


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of a table's sums with whole networks, timed in turns."""

    networks: int
    kendall_tau: float
    ratio: float  # median of whole over sum
    error: float  # median of |whole - ratio x sum| / whole
    farthest: float  # greatest |whole - sum| / whole
    repeated_tau: float  # Kendall's tau of the whole networks timed again
    repeated_farthest: float  # greatest |again - whole| / whole


def measure_table(
    space: Space, resolutions: Sequence[int], *, runs: int, threads: int, networks: int
) -> tuple[dict[str, Any], Agreement]:
    """The table as JSON, and the agreement of its sums with `networks` random networks."""
    check(space, resolutions, "--latency-table")
    measured = part_table(space, CLASSES, resolutions, runs, threads)
    table: dict[str, Any] = {"_source": f"ofa measure --latency-table, {space.name}", **measured}
    net = untrained(space, CLASSES)
    rng = random.Random(f"{SEED}/latency-table")
    drawn = space.only(resolutions=tuple(resolutions))
    archs = [drawn.smallest(), drawn.largest(), *(drawn.sample(rng) for _ in range(networks - 2))][:networks]
    nets = [(extract(net, a), a.resolution) for a in archs]
    whole_ms, again_ms = (
        [taken.latency_ms for taken in measure_latencies(nets, runs=runs, threads=threads)] for _ in range(2)
    )
    sums = TableLatency(LatencyTable.parse(table, "the measured table"), drawn)
    agreement = compared(sums(Genes(drawn).encode(archs)).tolist(), whole_ms, again_ms)
    table["_agreement"] = {name: getattr(agreement, name) for name in Agreement.__slots__}
    return table, agreement


def check(space: Space, resolutions: Sequence[int], option: str) -> None:
    """Raises an `InputError` for a space without published keys, and for a resolution that it lacks."""
    if not has_keys(space):
        raise InputError(f"ofa measure {option}: {space.name} has no published format; use a MobileNetV3 space")
    if (strange := next((r for r in resolutions if r not in space.resolutions), None)) is not None:
        listed = ", ".join(str(r) for r in space.resolutions)
        raise InputError(f"ofa measure {option}: resolution {strange} is not in {space.name}; it has {listed}")


def compared(sums_ms: Sequence[float], whole_ms: Sequence[float], again_ms: Sequence[float]) -> Agreement:
    """The agreement of sums with whole networks, and of these with a second measurement of them."""
    import numpy as np

    ratio = statistics.median(w / s for w, s in zip(whole_ms, sums_ms, strict=True))
    errors = [abs(w - ratio * s) / w for w, s in zip(whole_ms, sums_ms, strict=True)]
    (kendall_tau, farthest), (repeated_tau, repeated_farthest) = (
        (tau(np.array(whole_ms), np.array(others)), max(abs(w - o) / w for w, o in zip(whole_ms, others, strict=True)))
        for others in (sums_ms, again_ms)
    )
    error = statistics.median(errors)
    return Agreement(len(whole_ms), kendall_tau, ratio, error, farthest, repeated_tau, repeated_farthest)
