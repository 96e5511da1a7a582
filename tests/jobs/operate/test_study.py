"""The measured search as an Optuna study in a file."""

import random
import sqlite3
import sys

import helpers
import optuna
import pytest

from cluster.config import dump
from cluster.errors import InputError
from cluster.run import DamagedObject, Run
from cluster.texts import jsonl
from jobs import files
from jobs.cli.main import main
from jobs.config import load
from jobs.operate.results import the_run
from jobs.operate.study import write_study
from ofa.record import Measured
from search.front import front

CONFIG = load(str(helpers.TINY))
SPACE = CONFIG.search_space


def records(count=30):
    rng = random.Random(1)
    archs = {a.key: a for a in [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(count))]}
    return [
        Measured(arch, round(rng.random(), 4), rng.randrange(10**5, 10**6), 1000 + i, split="selection")
        for i, arch in enumerate(archs.values())
    ]


def write_step(run, file, rows):
    step = run.begin(file.step)
    step.write(file, jsonl([m.to_json() for m in rows]))
    step.finish(seed=1)


@pytest.fixture
def run(tmp_path):
    """A run whose search is finished."""
    made = Run.open(str(tmp_path / "store"), CONFIG.id, dump(CONFIG), "test")
    rows = records()
    write_step(made, files.MEASURED, rows[:12])
    write_step(made, files.SEARCHED, rows[12:])
    return the_run(str(tmp_path / "store"), None)


class TestWriteStudy:
    @pytest.mark.parametrize("name", ["study.db", "study #1?.log"])
    def test_optuna_loads_a_trial_for_every_record_and_the_front_as_the_best(self, run, tmp_path, name):
        place, rows = tmp_path / name, records()
        assert write_study(run, str(place)) == len(rows)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if name.endswith(".db"):
            storage = f"sqlite:///{place}"
        else:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(place)))
        study = optuna.load_study(study_name=run.id, storage=storage)
        trials = study.trials
        assert [tuple(t.values) for t in trials] == [(m.top1, m.macs) for m in rows]
        assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert study.metric_names == ["top1", "macs"]
        assert [t.user_attrs["key"] for t in trials] == [m.arch.key for m in rows]
        assert [t.user_attrs["step"] for t in trials] == ["measure"] * 12 + ["search"] * (len(rows) - 12)
        for trial, m in zip(trials, rows, strict=True):
            assert trial.user_attrs["params"] == m.params
            assert trial.user_attrs["split"] == "selection"
            assert trial.params["resolution"] == m.arch.resolution
            held = {f"kernel_{i}": k for i, k in enumerate(m.arch.kernel) if k}
            assert {n: v for n, v in trial.params.items() if n.startswith("kernel")} == held
            assert trial.distributions["kernel_0"].choices == SPACE.kernels
        best = {t.user_attrs["key"] for t in study.best_trials}
        assert best == {m.arch.key for m in front(SPACE.name, CONFIG.objectives, rows).members}
        assert {p.name for p in tmp_path.iterdir()} == {"store", name}

    def test_limits_of_the_search_are_constraints_so_the_best_are_within_them(self, tmp_path):
        config, rows = load(str(helpers.TINY), ["search.at_most={macs=500000}"]), records()
        made = Run.open(str(tmp_path / "store"), config.id, dump(config), "test")
        write_step(made, files.MEASURED, rows[:12])
        write_step(made, files.SEARCHED, rows[12:])
        write_study(made, str(tmp_path / "study.log"))
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
        study = optuna.load_study(study_name=config.id, storage=optuna.storages.JournalStorage(backend))
        best = {t.user_attrs["key"] for t in study.best_trials}
        assert best == {m.arch.key for m in front(SPACE.name, config.objectives, rows).members}
        assert max(t.values[1] for t in study.best_trials) <= 500_000

    def test_what_is_there_is_not_overwritten_and_nothing_else_is_left(self, run, tmp_path):
        place = tmp_path / "study.db"
        place.write_text("mine")
        with pytest.raises(InputError, match="is there already; give another name, or delete it"):
            write_study(run, str(place))
        assert place.read_text() == "mine"
        assert {p.name for p in tmp_path.iterdir()} == {"store", "study.db"}

    @pytest.mark.parametrize(
        ("out", "said"),
        [
            ("study.json", "give a name that ends with .db"),
            ("nowhere/study.db", "there is no directory"),
            ("s3://bucket/study.db", "is an address"),
        ],
    )
    def test_a_path_that_cannot_be_written_gets_one_line(self, run, monkeypatch, tmp_path, out, said):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=said):
            write_study(run, out)
        assert {p.name for p in tmp_path.iterdir()} == {"store"}

    def test_a_failure_while_writing_leaves_nothing(self, run, monkeypatch, tmp_path):
        def full(study, trials):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(optuna.Study, "add_trials", full)
        with pytest.raises(InputError, match="cannot write: No space left on device"):
            write_study(run, str(tmp_path / "study.db"))
        assert {p.name for p in tmp_path.iterdir()} == {"store"}

    def test_a_run_without_a_search_is_named(self, tmp_path):
        made = Run.open(str(tmp_path / "store"), CONFIG.id, dump(CONFIG), "test")
        write_step(made, files.MEASURED, records())
        with pytest.raises(InputError, match=r"'search.jsonl' is not in .*run `ofa search` first"):
            write_study(made, str(tmp_path / "study.db"))

    def test_a_record_of_another_space_is_named_with_its_line(self, tmp_path):
        made = Run.open(str(tmp_path / "store"), CONFIG.id, dump(CONFIG), "test")
        step = made.begin("measure")
        step.write(files.MEASURED, jsonl([records()[0].to_json(), {"arch": {"resolution": 1}}]))
        step.finish(seed=1)
        write_step(made, files.SEARCHED, records())
        with pytest.raises(DamagedObject, match=r"measured\.jsonl, line 2: .*delete measure\.done\.json there"):
            write_study(made, str(tmp_path / "study.db"))


@pytest.mark.parametrize("pages", [4, 40])
def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, pages):
    connect = sqlite3.connect

    def small(*words, **options):
        opened = connect(*words, **options)
        opened.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then reports what it reports of a full disk
        return opened

    monkeypatch.setattr(sqlite3, "connect", small)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"--out .*full\.db: cannot write: database or disk is full; choose another place"):
        write_study(run, str(tmp_path / "out/full.db"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_says_what_it_wrote(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ofa", "results", "study", "--store", str(tmp_path / "store")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert f"study.db: the study {run.id} of {len(records())} trials" in capsys.readouterr().out
    assert (tmp_path / "study.db").exists()
