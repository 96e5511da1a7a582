"""A whole run with three objectives, one of them this machine's latency, a limit, and ensembles by latency."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import MOST_PARAMS, TINY, TinyRun, run_id
from helpers import ofa as command

from ensemble.document import Ensembles
from jobs.config import load
from ofa.record import Measured
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable
from search.front import Front, hypervolume, nondominated
from search.history import History
from search.objective import PARAMS, TOP1, minimised, objective_named, values

HERE = objective_named("latency_ms.here")
OBJECTIVES = (TOP1, HERE, replace(PARAMS, bound=MOST_PARAMS))


@pytest.fixture
def run(exits_run):
    return exits_run


def rows(run, key):
    return [Measured.from_json(json.loads(line)) for line in (run.folder / key).read_text().splitlines()]


def test_the_front_is_what_no_other_beats_in_all_three_within_the_limit_fastest_first(run):
    every = [m for m in (*rows(run, "measured.jsonl"), *rows(run, "search.jsonl")) if m.params <= MOST_PARAMS]
    points = minimised(OBJECTIVES, values(OBJECTIVES, every))
    best = {tuple(row) for row in points[nondominated(points)]}
    members = Front.from_json(run.read("front.json")).members
    assert {tuple(row) for row in minimised(OBJECTIVES, values(OBJECTIVES, members))} == best
    assert [m.latency_ms for m in members] == sorted(m.latency_ms for m in members)


def test_the_history_ends_with_the_hypervolume_of_what_was_measured(run):
    history = History.from_bytes((run.folder / "history.json").read_bytes(), "history.json")
    assert [axis.name for axis in history.objectives] == ["top1", "latency_ms on here", "params"]
    measured, predicted = history.searches
    known, found = rows(run, "measured.jsonl"), rows(run, "search.jsonl")[:24]
    reference = minimised(OBJECTIVES, np.array([axis.reference for axis in history.objectives]))
    known, found = ([m for m in records if m.params <= MOST_PARAMS] for records in (known, found))
    whole = hypervolume(minimised(OBJECTIVES, values(OBJECTIVES, [*known, *found])), reference)
    assert measured.evaluations == tuple(range(25))
    assert measured.known == len(rows(run, "measured.jsonl"))
    assert measured.hypervolume[0] == pytest.approx(hypervolume(minimised(OBJECTIVES, values(OBJECTIVES, known)), reference))
    assert measured.hypervolume[-1] == pytest.approx(whole)
    assert predicted.evaluations[-1] == 300
    assert list(predicted.hypervolume) == sorted(predicted.hypervolume)


def test_ensembles_cost_what_the_unit_says(run):
    ensembles = Ensembles.from_bytes((run.folder / "ensembles.json").read_bytes(), "ensembles.json")
    members = Front.from_json(run.read("front.json")).members
    assert ensembles.unit == "latency_ms.here"
    assert [single.cost for single in ensembles.singles] == [member.latency_ms for member in members]


def test_every_record_has_the_sum_of_the_table_that_the_run_keeps(run):
    table = LatencyTable.parse(run.read("latency/here.json"), "here.json")
    space = load(run.arguments[0], [word for word in run.arguments[3:] if word != "--set"]).search_space
    costs = DeviceCosts(space, 10, {"here": table})
    assert costs.exact["here"].classes == 10
    for key in ("measured.jsonl", "search.jsonl"):
        records = rows(run, key)
        assert costs.completed([replace(m, latency_ms=None, device="") for m in records]) == records
    assert json.loads((run.folder / "adapt.done.json").read_text())["outputs"].keys() >= {"latency/here.json"}
    assert "latency/here.json" in json.loads((run.folder / "search.done.json").read_text())["inputs"]


def test_ensembles_are_chosen_again_by_another_unit_without_predicting_anew(run, ofa, tmp_path):
    asked = ("ensemble", *run.arguments, "--unit")
    assert ofa(*asked, "params", "--out", tmp_path)[0] == 0
    members = Front.from_json(run.read("front.json")).members
    again = Ensembles.from_bytes((tmp_path / "ensembles.json").read_bytes(), "ensembles.json")
    assert again.unit == "params" and [single.cost for single in again.singles] == [m.params for m in members]
    table = tmp_path / "slow.json"
    doc = run.read("latency/here.json")
    for part in (value for value in doc.values() if isinstance(value, dict)):
        part.update({key: {"mean": 2 * entry["mean"]} for key, entry in part.items()})
    table.write_text(json.dumps(doc))
    assert ofa(*asked, "latency_ms.slow", "--latency-table", f"slow={table}", "--out", tmp_path)[0] == 0
    slow = Ensembles.from_bytes((tmp_path / "ensembles.json").read_bytes(), "ensembles.json")
    assert [s.cost for s in slow.singles] == pytest.approx([2 * m.latency_ms for m in members])
    code, _, error = ofa(*asked, "latency_ms.phone", "--out", tmp_path)
    assert code == 2 and "no latency_ms on phone" in error and len(error.splitlines()) == 1


def test_the_report_shows_every_pair_and_axes_to_pick_by(run):
    page = (run.folder / "report.html").read_text()
    assert "Pairs of objectives" in page and "One network by all objectives" in page and '"parcoords"' in page


def test_a_member_is_chosen_by_any_of_them(run):
    ofa = command
    front = run.folder / "front.json"
    done = ofa("choose", front, "--objectives", "params,top1,latency_ms.here", "--json")
    members = Front.from_json(run.read("front.json")).members
    assert json.loads(done.stdout)["chosen"]["params"] == min(m.params for m in members)
    done = ofa("choose", front, "--weights", "params=1", "--json")
    assert json.loads(done.stdout)["chosen"]["params"] == min(m.params for m in members)
    assert ofa("choose", front, "--objectives", "top1,energy").returncode == 2


@pytest.mark.whole_run
@pytest.mark.slow
def test_a_second_run_with_the_kept_table_of_the_first_has_its_front_byte_for_byte(tmp_path):
    """On the digits; the first run ends green, the second is given the table as another device's, and trains anew.

    A third one with the weights of the first keeps a limit on latency.
    """

    def runs(name, *more, until=()):
        small = ["measure.archs=30", "measure.latency_archs=5", "measure.latency_runs=9", "search.evaluations=30",
                 f'search.objectives=["top1","latency_ms.{name}","params"]', *more]  # fmt: skip
        words = [word for setting in small for word in ("--set", setting)]
        done = command("run", TINY, "--store", tmp_path / name, *until, *words)
        assert done.returncode == 0, done.stderr
        return TinyRun(tmp_path / name, run_id(*small))

    first = runs("here")
    assert (first.folder / "export.done.json").exists()
    table = LatencyTable.parse(first.read("latency/here.json"), "here.json")
    costs = DeviceCosts(load(str(TINY)).search_space, 10, {"here": table})
    members = Front.from_json(first.read("front.json")).members
    assert len(members) > 3
    assert costs.completed([replace(m, latency_ms=None, device="") for m in members]) == [*members]

    given = f'search.latency_tables=[{{name="first",file="{first.folder / "latency/here.json"}"}}]'
    second = runs("first", given, until=("--until", "search"))
    assert first.id != second.id
    for key in ("measured.jsonl", "search.jsonl", "front.json"):
        found = (second.folder / key).read_bytes()
        assert found.replace(b'"first"', b'"here"') == (first.folder / key).read_bytes(), key

    most = sorted(m.latency_ms for m in members)[len(members) // 2]
    weights = f'train.weights="{first.folder / "supernet/width/weights.safetensors"}"'
    limit = f"search.at_most={{'latency_ms.first'={most}}}"
    limited = runs("first", given, limit, weights, "train.phases=[]", until=("--until", "search"))
    within = Front.from_json(limited.read("front.json")).members
    assert within and max(m.latency_ms for m in within) <= most
