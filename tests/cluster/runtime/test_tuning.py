"""The search for settings: what Optuna and ASHA get back when it is resumed, and Ray Tune with both."""

import itertools
import threading

import numpy as np
import optuna
import pytest

from cluster.errors import Diverged, InputError
from cluster.runtime.tuning import Axis, Budget, Past, Search, Watcher, scheduler_of, study_of, tune

AXES = {
    "x": Axis(0.001, 1.0, log=True),
    "kind": Axis(values=("a", "b", "c")),
    "n": Axis(1, 9, whole=True),
}
FIRST = {"x": 0.5, "kind": "a", "n": 3}


def values_of(settings, objectives):
    return {name: settings["x"] * (index + 1) - settings["n"] / 10 for index, name in enumerate(objectives)}


def searched(objectives, count, past=(), waiting=(FIRST,), apart=None):
    """The trials that Optuna's search proposes, one at a time; every third is stopped early."""
    storage = study_of(AXES, objectives, past, waiting, apart)
    begun = []
    search = Search(AXES, objectives, storage, 7, itertools.count(len(past)), apart, lambda *trial: begun.append(trial))
    found = list(past)
    while len(found) < count:
        number, name = len(found), f"trial-{len(found)}"
        suggested = search.suggest(name)
        assert suggested == {"number": number, "settings": dict(begun[-1][1])}
        stopped = number % 3 == 2
        values = {} if stopped else values_of(suggested["settings"], objectives)
        search.on_trial_result(name, {"epoch": 1, "compared": 0.0})
        search.on_trial_complete(name, {"epoch": 2, "compared": 0.0, "complete": not stopped, **values})
        found.append(Past(number, suggested["settings"], "stopped" if stopped else "complete", (0.0,), values))
    return found


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("objectives", [("a",), ("a", "b")])
def test_a_search_that_was_resumed_proposes_what_it_would_have_proposed(objectives):
    straight = searched(objectives, 14)
    assert straight[0].settings == FIRST
    assert len({tuple(one.settings.items()) for one in straight}) > 10
    for kept in (1, 8):
        assert searched(objectives, 14, straight[:kept], waiting=()) == straight


def test_trials_that_had_begun_run_again_with_their_settings():
    begun = {"x": 0.1, "kind": "c", "n": 9}
    found = searched(("a",), 4, searched(("a",), 2), waiting=(begun,))
    assert found[2].settings == begun


def test_settings_are_within_their_ranges():
    for past in searched(("a",), 20):
        assert 0.001 <= past.settings["x"] <= 1
        assert past.settings["kind"] in ("a", "b", "c")
        assert past.settings["n"] in range(1, 10)


def test_a_trial_that_only_stands_for_others_is_not_learned_from():
    study = optuna.load_study(storage=study_of(AXES, ("a",), searched(("a",), 3, apart=0), (), 0), study_name="tune")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "PRUNED"]


class Reported:
    def __init__(self, trial_id):
        self.trial_id = trial_id


def test_past_trials_are_in_the_rungs_of_asha():
    def decisions(past):
        asha = scheduler_of(Budget(9, epochs=9, grace=2, reduction=3.0, concurrent=1), past)
        trial = Reported("new")
        asha.on_trial_add(None, trial)
        return [asha.on_trial_result(None, trial, {"epoch": epoch, "compared": 0.5}) for epoch in (1, 2)]

    good = [Past(n, {}, "complete", (0.6, 0.7, 0.8), {}) for n in range(3)]
    poor = [Past(n, {}, "stopped", (0.1, 0.2), {}) for n in range(3)]
    assert decisions([]) == ["CONTINUE", "CONTINUE"]
    assert decisions(good) == ["CONTINUE", "STOP"]
    assert decisions(poor) == ["CONTINUE", "CONTINUE"]


def trained(number, settings, arrays, report):
    """A trial of four epochs whose settings decide how it goes; the last one of seven cannot run."""
    if settings["kind"] == "c":
        raise Diverged("too steep")
    if number == 7:
        raise InputError("no images")
    for epoch in (1, 2, 3, 4):
        value = float(settings["x"] * epoch + arrays["base"][0])
        report(epoch, value, {"a": value, "b": -value} if epoch == 4 else None)


class Notes(Watcher):
    def __init__(self):
        self.begun, self.ended, self.epochs = {}, [], 0
        self.lock = threading.RLock()  # as a caller may have, which cannot be pickled

    def begins(self, number, settings):
        self.begun[number] = settings

    def epoch(self, number, epoch, compared):
        self.epochs += 1

    def ends(self, past):
        self.ended.append(past)


@pytest.mark.slow
def test_ray_tune_runs_stops_and_resumes_trials_and_writes_nothing(ray_cluster, capfd):
    arrays, objectives = {"base": np.ones(1)}, ("a", "b")

    def run(trials, past=()):
        notes = Notes()
        budget = Budget(trials, epochs=4, grace=1, reduction=2.0, concurrent=1)
        tune(trained, arrays, AXES, objectives, budget, notes, seed=3, first=FIRST, past=past)
        return notes

    whole = run(7)
    assert [past.number for past in whole.ended] == list(range(7))
    assert whole.begun == {past.number: past.settings for past in whole.ended}
    assert whole.ended[0].settings == FIRST
    assert whole.ended[0].values == {"a": 3.0, "b": -3.0}
    assert {past.state for past in whole.ended} >= {"complete", "stopped"}
    for past in whole.ended:
        assert past.state != "diverged" or past.reason == "too steep"
        assert len(past.compared) == {"complete": 4, "diverged": 0}.get(past.state, len(past.compared))
    assert whole.epochs == sum(len(past.compared) for past in whole.ended)

    resumed = run(7, past=whole.ended[:3])
    assert [*whole.ended[:3], *resumed.ended] == whole.ended
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_error_of_the_input_in_a_trial_ends_the_search(ray_cluster):
    past = [Past(n, {**FIRST, "kind": "a"}, "complete", (1.0,) * 4, {"a": 1.0}) for n in range(7)]
    budget = Budget(9, epochs=4, grace=1, reduction=2.0, concurrent=1)
    begun = {7: FIRST}
    with pytest.raises(InputError, match="no images"):
        tune(trained, {"base": np.ones(1)}, AXES, ("a",), budget, Notes(), seed=3, first=FIRST, past=past, begun=begun)
