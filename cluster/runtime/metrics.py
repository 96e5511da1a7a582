"""What a run reports to Prometheus, through Ray: `METRICS` has every name. Ray adds the prefix `ray_`.

Ray serves the numbers at the metrics port of each node; without Ray nothing is recorded. Every metric has the run's id as
the tag `run`. k8s/grafana/ofa-cluster.json is a dashboard of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from cluster.progress import Tracker
from cluster.stores.observed import observe_by


@dataclass(frozen=True, slots=True)
class Metric:
    """The class of a metric in Ray, its description, and its tags beside `run`."""

    kind: type[Gauge] | type[Counter] | type[Histogram]
    description: str
    tags: tuple[str, ...] = ()


METRICS = {
    "ofa_done": Metric(Gauge, "completed units of a step: images, steps, archs, evaluations", ("step", "unit")),
    "ofa_total": Metric(Gauge, "all units of a step; 0 is unknown", ("step", "unit")),
    "ofa_per_s": Metric(Gauge, "units of a step per second in this process", ("step", "unit")),
    "ofa_images_per_s": Metric(Gauge, "training images per second, of all workers together", ("step",)),
    "ofa_hypervolume": Metric(Gauge, "hypervolume of the archs that the measured search knows"),
    "ofa_actors": Metric(Gauge, "actors of a pool that are built", ("pool",)),
    "ofa_pending": Metric(Gauge, "tasks of a pool that wait or run", ("pool",)),
    "ofa_lost_actors": Metric(Counter, "actors of a pool that died; their tasks are repeated", ("pool",)),
    "ofa_store_s": Metric(Histogram, "seconds of an operation on the store, with its repeated requests", ("operation",)),
    "ofa_store_retries": Metric(Counter, "requests to the store that are repeated, because they were not answered"),
    "ofa_hedges": Metric(Counter, "slow tasks of a pool that were sent to a second actor", ("pool",)),
}

STORE_S = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # upper bounds of the buckets of ofa_store_s


class _Registry:
    """The instruments of this process, each made at its first use, and the run's id."""

    def __init__(self) -> None:
        self.run = ""
        self.made: dict[str, Any] = {}

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        metric = METRICS[name]
        if name not in self.made:
            buckets = {"boundaries": list(STORE_S)} if metric.kind is Histogram else {}
            self.made[name] = metric.kind(name, metric.description, tag_keys=("run", *metric.tags), **buckets)
        instrument, tags = self.made[name], {"run": self.run, **tags}
        if metric.kind is Counter:
            instrument.inc(value, tags)
        elif metric.kind is Histogram:
            instrument.observe(value, tags)
        else:
            instrument.set(value, tags)


_registry = _Registry()


def of_run(run: str) -> None:
    """Sets the id that every metric of this process has from now on, and measures its stores."""
    _registry.run = run
    observe_by(_Stores())


def run_of() -> str:
    """The id of `of_run`; "" before."""
    return _registry.run


class _Stores:
    """The observer of this process's stores."""

    def took(self, operation: str, seconds: float) -> None:
        record("ofa_store_s", seconds, operation=operation)

    def repeated(self) -> None:
        record("ofa_store_retries", 1)


def record(name: str, value: float, **tags: str) -> None:
    """Records a value of a metric in `METRICS`, for a counter what it grows by; does nothing in a process without Ray."""
    if ray.is_initialized():
        _registry.record(name, value, tags)


def record_progress(tracker: Tracker) -> None:
    """Records the progress of a step."""
    tags = {"step": tracker.step, "unit": tracker.unit}
    record("ofa_done", tracker.done, **tags)
    record("ofa_total", tracker.total, **tags)
    if (per_s := tracker.per_s) is not None:
        record("ofa_per_s", per_s, **tags)
        if tracker.images:
            record("ofa_images_per_s", per_s * tracker.images, step=tracker.step)
