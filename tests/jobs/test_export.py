"""Fine-tuning of a front's networks in the step `export`, in this process, on a tiny trained supernet."""

import json
import shutil
from types import SimpleNamespace

import helpers
import pytest
import torch

from cluster.progress import Reporter
from jobs import export, files
from jobs.config import load
from jobs.evaluators import trained_evaluator, weights_file
from jobs.images.dataset import HeldOut
from jobs.job import opened
from jobs.train import train_supernet
from ofa.cost import cost
from ofa.record import Measured
from search.front import Front

SETS = ["train.backend=local", "train.workers=1", "train.checkpoint_s=0", "data.selection=0.4", "data.test=0.4",
        'train.phases=[{name="a",epochs=1,lr=0.1}]', "export.finetune_epochs=2", "export.finetune_lr=0.05"]  # fmt: skip


class Stop(Exception):
    """What kills the step here."""


@pytest.fixture(scope="module")
def config():
    return load(str(helpers.TINY), SETS)


@pytest.fixture(scope="module")
def trained_store(config, tmp_path_factory):
    """A store with the trained run."""
    store = tmp_path_factory.mktemp("runs")
    with opened(config, str(store), Reporter("plain"), "") as job:
        train_supernet(job)
    return store


@pytest.fixture
def job(config, trained_store, tmp_path):
    """A job on a copy of that run."""
    shutil.copytree(trained_store, tmp_path / "runs")
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
        yield job


def front_of(job):
    """The smallest and the largest network as a front."""
    space = job.config.search_space
    members = []
    for arch in (space.smallest(), space.largest()):
        macs, params = cost(space, arch, job.data.classes)
        members.append(Measured(arch=arch, top1=0.5, macs=macs, params=params))
    return Front(space.name, tuple(members))


def finetune(job, monkeypatch, stop_after=2):
    """Runs the part of the step; the names of the networks that it exports, with their evaluators."""
    written = {}

    def write(job, step, evaluator, name, archs):
        written[name] = evaluator
        for suffix in export.SUFFIXES:
            step.write(files.subnet(name, suffix), name.encode())
        if len(written) > stop_after:
            raise Stop

    monkeypatch.setattr(export, "write", write)
    step = job.run.begin("export")
    evaluator = trained_evaluator(job, step)
    pool = SimpleNamespace(closed=0)
    pool.close = lambda: setattr(pool, "closed", pool.closed + 1)
    job._connected = True
    assert job.pool(lambda: pool) is pool
    export.finetune_front(job, step, evaluator, front_of(job))
    step.finish(1)
    assert pool.closed == 1  # before the training, whose workers need the places of its actors
    return written, evaluator


def test_every_network_of_the_front_is_trained_from_the_supernets_weights_and_exported(job, monkeypatch):
    monkeypatch.setattr(HeldOut, "open", lambda *_: pytest.fail("the test split is read"))
    written, supernet = finetune(job, monkeypatch)
    document = json.loads(job.run.read(files.FINETUNED_FRONT))
    members = front_of(job).members
    assert document["epochs"] == 2
    assert [row["arch"] for row in document["members"]] == [member.arch.to_json() for member in members]
    for row, member in zip(document["members"], members, strict=True):
        assert row["name"] == f"{member.arch.key}-finetuned" and row["macs"] == member.macs
        assert row["before"] == supernet.top1(member.arch, job.data.selection)
        tuned = written[row["name"]]
        assert row["top1"] == tuned.top1(member.arch, job.data.selection) != row["before"]
        assert not torch.equal(tuned.net.classifier.weight, supernet.net.classifier.weight)
    assert document["members"][1]["top1"] > document["members"][1]["before"]  # after one epoch, two more help the largest
    assert not list(job.run.keys(f"{files.FINETUNED}/"))
    assert not list(job.run.problems())


@pytest.mark.slow
def test_a_step_that_was_killed_goes_on_with_the_networks_that_are_left(job, monkeypatch):
    with pytest.raises(Stop):
        finetune(job, monkeypatch, stop_after=1)
    trained = []
    real = export.train

    def train(job, plan, at, title):
        trained.append(plan.phases[0].draw.archs[0])
        return real(job, plan, at, title=title)

    monkeypatch.setattr(export, "train", train)
    written, _ = finetune(job, monkeypatch)
    largest = job.config.search_space.largest()
    assert trained == [largest] and list(written) == [f"{largest.key}-finetuned"]
    assert len(json.loads(job.run.read(files.FINETUNED_FRONT))["members"]) == 2
    assert not list(job.run.problems())


def test_the_plan_is_a_cosine_for_one_network_from_the_supernet(job, monkeypatch):
    plans = []

    def train(job, plan, at, title):
        plans.append(plan)
        raise Stop

    monkeypatch.setattr(export, "train", train)
    arch, url = job.config.search_space.smallest(), f"{job.run.url}/{weights_file(job.config)}"
    with pytest.raises(Stop):
        export.fine_tuned(job, arch, 3, 0.02, 0.5, url)
    [plan] = plans
    [phase] = plan.phases
    assert (plan.weights, phase.draw.archs, phase.distil, phase.epochs) == (url, (arch,), 0.5, 3)
    assert [plan.lr_at(0, step, 10) for step in (0, 15)] == pytest.approx([0.02, 0.01]) and plan.lr_at(0, 29, 10) < 1e-3


def test_fine_tuning_is_part_of_the_id_only_where_there_is_some():
    ids = [load(str(helpers.TINY), [*SETS[:-2], *sets]).id
           for sets in ((), ("export.finetune_lr=0.2",), ("export.finetune_epochs=1",))]  # fmt: skip
    assert ids[0] == ids[1] != ids[2]
