"""The search for settings: its config table, its trials in this process, and what it leaves."""

import json
import tomllib
from dataclasses import replace

import helpers
import pytest

from cluster.config import ConfigError, dump, parse
from cluster.errors import StepError
from cluster.progress import Reporter
from cluster.run import Run
from jobs import files, report
from jobs.config import Experiment, Tune, load, with_settings
from jobs.images.dataset import load as load_data
from jobs.job import Job
from jobs.tools import tune as tuning
from jobs.tools.tune import given_point, shares, short_config, tuned_config
from jobs.trials import Trial, Trials, best_of, front_of, ordered
from jobs.workers.trainer import Place

TINY = str(helpers.TINY)
DIGITS = str(helpers.TINY.parents[2] / "configs/digits.toml")
RATE = 'tune.settings={"train.phases.lr"={low=0.02,high=0.4,log=true}}'


class TestTheTable:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            (
                'tune.settings={"train.lrr"=[1,2]}',
                "train has no setting 'lrr' that trials can change; here you may give",
            ),
            ('tune.settings={"train.phases.lrr"=[1,2]}', "train.phases has no setting 'lrr' that trials can change; here"),
            ('tune.settings={"train.phases.first.lr"=[1,2]}', "no phase is called 'first'; there are largest, width"),
            ('tune.settings={"data.test"=[0.1,0.2]}', "data has no setting 'test' that trials can change"),
            ('tune.settings={"seed"=[1,2]}', "trials cannot change 'seed'; they can change settings of train, train.phases"),
            (
                'tune.settings={"train.momentum"={low=0.5,high=2}}',
                "train.momentum = 2.0: train: momentum is 2.0; input",
            ),
            ('tune.settings={"train.momentum"={low=1,high=1}}', "give low and a higher high, or values"),
            ('tune.settings={"train.momentum"={low=0,high=1,log=true}}', "low is 0, which has no logarithm"),
            ('tune.settings={"train.momentum"={low=0,high=1,colour=1}}', "no setting 'colour'; here you may set low, high"),
            (
                'tune.settings={"train.schedule"={low=0,high=1}}',
                "train.schedule is 'phase', no number; give a list",
            ),
            (
                'tune.settings={"train.dropout"={low=0.5,high=1,relative=true}}',
                "train.dropout is 0, so no factor",
            ),
            ('tune.settings={"search.algorithm"=["nsga2","random"]}', "search.algorithm has no influence; add hypervolume"),
            ('tune.settings={"train.batch"=[1,128]}', "train.batch = 1: train.batch is 1, less than one image"),
            ("tune.objectives=['top1','top1']", "give each of them once"),
            ("tune.objectives=['accuracy']", "'top1', 'largest', 'smallest' or 'hypervolume'"),
            ("tune.epochs=1", "a trial has all 2 phases"),
        ],
    )
    def test_what_it_cannot_have_is_one_line(self, setting, message):
        with pytest.raises(ConfigError) as error:
            load(TINY, [setting])
        assert message in str(error.value), error.value
        assert "\n" not in str(error.value)

    def test_a_name_may_be_nested_tables_and_a_list_is_one_of_values(self):
        nested = load(TINY, ["tune.settings.train.phases.lr={low=0.02,high=0.4,log=true}"])
        assert nested.ranges == load(TINY, [RATE]).ranges
        assert load(TINY, ['tune.settings.train.schedule=["phase","whole"]']).ranges["train.schedule"].values == (
            "phase",
            "whole",
        )

    def test_the_run_has_the_id_that_it_has_without_the_table_and_with_more_trials(self):
        assert load(TINY).id == load(TINY, ["tune.trials=50", "tune.concurrent=3"]).id != load(TINY, [RATE]).id
        assert load(TINY, [RATE]).id == load(TINY, [RATE, "tune.trials=50"]).id

    def test_without_settings_rates_distillation_and_weight_decay_are_searched(self):
        assert list(load(DIGITS).ranges) == ["train.phases.lr", "train.phases.distil", "train.weight_decay"]


class TestSettings:
    def test_of_every_phase_leave_out_those_that_are_off(self):
        config = load(DIGITS)
        changed = with_settings(config, {"train.phases.distil": 2.0, "train.phases.lr": 0.5})
        assert [phase.distil for phase in changed.train.phases] == [0, 2, 2, 2]
        assert [phase.lr for phase in changed.train.phases] == [0.05, 0.025, 0.025, 0.025]

    def test_of_one_phase_are_named_by_it(self):
        config = load(DIGITS, ["tune.settings={'train.phases.kernel.lr'={low=0.01,high=1}}"])
        assert [p.lr for p in with_settings(config, {"train.phases.kernel.lr": 0.3}).train.phases] == [0.1, 0.3, 0.05, 0.05]

    def test_lengths_of_phases_keep_the_number_of_epochs(self):
        config = load(DIGITS, ["tune.settings={'train.phases.largest.epochs'={low=10,high=100}}"])
        lengths = [phase.epochs for phase in tuned_config(config, {"train.phases.largest.epochs": 20}).train.phases]
        assert sum(lengths) == 115
        assert lengths[0] < 40 < 60

    def test_a_trial_has_the_shares_of_its_phases(self):
        config = load(DIGITS)
        short = short_config(config, 8)
        assert [phase.epochs for phase in short.train.phases] == [4, 1, 1, 2]
        assert short.train.phases[0].warmup_epochs == pytest.approx(4 / 60)
        assert shares([60, 15, 15, 25], 115) == [60, 15, 15, 25]
        assert shares([1000, 1, 1], 3) == [1, 1, 1]

    def test_the_first_point_is_the_config(self):
        assert given_point(load(DIGITS)) == (
            {"train.phases.lr": 1.0, "train.phases.distil": 1.0, "train.weight_decay": 1.0},
            False,
        )
        assert given_point(load(TINY, [RATE])) == ({"train.phases.lr": 0.1}, True)  # the phases have different rates
        one = load(TINY, ["tune.settings={'train.batch'=[64,128], 'train.phases.largest.lr'={low=0.2,high=0.4}}"])
        assert given_point(one) == ({"train.batch": 128, "train.phases.largest.lr": 0.2}, True)


def trial(number, state="complete", **values):
    compared = (0.1, 0.2)[: 2 if state == "complete" else 1]
    return Trial(trial=number, state=state, settings={"train.batch": 64 + number}, compared=compared, values=values)


class TestTheBest:
    def test_of_one_objective_is_the_highest_and_of_equal_ones_the_first(self):
        trials = (trial(0, top1=0.5), trial(1, "stopped"), trial(2, top1=0.7), trial(3, top1=0.7))
        assert best_of(trials, ("top1",)).trial == 2
        assert best_of((trial(0, "diverged"),), ("top1",)) is None

    def test_of_several_is_the_highest_scaled_mean_of_the_front(self):
        trials = (
            trial(0, largest=0.9, smallest=0.1),
            trial(1, largest=0.85, smallest=0.5),
            trial(2, largest=0.5, smallest=0.6),
            trial(3, largest=0.8, smallest=0.4),
        )
        names = ("largest", "smallest")
        assert [one.trial for one in front_of(trials, names)] == [0, 1, 2]
        assert best_of(trials, names).trial == 1


def few(*more):
    """A config whose trials take less than a second."""
    images = ["data.selection=0.45", "data.test=0.45", "train.workers=1", "train.validate_images=100"]
    phases = 'train.phases=[{name="a",epochs=2,lr=0.1},{name="b",epochs=1,lr=0.1}]'
    return [*images, phases, "measure.calibration_images=64", "tune.epochs=3", "tune.trials=2", RATE, *more]


@pytest.fixture
def here(monkeypatch):
    """Trials in this process instead of on Ray: their numbers in the order in which they ran, and what stops them."""
    ran, stop_before = [], []

    def tune(run, arrays, axes, objectives, budget, watcher, *, seed, first, apart, past, begun):
        known = {one.number for one in past}
        for number in range(budget.trials):
            if number in known:
                continue
            settings = begun.get(number) or (first if number == 0 else {"train.phases.lr": 0.05 * number})
            if number not in begun:
                watcher.begins(number, settings)
            if number in stop_before:
                raise KeyboardInterrupt
            ran.append((number, dict(settings)))
            seen = []

            def report(epoch, compared, values, seen=seen, number=number):
                watcher.epoch(number, epoch, compared)
                seen.append((epoch, compared, values))

            run(number, settings, arrays, report)
            assert [epoch for epoch, *_ in seen] == list(range(1, budget.epochs + 1))
            watcher.ends(tuning.Past(number, settings, "complete", tuple(c for _, c, _ in seen), seen[-1][2]))

    monkeypatch.setattr(tuning, "tune", tune)
    monkeypatch.setattr(Job, "need_ray", lambda self, gpus=0: None)
    return ran, stop_before


class TestTheCommand:
    def test_after_a_kill_trials_that_ended_are_not_run_again_and_the_result_is_a_config(self, ofa, here, tmp_path):
        ran, stop_before = here
        store, out = tmp_path / "store", tmp_path / "tuned.toml"
        arguments = ["tune", TINY, "--store", store, "--out", out, *(a for s in few() for a in ("--set", s))]
        stop_before.append(1)
        assert ofa(*arguments)[0] == 130
        assert [number for number, _ in ran] == [0]
        assert not out.exists()
        stop_before.clear()
        code, printed, err = ofa(*arguments)
        assert code == 0, err
        assert [number for number, _ in ran] == [0, 1]
        assert ran[1][1] == {"train.phases.lr": 0.05}
        assert "as in the config" in printed

        config = load(TINY, few())
        run = Run.at(str(store), config.id, "")
        found = Trials.from_bytes(run.raw(files.TRIALS.key), "tune.json")
        assert [one.trial for one in found.trials] == [0, 1]
        assert all(len(one.compared) == 3 == found.epochs for one in found.trials)
        assert [key for key in run.keys() if key.startswith(("tune/", "partial/tune"))] == []
        assert list(run.problems()) == []
        tuned = load(str(out))
        assert out.read_bytes() == run.raw(files.TUNED.key)
        best = found.best_trial
        assert tuned == (tuned_config(config, best.settings) if best.trial else replace(config, tune=Tune()))
        assert tuned.id == replace(tuned, tune=Tune()).id

        code, printed, _ = ofa(*arguments, "--json")
        assert code == 0
        assert len(ran) == 2
        assert json.loads(printed.splitlines()[-1])["best"] == best.trial
        code, _, err = ofa(*[a if a != "tune.trials=2" else "tune.trials=3" for a in arguments])  # the search goes on
        assert (code, [number for number, _ in ran]) == (0, [0, 1, 2]), err

    def test_a_trial_continues_from_its_checkpoint(self, here, tmp_path):
        config = load(TINY, few("train.checkpoint_s=0"))
        arrays = load_data(config, Reporter("plain")).arrays()
        run = Run.open(str(tmp_path), config.id, "", code="test")
        results = []
        for name, stop_at in (("straight", None), ("stopped", 2)):
            place = Place(str(tmp_path / name), run.id, "test", files.TUNING, checkpoint_s=0.0)
            Run.open(str(tmp_path / name), run.id, "x = 1", code="test").begin("tune")
            seen = []

            def report(epoch, compared, values, seen=seen, stop_at=stop_at):
                if epoch == stop_at and len(seen) < stop_at:
                    seen.append(None)
                    raise KeyboardInterrupt
                seen.append((epoch, compared, values))

            if stop_at:
                with pytest.raises(KeyboardInterrupt):
                    tuning.run_trial(config, place, 1, {"train.phases.lr": 0.05}, arrays, report)
                seen.clear()
                seen += [None] * stop_at
            tuning.run_trial(config, place, 1, {"train.phases.lr": 0.05}, arrays, report)
            results.append([one for one in seen if one is not None])
        assert results[0] == results[1]

    def test_the_hypervolume_is_that_of_a_search_on_the_trained_supernet(self, ofa, here, tmp_path):
        more = few("tune.objectives=['hypervolume']", "tune.evaluations=12", "search.population=8")
        sets = [part for setting in more for part in ("--set", setting.replace("trials=2", "trials=1"))]
        code, _, err = ofa("tune", TINY, "--store", tmp_path, *sets)
        assert code == 0, err
        [doc] = tmp_path.glob("*/tune.json")
        [found] = json.loads(doc.read_text())["trials"]
        assert 0 < found["values"]["hypervolume"] < 1

    def test_a_search_without_a_complete_trial_fails(self, tmp_path):
        with pytest.raises(StepError, match=r"none of 1 trials trained to its end: too steep"):
            tuning.document_of(load(TINY), (replace(trial(0, "diverged"), reason="too steep"),))

    def test_a_place_that_cannot_be_written_is_found_before_any_trial(self, ofa, here, tmp_path):
        code, _, err = ofa("tune", TINY, "--store", tmp_path / "s", "--out", tmp_path)
        assert (code, err.count("\n")) == (2, 1)
        assert "is a directory; name the file to write" in err
        assert not (tmp_path / "s").exists()


class TestTheReport:
    def test_has_a_table_of_all_trials_the_best_first(self):
        trials = (trial(0, top1=0.5), trial(1, "stopped"), trial(2, top1=0.7), trial(3, "diverged"))
        found = Trials(objectives=("top1",), relative=("train.batch",), epochs=2, best=2, front=(2,), trials=trials)
        assert [one.trial for one in ordered(found)] == [2, 0, 1, 3]
        table = report.trials_table(found)
        assert table.index("×66") < table.index("as in the config") < table.index("stopped after epoch 1")
        assert "1 were stopped early and 1 diverged" in report.tuning_text(found)
        assert [trace.name for trace in report.tuning_figure(found).data] == ["trial 3", "trial 1", "trial 0", "trial 2"]
        assert Trials.from_json(json.loads(json.dumps(found.to_json())), "x") == found


def test_a_tuned_config_is_read_back():
    """Also one with every kind of value."""
    config = load(TINY, ["tune.settings={'train.schedule'=['phase','whole'],'train.phases.width.largest'=[true,false]}"])
    tuned = tuned_config(config, {"train.schedule": "whole", "train.phases.width.largest": False})
    assert parse(tomllib.loads(dump(tuned)), Experiment, "x") == tuned
    assert (tuned.train.schedule, tuned.train.phases[1].largest) == ("whole", False)
