"""What a run reports is served by Ray's metrics port, and the dashboard shows all of it."""

import json
import re
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.metrics import Counter, Histogram

from cluster.progress import Reporter
from cluster.runtime import metrics
from cluster.runtime.metrics import METRICS
from cluster.runtime.pool import Pool
from cluster.store import open_store
from cluster.stores import observed

DASHBOARD = Path(__file__).parents[3] / "k8s/grafana/ofa-cluster.json"


class Adder:
    """Adds to what is in the arrays."""

    def __init__(self, arrays):
        self.arrays = arrays

    def add(self, number):
        return int(self.arrays["base"][0]) + number


def served(name, until_s=60):
    """The labels and values of a metric at the port of the local node."""
    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + until_s
    while time.monotonic() < deadline:
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        found = re.findall(rf"^ray_{name}{{(.*)}} (\S+)$", text, re.M)
        rows = [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]
        if rows := [(labels, value) for labels, value in rows if labels.get("run") == "seen-1"]:
            return rows
        time.sleep(1)
    pytest.fail(f"{name} was not served in {until_s} s")


def test_progress_and_pools_are_served_with_the_run_and_their_tags(ray_cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(metrics, "_registry", metrics._Registry())
    monkeypatch.setattr(observed, "_observers", [])
    metrics.of_run("seen-1")
    reporter = Reporter("json")
    reporter.observe = metrics.record_progress
    with reporter.track("count", 4, "numbers", images=8) as tracker:
        tracker.at(4)
    store = open_store(str(tmp_path))
    for number in range(3):
        store.write(f"n/{number}", b"")
    observed.repeated()
    pool = Pool(Adder, {"base": np.ones(1)}, workers=1)
    try:
        assert sorted(answer for _, answer in pool.map("add", range(3))) == [1, 2, 3]
    finally:
        pool.close()
    metrics.record("ofa_lost_actors", 1, pool="evaluators")
    [(labels, value)] = served("ofa_done")
    assert (labels["step"], labels["unit"], value) == ("count", "numbers", 4)
    [(labels, value)] = served("ofa_actors")
    assert (labels["pool"], value) == ("evaluators", 1)
    assert served("ofa_pending")[0][1] == 0
    assert served("ofa_lost_actors_total")[0][1] == 1
    assert served("ofa_images_per_s")[0][1] == pytest.approx(8 * served("ofa_per_s")[0][1])
    assert [(labels["operation"], value) for labels, value in served("ofa_store_s_count")] == [("write", 3)]
    assert served("ofa_store_retries_total")[0][1] == 1


def test_progress_is_observed_at_most_once_a_second_and_at_the_end():
    reporter, seen = Reporter("plain"), []
    reporter.observe = lambda tracker: seen.append(tracker.done)
    with reporter.track("count", 1000, "numbers") as tracker:
        for number in range(1, 1001):
            tracker.at(number)
    assert seen == [1, 1000]


def test_without_ray_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(metrics, "_registry", None)
    metrics.record("ofa_hypervolume", 1.0)


class TestTheDashboard:
    def test_it_shows_every_metric_and_no_other(self):
        expressions = [
            target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
        ]
        counters = {f"{name}_total": name for name, metric in METRICS.items() if metric.kind is Counter}
        buckets = {f"{name}_bucket": name for name, metric in METRICS.items() if metric.kind is Histogram}
        shown = {{**counters, **buckets}.get(name, name) for name in re.findall(r"ray_(ofa_\w+)", " ".join(expressions))}
        assert shown == set(METRICS)

    def test_its_panels_have_descriptions_and_do_not_overlap(self):
        panels = json.loads(DASHBOARD.read_text())["panels"]
        assert all(panel["description"] for panel in panels)
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
        assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)
