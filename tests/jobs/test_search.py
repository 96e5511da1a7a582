"""The predicted search of a run against `ofa search --space` on the same problem, which is the published one."""

import json

import numpy as np

from cluster.reading import read_json_or_yaml
from jobs.config import load
from jobs.costs import read_table
from jobs.search import search_predicted
from ofa.record import Measured
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable
from search.objective import values
from search.predict.published import PublishedPredictor
from search.predict.terms import predicted_problem


def test_two_devices_and_the_published_predictor_give_the_front_of_a_search_without_a_run(ofa, reference, tmp_path):
    folder = reference / "ofa"
    cpu = tmp_path / "cpu.json"  # which is read faster than YAML
    cpu.write_text(json.dumps(read_json_or_yaml(str(folder / "i7_8700k_latency_lut.yaml"), "a latency table")))
    files = {"phone": folder / "note10_latency_lut_w1.2.json", "cpu": cpu}
    predictor = folder / "ofa_acc_predictor_w1.2.npz"
    asked = ["--space", "ofa_mbv3_w1.2", "--predictor", predictor, "--evaluations", 1500, "--population", 40, "--seed", 3]
    asked += [part for name, file in files.items() for part in ("--latency-table", f"{name}={file}")]
    code, _, error = ofa("search", *asked, "--at-most", "latency_ms@phone=40", "--out", tmp_path)
    assert code == 0, error
    wanted = [Measured.from_json(row) for row in json.loads((tmp_path / "front.json").read_text())["members"]]

    config = load("configs/imagenet_published.toml", [
        "search.predicted_evaluations=1500",
        "search.predicted_members=40", "seed=3", "search.at_most={'latency_ms.phone'=40}",
        'search.objectives=["top1","latency_ms.phone","latency_ms.cpu"]',
        "search.latency_tables=[" + ",".join(f'{{name="{name}",file="{file}"}}' for name, file in files.items()) + "]",
    ])  # fmt: skip
    space = config.search_space
    tables = {given.name: LatencyTable.parse(read_table(given), given.file) for given in config.search.latency_tables}
    costs = DeviceCosts(space, 1000, tables)
    objectives = tuple(map(costs.computed, config.objectives))
    top1 = PublishedPredictor(predictor.read_bytes(), space, predictor.name).predict
    found = search_predicted(config, predicted_problem(space, top1, objectives, 1000, []), lambda done: None, lambda v: None)
    ours = dict(zip(found.archs, found.values.tolist(), strict=True))
    theirs = {m.arch: row for m, row in zip(wanted, values(objectives, wanted).tolist(), strict=True)}
    assert len(ours) == 40
    assert ours == theirs
    assert np.array([*ours.values()])[:, 1].max() <= 40
