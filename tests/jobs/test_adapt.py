"""The step that adapts the supernet to the search: its archive, its weights, and that it continues after a kill anywhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from helpers import TINY, Running, ofa

from cluster.config import ConfigError
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.run import Ledger
from jobs import adapt, files
from jobs.config import load
from jobs.evaluators import trained_evaluator
from jobs.images.dataset import load as load_data
from jobs.job import opened
from jobs.pipeline import run_steps
from ofa.draws import Weighted
from ofa.genes import Genes
from ofa.record import Measured
from search.adapt.history import Adaptation

SETTINGS = [
    'train.phases=[{name="all",epochs=1,lr=0.1}]', "train.workers=1", "train.backend=local", "train.checkpoint_s=0",
    "ray.evaluators=1", "data.selection=0.3", "data.test=0.5", "measure.archs=14", "measure.latency_archs=5",
    "measure.latency_runs=5", "adapt.iterations=2", "adapt.archs=12", "adapt.oversample=2", "adapt.batch=4",
    "adapt.survivors=8", "adapt.epochs=1", "adapt.subnets=1", "adapt.predicted_evaluations=200", "adapt.candidates=20",
]  # fmt: skip
FIRST, BATCH, ARCHS, ITERATIONS = 24, 4, 12, 2


class Killed(BaseException):
    """What ends a step in the middle."""


@pytest.fixture(scope="module")
def config():
    return load(str(TINY), SETTINGS)


@pytest.fixture(scope="module")
def images(config):
    return load_data(config, Reporter("plain"))


@pytest.fixture(scope="module")
def job_on(config, images, ray_cluster):
    """A context with a job on the run in a store; Ray is connected."""
    from contextlib import contextmanager

    @contextmanager
    def on(store):
        with opened(config, str(store), Reporter("plain"), "") as job:
            job.data, job._connected = images, True
            yield job

    return on


@pytest.fixture(scope="module")
def trained(config, job_on, tmp_path_factory):
    """A store with the trained supernet."""
    store = tmp_path_factory.mktemp("trained")
    with job_on(store) as job:
        run_steps(job, ["train"])
    return store


@pytest.fixture(scope="module")
def undisturbed(trained, job_on, tmp_path_factory):
    """A run that was adapted without a kill."""
    return finished(trained, job_on, tmp_path_factory.mktemp("undisturbed"))


def copied(trained, store):
    import shutil

    shutil.copytree(trained, store, dirs_exist_ok=True)
    return store


def finished(trained, job_on, store):
    with job_on(copied(trained, store)) as job:
        run_steps(job, ["adapt"])
        return job.run


def archive_of(run):
    return [Measured.from_json(json.loads(line)) for line in run.raw(files.ARCHIVE.key).splitlines()]


def history_of(run):
    return Adaptation.from_bytes(run.raw(files.ADAPTATION.key), files.ADAPTATION.key)


class TestAnAdaptedRun:
    def test_has_an_archive_of_constant_size_with_distinct_archs(self, undisturbed, config):
        archs = [m.arch for m in archive_of(undisturbed)]
        assert len(archs) == len(set(archs)) == ARCHS
        assert all(config.search_space.contains(arch) for arch in archs)

    def test_writes_what_every_iteration_cost(self, undisturbed):
        rows = history_of(undisturbed).iterations
        assert [row.iteration for row in rows] == [0, 1, 2]
        # a batch, and the archive again
        assert [row.evaluations for row in rows] == [FIRST + i * (BATCH + ARCHS) for i in range(ITERATIONS + 1)]
        assert 0 < rows[0].device_seconds < rows[1].device_seconds < rows[2].device_seconds
        assert all(row.hypervolume > 0 and row.archive == ARCHS >= row.front > 0 for row in rows)

    def test_keeps_the_last_weights_alone_and_they_differ_from_the_trained_ones(self, undisturbed):
        weights = [key for key in undisturbed.keys(f"{files.ADAPTED}/") if key.endswith(".safetensors")]
        assert weights == [files.adapted(ITERATIONS).key]
        before, after = (
            safetensors.numpy.load(undisturbed.raw(file.key)) for file in (files.supernet("all"), files.adapted(ITERATIONS))
        )
        assert any(not np.array_equal(before[name], after[name]) for name in before)
        assert list(undisturbed.problems()) == []

    def test_has_evaluated_the_archive_with_the_last_weights(self, undisturbed, job_on, images):
        with job_on(undisturbed.store.url) as job:
            evaluator = trained_evaluator(job, job.run.begin("evaluate"))
        for row in archive_of(undisturbed)[:3]:
            assert row.top1 == pytest.approx(evaluator.top1(row.arch, images.selection), abs=2e-3)


def test_a_step_that_is_killed_between_parts_of_its_ledger_ends_with_the_same_archive(
    undisturbed, trained, job_on, tmp_path, monkeypatch
):
    """In the first evaluations, and after a training."""
    append, left = Ledger.append, 0

    def dying(self, rows):
        nonlocal left
        append(self, rows)
        left -= 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(Ledger, "append", dying)
    monkeypatch.setattr("cluster.run.PART_S", 0.0)  # every row is a part
    copied(trained, tmp_path)
    for count in (3, FIRST + BATCH + 7):
        left = count
        with pytest.raises(Killed), job_on(tmp_path) as job:
            adapt.adapt(job)
    left = -1
    with job_on(tmp_path) as job:
        adapt.adapt(job)
        assert job.run.raw(files.ARCHIVE.key) == undisturbed.raw(files.ARCHIVE.key)
        assert job.run.raw(files.adapted(ITERATIONS).key) == undisturbed.raw(files.adapted(ITERATIONS).key)
        assert [(row.hypervolume, row.evaluations) for row in history_of(job.run).iterations] == [
            (row.hypervolume, row.evaluations) for row in history_of(undisturbed).iterations
        ]


@pytest.mark.whole_run
@pytest.mark.slow  # the test above has the same in one process, in every suite
def test_killed_in_every_part_of_an_iteration_a_run_ends_with_the_same_archive_and_front(tmp_path):
    words = [*(word for setting in with_settings("adapt.iterations=1") for word in ("--set", setting)), "--until", "search"]
    stores = {name: tmp_path / name for name in ("undisturbed", "killed")}
    commands = {name: ("run", TINY, *words, "--store", store) for name, store in stores.items()}
    Running(*commands["undisturbed"]).finish()
    run_id = load(str(TINY), with_settings("adapt.iterations=1")).id
    folder = stores["killed"] / run_id

    def rows(iteration):
        lines = [line for part in (folder / "partial/adapt").glob("*.jsonl") for line in part.read_text().splitlines()]
        return sum(row["iteration"] == iteration and "measured" in row for row in map(json.loads, lines))

    parts = [
        lambda: rows(0) >= 4,  # the first evaluations
        lambda: rows(0) > FIRST,  # those of the batch, after the search
        lambda: (folder / files.adapted_folder(1) / "checkpoint.json").exists(),  # fine-tuning
        lambda: rows(1) >= 4,  # the archive again
    ]
    for reached in parts:
        running = Running(*commands["killed"])
        running.wait_for(reached)
        running.kill_all()
        assert not (folder / "adapt.done.json").exists()
    Running(*commands["killed"]).finish()
    for name in ("archive.jsonl", "measured.jsonl", "front.json", files.adapted(1).key):
        assert (folder / name).read_bytes() == (stores["undisturbed"] / run_id / name).read_bytes(), name
    assert ofa("results", "verify", "--store", stores["killed"]).returncode == 0


def test_the_fine_tuning_samples_from_the_survivors_genes(undisturbed, job_on, config):
    with job_on(undisturbed.store.url) as job:
        archive = archive_of(undisturbed)
        rows = adapt.law(job, archive, 1)
        plan = adapt.plan_of_iteration(job, 2, "weights", rows)
    [phase] = plan.phases
    assert phase.draw == Weighted(rows, 1)
    assert (phase.before, phase.epochs, phase.after) == (1, 1, 0)
    assert [len(row) for row in rows] == Genes(config.search_space).sizes_G.tolist()


@pytest.mark.slow
def test_a_growing_archive_keeps_every_arch(config, trained, images, ray_cluster, tmp_path):
    growing = replace(config, adapt=replace(config.adapt, archive="growing", iterations=1))
    with opened(config, str(copied(trained, tmp_path)), Reporter("plain"), "") as job:
        job.config, job.data, job._connected = growing, images, True
        adapt.adapt(job)
        assert len(archive_of(job.run)) == ARCHS + BATCH


def with_settings(*settings):
    """The settings of this file with others in place of those of the same names."""
    names = [setting.split("=")[0] for setting in settings]
    return [*(setting for setting in SETTINGS if setting.split("=")[0] not in names), *settings]


class TestBadSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                ["choices.kernels=[3]", "adapt.oversample=20000"],
                r"adapt: .* the space digits with its choices has \d+: lower them",
            ),
            (["adapt.survivors=13"], r"adapt.survivors is 13, more than adapt.archs \(12\)"),
            (["adapt.law=normal"], "normal"),
            (["adapt.archive=shrinking"], "shrinking"),
        ],
    )
    def test_are_one_line(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            load(str(TINY), with_settings(*settings))

    def test_the_step_alone_without_iterations_says_so(self, trained, job_on, config):
        with job_on(trained) as job:
            job.config = replace(config, adapt=replace(config.adapt, iterations=0))
            with pytest.raises(InputError, match=r"adapt\.iterations is 0"):
                run_steps(job, ["adapt"])

    def test_settings_of_an_adaptation_are_no_part_of_the_id_of_a_run_without_one(self):
        plain = load(str(TINY)).id
        assert load(str(TINY), ["adapt.archs=50", "adapt.survivors=20"]).id == plain
        assert load(str(TINY), SETTINGS).id != load(str(TINY), with_settings("adapt.batch=5")).id
