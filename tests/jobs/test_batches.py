"""The evaluators' batch size that a run chooses by measurement, and keeps."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY

from cluster.config import dump
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.run import Run
from jobs import batches, files
from jobs.config import load
from jobs.images.dataset import load as load_images
from jobs.job import Job
from jobs.report import evaluations_text
from jobs.train import plan_of
from jobs.workers.batches import batch_times
from jobs.workers.evaluator import EvaluationWorker, shared_arrays
from ofa.meters import METERS
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.timings import BatchTime, BatchTimes

SPACE = get_space("digits")
TIMES = BatchTimes(
    device="a <device>", arch=SPACE.largest(),
    rows=tuple(BatchTime(batch=batch, image_ms=took) for batch, took in ((32, 0.25), (64, 0.125), (128, 0.125), (256, 0.5))),
)  # fmt: skip


@pytest.fixture
def job(tmp_path):
    """A job on a run that chooses its batch size; or on one with these settings."""

    def made(*settings):
        config = load(str(TINY), [*(settings or ("measure.batch=auto",))])
        run = Run.open(str(tmp_path / "store"), config.id, dump(config), "test")
        found = Job(config, run, Reporter("plain"), "")
        found.__dict__["data"] = SimpleNamespace(classes=10, sizes={"train": 9999, "selection": 50, "test": 70})
        return found

    return made


@pytest.fixture
def measured(monkeypatch):
    """How often evaluations were timed."""
    found = []
    monkeypatch.setattr(batches, "_measured", lambda job: found.append(1) or TIMES)
    return found


def test_a_number_is_taken_as_it_is(job, measured):
    fixed = job("measure.batch=64")
    step = fixed.run.begin("measure")
    assert batches.batch_of(fixed, step) == 64
    assert not measured and not step.outputs and not step.inputs
    assert evaluations_text(fixed, step) == ""


def test_the_fastest_is_chosen_once_and_read_ever_after(job, measured, capsys):
    for _ in range(2):  # the second attempt of a step that was stopped
        again = job()
        step = again.run.begin("measure")
        assert batches.batch_of(again, step) == batches.batch_of(again, step) == 64
        assert [*step.outputs] == ["batch.json"]
    assert "measure: 64 images at a time are the fastest for r32-" in capsys.readouterr().err
    step.finish(1)
    search = again.run.begin("search")
    assert batches.batch_of(again, search) == 64, "in the same command"
    later = job()
    predict = later.run.begin("predict")
    assert batches.batch_of(later, predict) == 64, "in a later one"
    assert [*search.inputs] == [*predict.inputs] == ["batch.json"]
    assert measured == [1]
    report = later.run.begin("report")
    shown = evaluations_text(later, report)
    assert "64 images at a time are the fastest" in shown and "on a &lt;device&gt; (an image with 32 images 0.25 ms" in shown
    assert [*report.inputs] == ["batch.json"]


def test_an_adaptation_chooses_it_where_there_is_one(job, measured):
    adapting = job("measure.batch=auto", "adapt.iterations=1")
    step = adapting.run.begin("adapt")
    assert batches.batch_of(adapting, step) == 64 and [*step.outputs] == ["batch.json"]
    step.finish(1)
    step = adapting.run.begin("measure")
    assert batches.batch_of(adapting, step) == 64 and [*step.inputs] == ["batch.json"]
    assert measured == [1]


def test_a_step_before_it_is_chosen_names_the_step_that_chooses_it(job):
    early = job()
    with pytest.raises(InputError, match=r"'batch.json' is not in .*; run `ofa measure` first"):
        batches.batch_of(early, early.run.begin("search"))


def test_the_largest_network_is_timed_on_as_many_images_as_the_held_out_splits_have(job, monkeypatch):
    chosen = job()
    monkeypatch.setattr(Job, "need_ray", lambda job: None)
    monkeypatch.setattr(batches, "ray_map", lambda function, items, gpus: [function(item) for item in items])
    step = chosen.run.begin("measure")
    batch = batches.batch_of(chosen, step)
    found = BatchTimes.from_json(json.loads(chosen.run.raw(files.BATCHES)), "batch.json")
    assert found.arch == SPACE.largest()
    assert {row.batch for row in found.rows} <= {32, 64} and batch == found.fastest.batch


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"measure.device: .* finds no GPU"):
        batch_times(SPACE, 10, 50, "cuda", 0.5)


@pytest.mark.gpu
def test_evaluations_are_timed_on_a_gpu_within_the_share_of_its_memory():
    try:
        found = batch_times(SPACE, 10, 4096, "cuda", 0.5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.device == torch.cuda.get_device_name() and len(found.rows) > 2
    assert all(row.image_ms > 0 for row in found.rows)


def test_a_training_evaluates_and_calibrates_in_batches_of_fixed_sizes():
    chosen, given = (
        plan_of(load(str(TINY), [f"measure.{setting}" for setting in settings]), 10).evaluation
        for settings in (["batch=auto"], ["batch=64", "calibration_batch=32"])
    )
    assert (chosen, given) == ((128, 128, 128), (128, 64, 32))


def test_measured_top1_is_the_same_whatever_is_chosen():
    """Of a few sub-networks on the digits; the calibration has a batch size of its own."""
    config = load(str(TINY), ["measure.batch=auto", "measure.calibration_images=64", "measure.calibration_batch=32"])
    data = load_images(config, Reporter())
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(3))
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    arrays, threads = shared_arrays(weights, data), torch.get_num_threads()
    archs = [SPACE.smallest(), *(SPACE.only(resolutions=(24,)).sample(random.Random(seed)) for seed in range(3))]
    try:
        one, other = (EvaluationWorker(config, METERS, batch, arrays) for batch in (32, 256))
        records = [[worker.evaluator.top1(arch, data.selection) for arch in archs] for worker in (one, other)]
    finally:
        torch.set_num_threads(threads)
    assert records[0] == records[1]
    assert (one.evaluator.batch, one.evaluator.calibration_batch, other.evaluator.batch) == (32, 32, 256)
