"""The predicted search of a run against `ofa search --space` on the same problem, which is the published one."""

import json
from zlib import crc32

import numpy as np
from helpers import TINY
from samples import table

from cluster.reading import read_json_or_yaml
from jobs.config import load
from jobs.costs import read_table
from jobs.search import search_predicted
from ofa.cost import cost
from ofa.record import Measured
from search.costs.devices import DeviceCosts
from search.costs.exact import CostTable
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


def test_a_limit_on_latency_holds_on_every_member_whose_costs_are_the_table_s_and_one_seed_gives_one_front():
    """Three objectives, one of them this machine's latency by a table that the run keeps: here the millisecond of a key."""
    config = load(str(TINY), ['search.objectives=["top1","latency_ms.here","params"]', "search.predicted_evaluations=1500",
                              "search.at_most={'latency_ms.here'=0.3}"])  # fmt: skip
    space = config.search_space
    doc = table(nan=False)
    for entries in (entries for entries in doc.values() if isinstance(entries, dict)):
        entries.update({key: {"mean": 0.001 * (1 + crc32(key.encode()) % 50)} for key in entries})
    costs = DeviceCosts(space, 1000, {"here": LatencyTable.parse(doc, "here.json")})
    objectives, counts = tuple(map(costs.computed, config.objectives)), CostTable(space, 10)

    def top1(genes_BG):
        return 1 - 0.2 * np.sqrt(4e4 / counts(genes_BG)[0])

    problem = predicted_problem(space, top1, objectives, 10, [])
    found, again = (search_predicted(config, problem, lambda done: None, lambda values: None) for _ in range(2))
    assert found.archs == again.archs and np.array_equal(found.values, again.values)
    assert len(found.archs) > 3
    assert found.values[:, 1].max() <= 0.3
    records = costs.completed([Measured(arch, 0.5, 1, 1) for arch in found.archs])
    assert found.values[:, 1].tolist() == [m.latency_ms for m in records]
    assert found.values[:, 2].tolist() == [cost(space, arch, 10).params for arch in found.archs]
