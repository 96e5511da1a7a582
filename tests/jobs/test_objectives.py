"""A whole run with three objectives, and ensembles that cost params."""

import json

import numpy as np
import pytest
from helpers import TINY, TinyRun, ofa, run_id

from ensemble.document import Ensembles
from ofa.record import Measured
from search.front import Front, hypervolume, nondominated
from search.history import History
from search.objective import MACS, PARAMS, TOP1, minimised, values

pytestmark = pytest.mark.whole_run
OBJECTIVES = (TOP1, MACS, PARAMS)
SETTINGS = (
    'search.objectives=["top1","macs","params"]', "ensemble.unit=params", "measure.archs=30", "search.evaluations=40",
    "search.predicted_evaluations=600", "search.predicted_members=6", "measure.latency_archs=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    store = tmp_path_factory.mktemp("objectives")
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    done = ofa("run", TINY, "--store", store, *sets)
    assert done.returncode == 0, done.stderr
    assert " params " in done.stdout
    return TinyRun(store, run_id(*SETTINGS))


def rows(run, key):
    return [Measured.from_json(json.loads(line)) for line in (run.folder / key).read_text().splitlines()]


def test_the_front_is_what_no_other_beats_in_all_three_cheapest_in_macs_first(run):
    every = [*rows(run, "measured.jsonl"), *rows(run, "search.jsonl")]
    points = minimised(OBJECTIVES, values(OBJECTIVES, every))
    best = {tuple(row) for row in points[nondominated(points)]}
    members = Front.from_json(run.read("front.json")).members
    assert {tuple(row) for row in minimised(OBJECTIVES, values(OBJECTIVES, members))} == best
    assert [m.macs for m in members] == sorted(m.macs for m in members)


def test_the_history_ends_with_the_hypervolume_of_what_was_measured(run):
    history = History.from_bytes((run.folder / "history.json").read_bytes(), "history.json")
    assert [axis.name for axis in history.objectives] == ["top1", "macs", "params"]
    measured, predicted = history.searches
    known, found = rows(run, "measured.jsonl"), rows(run, "search.jsonl")[:40]
    reference = minimised(OBJECTIVES, np.array([axis.reference for axis in history.objectives]))
    whole = hypervolume(minimised(OBJECTIVES, values(OBJECTIVES, [*known, *found])), reference)
    assert measured.evaluations == tuple(range(41))
    assert measured.known == 30
    assert measured.hypervolume[0] == pytest.approx(hypervolume(minimised(OBJECTIVES, values(OBJECTIVES, known)), reference))
    assert measured.hypervolume[-1] == pytest.approx(whole)
    assert predicted.evaluations[-1] == 600
    assert list(predicted.hypervolume) == sorted(predicted.hypervolume)


def test_ensembles_cost_what_the_unit_says(run):
    ensembles = Ensembles.from_bytes((run.folder / "ensembles.json").read_bytes(), "ensembles.json")
    members = Front.from_json(run.read("front.json")).members
    assert ensembles.unit == "params"
    assert [single.cost for single in ensembles.singles] == [member.params for member in members]


def test_a_member_is_chosen_by_any_of_them(run):
    front = run.folder / "front.json"
    done = ofa("choose", front, "--objectives", "params,top1,macs", "--json")
    members = Front.from_json(run.read("front.json")).members
    assert json.loads(done.stdout)["chosen"]["params"] == min(m.params for m in members)
    done = ofa("choose", front, "--weights", "params=1", "--json")
    assert json.loads(done.stdout)["chosen"]["params"] == min(m.params for m in members)
    assert ofa("choose", front, "--objectives", "top1,energy").returncode == 2
