"""A run's predicted problem: what is exact in it, and that it is the problem of a search without a run."""

import json

import numpy as np
import pytest

from jobs.tools.inputs import load
from ofa.genes import Genes
from search import predicted
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable
from search.objective import MACS, TOP1, objective_named
from search.predict.terms import predicted_problem


@pytest.fixture
def two_devices(reference, tmp_path):
    """The published predictor, the published table of a phone, and one of a device on which other parts are slow."""
    folder = reference / "ofa"
    doc = json.loads((folder / "note10_latency_lut_w1.2.json").read_text())
    for part in doc.values():
        if isinstance(part, dict):
            for i, (key, entry) in enumerate(sorted(part.items())):
                part[key] = {"mean": (entry["mean"] if isinstance(entry, dict) else entry) * (1 + i % 3)}
    (tmp_path / "other.json").write_text(json.dumps(doc))
    return folder / "ofa_acc_predictor_w1.2.npz", folder / "note10_latency_lut_w1.2.json", tmp_path / "other.json"


def test_a_runs_predicted_search_on_two_devices_is_the_search_without_a_run(two_devices):
    predictor, note10, other = two_devices
    loaded = load("ofa_mbv3_w1.2", [f"note10={note10}", f"other={other}"], str(predictor), [], [], [])
    space = loaded.problem.space
    tables = {
        name: LatencyTable.parse(json.loads(path.read_text()), name) for name, path in (("note10", note10), ("other", other))
    }
    costs = DeviceCosts(space, 1000, tables)
    names = ("latency_ms.note10", "latency_ms.other")
    objectives = (TOP1, *(costs.computed(objective_named(name)) for name in names))
    problem = predicted_problem(space, loaded.problem.terms[0].values, objectives, 1000, [])
    settings = {"algorithm": "default", "evaluations": 1500, "members": 20, "seed": 3}
    alone = predicted.solve(loaded.problem, **settings)
    in_run = predicted.search(space, objectives, problem.evaluate, costs=problem.costs, **settings)
    assert in_run.archs == alone.archs and len(alone.archs) > 5
    np.testing.assert_array_equal(in_run.values, alone.values)
    records = costs.completed(loaded.measured(alone.archs))
    assert [m.latencies_ms for m in records] == [m.latencies_ms for m in loaded.measured(alone.archs)]


def test_latencies_are_exact_and_need_no_measurement(two_devices):
    _, note10, _ = two_devices
    loaded = load("ofa_mbv3_w1.2", [str(note10)], str(two_devices[0]), [], [], [])
    space = loaded.problem.space
    costs = DeviceCosts(space, 1000, {"note10": LatencyTable.parse(json.loads(note10.read_text()), "note10")})
    objectives = (TOP1, MACS, costs.computed(objective_named("latency_ms.note10")))
    problem = predicted_problem(space, loaded.problem.terms[0].values, objectives, 1000, [])
    genes_BG = Genes(space).random(20, np.random.default_rng(0))
    exact = problem.costs(genes_BG)
    assert np.isnan(exact[:, 0]).all()
    np.testing.assert_array_equal(exact[:, 1:], problem.evaluate(genes_BG)[:, 1:])
    np.testing.assert_array_equal(exact[:, 2], loaded.latencies["note10_latency_lut_w1"](genes_BG))
