"""Training in this process: the same loop that Ray Train's workers run."""

import itertools
import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import helpers
import pytest
import safetensors.torch
import torch
from pictures import content, write_folders

from cluster.checkpoint import Checkpoints, Progress
from cluster.config import ConfigError
from cluster.errors import Diverged, InputError
from cluster.progress import Reporter
from cluster.run import DamagedObject, Run
from cluster.runtime.backends import BACKENDS, Backend
from cluster.runtime.workers import Worker
from cluster.store import open_store
from cluster.texts import sha256
from jobs import files
from jobs.config import load
from jobs.images.dataset import Dataset
from jobs.images.dataset import load as load_data
from jobs.job import Job, opened
from jobs.tools.finetune import tuned
from jobs.train import _history, check, check_streamed, plan_of, train_supernet
from jobs.train import train as run_training
from jobs.workers import trainer
from jobs.workers.trainer import given_weights, initial, named_state
from ofa.draws import Given
from ofa.evaluate import NotFinite
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.train import Learner

TINY = str(helpers.TINY)
SHORT = ["data.selection=0.4", "data.test=0.4", 'train.phases=[{name="a",epochs=1,lr=0.1}]']


class Stop(Exception):
    """What kills a training here."""


@pytest.fixture(scope="module")
def tiny():
    config = load(TINY, ["train.workers=1", "train.checkpoint_s=0", "data.selection=0.4", "data.test=0.4"])
    short = tuple(replace(phase, epochs=2) for phase in config.train.phases)
    config = replace(config, train=replace(config.train, phases=short))
    return config, load_data(config, Reporter("plain")).arrays()


def train(config, arrays, store, stop_after=None):
    """Trains to the end, or until this process has saved so many times; the last phase's weights."""
    run = Run.open(str(store), config.id, "", code="test")
    train_some(config, arrays, store, Worker(rank=0, world=1, report=lambda event: None), stop_after, raises=True)
    return safetensors.torch.load(run.raw(files.supernet(config.phases[-1].name).key))


def train_some(config, arrays, store, worker, stop_after, *, raises=False):
    """One worker trains until it has saved so many times; raises: the `Stop` with which it ends then."""
    saved = 0

    class Stopping(Checkpoints):
        def save(self, *arguments):
            super().save(*arguments)
            self.count()

        def finish_phase(self, *arguments):
            super().finish_phase(*arguments)
            self.count()

        def count(self):
            nonlocal saved
            saved += 1
            if saved == stop_after:
                raise Stop

    original, trainer.Checkpoints = trainer.Checkpoints, Stopping
    try:
        work(config, arrays, store, worker)
    except Stop:
        if raises:
            raise
    finally:
        trainer.Checkpoints = original


def work(config, arrays, store, worker):
    """One worker's whole training, in this process."""
    place = trainer.Place(str(store), config.id, "test", files.SUPERNET, checkpoint_s=config.train.checkpoint_s)
    trainer.loop(plan_of(config, 10), config.data, place, worker, arrays)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_with_stops(config, arrays, store, *, stop_after):
    """What `train` returns once it has been stopped after every `stop_after` checkpoints, and the number of stops."""
    for stops in itertools.count():
        with suppress(Stop):
            return train(config, arrays, store, stop_after=stop_after), stops
    raise AssertionError


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """The weights after an undisturbed training of `tiny`, and its run."""
    config, arrays = tiny
    store = tmp_path_factory.mktemp("straight")
    return train(config, arrays, store), Run.at(str(store), config.id, "")


def test_stopped_training_resumes_to_the_same_weights(tiny, straight, tmp_path):
    """Stopped after every few steps, in every phase and at every epoch's end."""
    config, arrays = tiny
    weights, run = straight
    resumed, stops = train_with_stops(config, arrays, tmp_path, stop_after=2)
    assert stops >= 3
    assert same(weights, resumed)
    other = Run.at(str(tmp_path), config.id, "")
    for phase in config.phases:
        meta = files.supernet_meta(phase.name).key
        assert run.raw(meta) == other.raw(meta)


@pytest.mark.parametrize(
    ("teacher", "settings"),
    [
        pytest.param("first", {"schedule": "whole"}, marks=pytest.mark.slow),  # these two also in the test of a ramp
        pytest.param("first", {"momentum_across_phases": True}, marks=pytest.mark.slow),
        ("previous", {}),
        pytest.param("first", {"average": 0.5}, marks=pytest.mark.slow),
    ],
    ids=["whole schedule", "momentum kept", "previous teacher", "average"],
)
def test_training_resumes_to_the_same_weights_with(tiny, tmp_path, teacher, settings):
    """Three phases of one step, stopped after every step and at every phase's end."""
    config, arrays = tiny
    first, last = config.train.phases

    def of(teacher, **settings):
        middle = replace(last, name="middle", epochs=1, distil=1.0, teacher=teacher)
        phases = (replace(first, epochs=1), middle, replace(last, epochs=1, teacher=teacher))
        return replace(config, train=replace(config.train, batch=256, phases=phases, **settings))

    changed = of(teacher, **settings)
    straight = train(changed, arrays, tmp_path / "straight")
    resumed, stops = train_with_stops(changed, arrays, tmp_path / "stopped", stop_after=1)
    assert stops == 6
    assert same(straight, resumed)
    assert not same(straight, train(of("first"), arrays, tmp_path / "plain"))


def test_a_ramp_with_in_place_distillation_resumes_to_the_same_weights(tiny, tmp_path):
    """Delayed shrinking with all settings of its steps, in two phases, stopped after every other step."""
    config, arrays = tiny
    first, last = config.train.phases
    shrinks = replace(last, epochs=2, distil=0.0, sandwich=True, subnets=1, ramp_epochs=1.5)
    config = replace(config, data=replace(config.data, flip=True, alternating_flip=True))
    recipe = {
        "schedule": "whole",
        "momentum_across_phases": True,
        "gradients": "sum",
        "average": 0.9,
        "distil_loss": "alpha",
    }

    def of(**settings):
        phases = (replace(first, epochs=1), replace(shrinks, **settings))
        return replace(config, train=replace(config.train, batch=128, zero_last_gamma=True, phases=phases, **recipe))

    straight = train(of(), arrays, tmp_path / "straight")
    resumed, stops = train_with_stops(of(), arrays, tmp_path / "stopped", stop_after=2)
    assert stops >= 3
    assert same(straight, resumed)
    assert not same(straight, train(of(ramp_epochs=0.0), arrays, tmp_path / "at once"))


def test_the_averaged_weights_are_kept_and_a_checkpoint_has_both(tiny, tmp_path):
    """After one of two phases: its weights are the averages of the state with which the next one starts."""
    config, arrays = tiny
    first, last = config.train.phases
    phases = (replace(first, epochs=1), replace(last, epochs=1, distil=0.0))
    averaged = replace(config, train=replace(config.train, batch=128, average=0.9, phases=phases))
    with pytest.raises(Stop):
        train(averaged, arrays, tmp_path, stop_after=3)  # two steps, and the end of the first phase
    run = Run.at(str(tmp_path), averaged.id, "")
    kept = safetensors.torch.load(run.raw(files.supernet(first.name).key))
    latest = Checkpoints(run, files.SUPERNET).latest()
    assert latest is not None and latest[1].phase == 1
    state = safetensors.torch.load(latest[0])
    trained = [name.removeprefix("average.") for name in state if name.startswith("average.")]
    assert len(trained) > 10
    assert all(torch.equal(kept[f"net.{name}"], state[f"average.{name}"]) for name in trained)
    assert any(not torch.equal(state[f"net.{name}"], state[f"average.{name}"]) for name in trained)


class Pair(Worker):
    """One of two workers that are threads of this process."""

    barrier = threading.Barrier(2)
    parts: ClassVar[dict] = {}

    def average(self, tensor):
        Pair.parts[self.rank] = tensor
        self.barrier.wait(60)
        mean = (Pair.parts[0] + Pair.parts[1]) / 2
        self.barrier.wait(60)
        tensor.copy_(mean)
        self.barrier.wait(60)


def together(config, arrays, store, *, shards=0):
    """Two workers train to the end, in threads; the events of the first, and the last phase's history and weights."""
    events = []
    workers = [Pair(rank, 2, events.append, shards) for rank in (0, 1)]
    threads = [threading.Thread(target=work, args=(config, arrays, store, worker)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return events, *result(config, store)


def result(config, store):
    """The history and the weights of the last phase."""
    run, name = Run.at(str(store), config.id, ""), config.phases[-1].name
    history = json.loads(run.raw(files.supernet_meta(name).key))["history"]
    return history, safetensors.torch.load(run.raw(files.supernet(name).key))


@pytest.mark.parametrize(
    ("phase", "settings"),
    [
        ("epochs=2,lr=0.05,subnets=1", ()),
        pytest.param(
            "epochs=1,lr=0.005,sandwich=true,ramp_epochs=0.7",  # few small steps, in which rounding does not grow
            (
                "train.gradients=sum",
                "train.average=0.9",
                "data.flip=true",
                "data.alternating_flip=true",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "recipe"],
)
def test_three_shards_are_the_same_training_for_one_worker_and_two_that_come_and_go(tmp_path, phase, settings):
    """A batch of 50 images in shards of 17, 17 and 16; one worker is stopped after three steps, and two end the training."""
    phases = f'train.phases=[{{name="a",{phase}}}]'
    sets = [*SHORT[:2], "train.batch=50", "train.checkpoint_s=0", "train.workers=[1, 3]", phases, *settings]
    config = load(TINY, sets)
    arrays = load_data(config, Reporter("plain")).arrays()
    alone = Worker(0, 1, lambda event: None, shards=3)
    for name in ("alone", "two", "resized"):
        Run.open(str(tmp_path / name), config.id, "", code="test")
    work(config, arrays, tmp_path / "alone", alone)
    history, weights = result(config, tmp_path / "alone")
    train_some(config, arrays, tmp_path / "resized", alone, stop_after=3)
    for name, resumed in (("two", 0), ("resized", 3)):
        events, seen, found = together(config, arrays, tmp_path / name, shards=3)
        assert (events[0].done, events[0].note) == (resumed, "phase a, 2 of 3 workers")
        assert [row["loss"] for row in seen] == pytest.approx([row["loss"] for row in history], abs=1e-5)
        trained = [key for key in weights if not key.endswith((".mean", ".var"))]
        assert max((found[key] - weights[key]).abs().max().item() for key in trained) < 1e-3


def test_a_checkpoint_is_made_when_others_wait_for_it(tiny, tmp_path):
    """Of four steps, after the second, although none is due for an hour; then at the end of the phase."""
    config, arrays = tiny
    config = replace(config, train=replace(config.train, checkpoint_s=3600.0, phases=config.train.phases[:1]))
    asked, steps = [], []

    def awaited():
        asked.append(None)
        return len(asked) == 2

    def saved():
        steps.append(len(asked))

    Run.open(str(tmp_path), config.id, "", code="test")
    work(config, arrays, tmp_path, Worker(0, 1, lambda event: None, 1, awaited, saved))
    assert steps == [2, 4] and len(asked) == 4


def test_training_goes_on_with_another_number_of_workers(tiny, tmp_path):
    """Stopped alone in its first phase, taken up by two, which draw their own networks and end with the same weights."""
    config, arrays = tiny
    with pytest.raises(Stop):
        train(config, arrays, tmp_path, stop_after=2)
    two = replace(config, train=replace(config.train, workers=2))
    assert two.id == config.id
    events = []
    threads = [threading.Thread(target=work, args=(two, arrays, tmp_path, Pair(rank, 2, events.append))) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run = Run.at(str(tmp_path), config.id, "")
    history = json.loads(run.raw(files.supernet_meta(config.phases[-1].name).key))["history"]
    assert events[0].resumed and events[0].done == 2
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(0 < row["loss"] < 6 for row in history)  # two cross-entropies, of chance each 2.3


def test_workers_end_a_phase_without_a_better_epoch_together(tiny, tmp_path):
    """Only the first one evaluates; at a learning rate that changes nothing the first epoch is the best."""
    config, arrays = tiny
    plan = plan_of(config, 10)
    phase = replace(plan.phases[0], epochs=9, lr=1e-30, patience=2, draw=Given((config.search_space.smallest(),)))
    plan = replace(plan, phases=(phase,), recipe=replace(plan.recipe, weight_decay=0.0), validate_every=1)
    place = trainer.Place(str(tmp_path), config.id, "test", files.SUPERNET)
    Run.open(str(tmp_path), config.id, "", code="test")
    workers = [Pair(rank, 2, lambda event: None) for rank in (0, 1)]
    threads = [threading.Thread(target=trainer.loop, args=(plan, config.data, place, one, arrays)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    history = json.loads(Run.at(str(tmp_path), config.id, "").raw(files.supernet_meta(phase.name).key))["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert not any(thread.is_alive() for thread in threads)


def test_another_seed_trains_another_network(tiny, straight, tmp_path):
    config, arrays = tiny
    assert not same(straight[0], train(replace(config, seed=2), arrays, tmp_path))


def test_a_phase_says_how_it_went(tiny, straight):
    config, _ = tiny
    _, run = straight
    for phase in config.phases:
        meta = json.loads(run.raw(files.supernet_meta(phase.name).key))
        assert [row["epoch"] for row in meta["history"]] == [1, 2]
        assert all(row["loss"] > 0 and 0 <= row["smallest"] <= 1 and 0 <= row["largest"] <= 1 for row in meta["history"])
        assert meta["choices"]["expands"] == list(phase.space.expands)
    assert 0 < meta["history"][-1]["lr"] < phase.lr


def test_one_network_is_tuned_from_the_supernets_weights(tiny, straight, tmp_path):
    """What `ofa finetune` trains: no step of rate 0 changes it, and the weights of another space are refused."""
    config, arrays = tiny
    trained, run = straight
    weights = f"{run.url}/{files.supernet(config.phases[-1].name)}"
    arch = config.search_space.smallest()
    own = tuned(config, weights, arch, epochs=1, lr=1e-30, distil=0.5)
    own = replace(own, train=replace(own.train, weight_decay=0.0))
    assert own.id != config.id and own.name == "tiny-finetune"
    kept = train(own, arrays, tmp_path)
    buffers = [name for name in kept if name.endswith((".mean", ".var"))]
    assert all(torch.allclose(kept[name], trained[name], atol=1e-20, rtol=0) for name in kept if name not in buffers)
    changed = train(tuned(config, weights, arch, epochs=1, lr=0.01, distil=0.5), arrays, tmp_path)
    assert not same(changed, kept)
    wider = replace(own, space="ofa_mbv3_w0.5_32px", train=replace(own.train, phases=config.train.phases))
    with pytest.raises(ConfigError, match=r"train.weights: .*the space ofa_mbv3_w0.5_32px with 10 classes has") as caught:
        train(wider, arrays, tmp_path)
    assert "\n" not in str(caught.value)


def stored_supernet(place, space, classes, **changed):
    """A supernet's weights in a file, some of them changed; the tensors."""
    tensors = named_state(Supernet(space, classes, torch.Generator().manual_seed(3))) | changed
    place.write_bytes(safetensors.torch.save(tensors))
    return tensors


@pytest.mark.parametrize("name", ["digits", "ofav2_mbv3_ee_d_w0.25_32px"])
def test_a_new_head_is_the_only_thing_that_given_weights_do_not_decide(tmp_path, name):
    """Also of a space with five exits; their classifiers are those of a training without given weights."""
    space, weights = get_space(name), tmp_path / "w.safetensors"
    before = stored_supernet(weights, space, 10)
    plan = replace(plan_of(load(TINY, ["seed=5"]), 7), space=space, weights=str(weights), head="new")
    net, teacher = initial(plan)
    assert teacher is None
    fresh = initial(replace(plan, weights="", head="kept"))[0].state_dict()
    heads = {key for key in fresh if "classifier." in key}
    assert net.classifier_names == heads and len(heads) == 2 * max(1, len(space.values("exit")))
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, fresh[key] if key in heads else before[f"net.{key}"]), key
        assert key not in heads or len(tensor) == 7
    kept, teacher = initial(replace(plan, classes=10, head="kept"))
    assert same(kept.state_dict(), {key.removeprefix("net."): tensor for key, tensor in before.items()})
    assert same(teacher, kept.state_dict())


def test_a_kept_head_needs_the_same_classes_and_any_head_the_same_space(tmp_path):
    weights, other = tmp_path / "w.safetensors", tmp_path / "deeper.safetensors"
    digits = get_space("digits")
    stored_supernet(weights, digits, 10)
    says = r'classifier\.weight is \(10, \d+\), the space digits with 7 classes has \(7, \d+\).*or set train\.head to "new"$'
    with pytest.raises(ConfigError, match=says):
        given_weights(str(weights), digits, 7)
    for head in ("kept", "new"):
        with pytest.raises(ConfigError, match=r"the space ofa_mbv3_w0\.25_32px .* has .*on the same space and classes$"):
            given_weights(str(weights), get_space("ofa_mbv3_w0.25_32px"), 10, head)
    stored_supernet(other, digits, 10, **{"net.parts.more.weight": torch.zeros(3)})
    with pytest.raises(ConfigError, match=r"parts\.more\.weight is \(3,\), the space digits with 10 classes has nothing"):
        given_weights(str(other), digits, 10)
    stored_supernet(other, digits, 10, **{"net.classifier.bias": torch.full((10,), torch.nan)})
    assert "classifier.bias" not in given_weights(str(other), digits, 3, "new")
    with pytest.raises(ConfigError, match=r"classifier\.bias has values that are not finite"):
        given_weights(str(other), digits, 10)


def test_the_weights_that_training_starts_from_are_an_input_and_may_not_change_meanwhile(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    stored_supernet(weights, get_space("digits"), 10)
    config = load(TINY, [*SHORT, "train.backend=local", "train.workers=1", f"train.weights='{weights}'"])
    digest = sha256(weights.read_bytes())

    def stop(*arguments):
        raise Stop

    for _ in range(2):
        with monkeypatch.context() as patched, opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
            patched.setattr("jobs.train.train", stop)
            with pytest.raises(Stop):
                train_supernet(job)
    stored_supernet(weights, get_space("digits"), 10, **{"net.classifier.bias": torch.ones(10)})
    says = rf"train\.weights: .*w\.safetensors: has sha256 [0-9a-f]{{12}}, the training began from {digest[:12]}; restore it"
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job, pytest.raises(ConfigError, match=says):
        train_supernet(job)
    stored_supernet(weights, get_space("digits"), 10)
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
        train_supernet(job)
        assert job.run.done("train")["inputs"] == {files.GIVEN_WEIGHTS: digest}
        assert job.run.finished("train") and not list(job.run.problems())


def test_a_network_of_a_transferred_run_keeps_its_head_when_it_is_tuned():
    config = load(TINY, ["train.weights=/a/w.safetensors", "train.head=new"])
    assert tuned(config, "/b/w.safetensors", config.search_space.smallest(), 1, 0.1, 0.5).train.head == "kept"


def in_threads(loop, arrays, on_event, *, workers, least, max_failures, gpu):
    """A backend of this file: the workers are threads."""
    assert workers == least == 2
    threads = [threading.Thread(target=loop, args=(Pair(rank, 2, on_event), arrays)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def finished(backend, workers, store, monkeypatch, need_ray=lambda job, gpus=0: pytest.fail("this backend needs no Ray")):
    """The record of a training in a run of its own by `ofa train`'s function, and its weights."""
    config = load(TINY, [*SHORT, f"train.backend={backend}", f"train.workers={workers}"])
    monkeypatch.setattr(Job, "need_ray", need_ray)
    with opened(config, str(store), Reporter("plain"), "") as job:
        train_supernet(job)
        return job.run.done("train"), safetensors.torch.load(job.run.read(files.supernet("a")))


def test_images_that_have_changed_since_the_training_are_refused(tmp_path, monkeypatch):
    images = open_store(str(tmp_path / "images"))
    write_folders(images, content(60))
    sets = [*SHORT, "train.backend=local", "train.workers=1", "train.batch=8", f"data.source={images.url}"]
    config = load(TINY, [*sets, "train.tensorboard=true"])
    assert config.id == load(TINY, sets).id
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
        train_supernet(job)
        [events] = job.run.keys("logs/tensorboard/supernet/")
        assert b"top1/largest" in job.run.raw(events)
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
        assert job.data.sizes == job.run.done("train")["images"]
    write_folders(images, content(75))
    says = r"its images are 27 train, 18 selection, 30 test, the supernet was trained with 21 train, 15 selection, 24 test; "
    with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job, pytest.raises(InputError, match=says):
        assert job.data


def test_another_backend_is_a_line_in_a_dictionary(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "threads", Backend(in_threads, needs_ray=False))
    record, weights = finished("threads", 2, tmp_path, monkeypatch)
    assert sorted(record["outputs"]) == ["supernet/a/meta.json", "supernet/a/weights.safetensors"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    described = record["data"]
    assert (described["source"], described["classes"], described["images"]) == ("digits", 10, record["images"])
    _, alone = finished("local", 1, tmp_path / "alone", monkeypatch)
    assert not same(weights, alone)  # two workers sample sub-networks of their own


def test_the_local_backend_trains_in_this_process_and_leaves_its_threads_alone(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    _, weights = finished("local", 1, tmp_path, monkeypatch)
    assert torch.get_num_threads() == before
    config = load(
        TINY, ["data.selection=0.4", "data.test=0.4", "train.workers=1", 'train.phases=[{name="a",epochs=1,lr=0.1}]']
    )
    data = load_data(config, Reporter("plain"))
    assert same(weights, train(config, data.arrays(), tmp_path / "loop"))
    with pytest.raises(InputError, match=r"train.backend is 'local', one process, and train.workers is 2; set"):
        finished("local", 2, tmp_path, monkeypatch)


def test_one_worker_trains_the_same_weights_on_ray_and_in_this_process(ray_cluster, tmp_path, monkeypatch):
    _, here = finished("local", 1, tmp_path / "here", monkeypatch)
    _, there = finished("ray", 1, tmp_path / "there", monkeypatch, need_ray=lambda job, gpus=0: None)
    assert same(here, there)


def test_a_training_may_have_a_folder_of_its_own_in_a_run(tmp_path):
    """What a later step trains beside the supernet does not touch it."""
    config = load(TINY, [*SHORT, "train.backend=local", "train.workers=1"])
    with opened(config, str(tmp_path), Reporter("plain"), "") as job:
        plan = plan_of(config, job.data.classes)
        one, other = run_training(job, plan), run_training(job, replace(plan, seed=2), "adapted")
        assert [file.key for file in other.files] == ["adapted/a/weights.safetensors", "adapted/a/meta.json"]
        assert job.run.raw(one.files[0].key) != job.run.raw(other.files[0].key)
        assert 0 <= other.smallest <= 1 and 0 <= other.largest <= 1
        assert run_training(job, replace(plan, seed=2), "adapted") == other  # finished: nothing is trained again


def test_images_that_stream_need_ray_whatever_trains(tmp_path, monkeypatch):
    def need_ray(job, gpus=0):
        raise Stop

    monkeypatch.setattr(Job, "need_ray", need_ray)
    config = load(TINY, [*SHORT, "train.backend=local", "train.workers=1"])
    with opened(config, str(tmp_path), Reporter("plain"), "") as job:
        job.data = SimpleNamespace(stored=object())
        with pytest.raises(Stop):
            run_training(job, plan_of(config, 10))


FAST = [*SHORT[:2], "train.workers=1", "train.checkpoint_s=0", "train.clip_norm=1e30"]
FINE, DEAD = '{name="fine",epochs=1,lr=0.01,warmup_epochs=0}', '{name="dead",epochs=2,lr=1e6,warmup_epochs=0}'


def diverging(*phases, **settings):
    sets = [
        *SHORT[:2],
        "train.workers=1",
        "train.checkpoint_s=0",
        "train.clip_norm=1e30",
        f"train.phases=[{','.join(phases)}]",
    ]
    return load(TINY, [*sets, *(f"train.{name}={value}" for name, value in settings.items())])


@pytest.mark.parametrize("phases", [(DEAD,), (FINE, DEAD), (FINE, DEAD.replace("}", ",distil=1}"))])
def test_a_loss_that_is_not_finite_ends_training_and_replaces_no_good_checkpoint(tiny, tmp_path, phases):
    """In the first phase, in a later one, and where a teacher is learned from."""
    config, (_, arrays) = diverging(*phases), tiny
    says = r"phase 'dead', epoch \d, step \d+ of \d+: .*(loss is|not finite).*lower the phase's lr \(1e\+06\)"
    with pytest.raises(Diverged, match=says) as caught:
        train(config, arrays, tmp_path)
    assert "\n" not in str(caught.value)
    run = Run.at(str(tmp_path), config.id, "")
    assert not [key for key in run.keys() if "dead" in key and "checkpoint" not in key]
    latest = Checkpoints(run, files.SUPERNET).latest()
    if latest is not None:
        assert trainer.not_finite(safetensors.torch.load(latest[0])) is None
    with pytest.raises(Diverged, match=says):  # from the last good checkpoint
        train(config, arrays, tmp_path)


def test_weights_that_are_not_finite_end_training_although_the_loss_is(tiny, tmp_path, monkeypatch):
    config, (_, arrays) = diverging(FINE), tiny

    def update(learner, *_):
        next(learner.net.parameters()).data.view(-1)[0] = torch.inf

    monkeypatch.setattr(Learner, "update", update)
    with pytest.raises(Diverged, match=r"phase 'fine', epoch 1, step 1 of \d+: net\..* has values that are not finite"):
        train(config, arrays, tmp_path)
    assert Checkpoints(Run.at(str(tmp_path), config.id, ""), files.SUPERNET).latest() is None


def test_a_checkpoint_and_weights_with_nan_are_refused(tiny, tmp_path):
    config, (_, arrays) = diverging(FINE), tiny
    good = train(config, arrays, tmp_path / "good")
    bad = tmp_path / "bad.safetensors"
    name = next(name for name in good if name.startswith("net."))
    bad.write_bytes(safetensors.torch.save({**good, name: good[name] * torch.nan}))
    with pytest.raises(ConfigError, match=r"train\.weights: .*bad\.safetensors: .* has values that are not finite"):
        train(diverging(FINE, weights=f"'{bad}'"), arrays, tmp_path / "weights")
    run = Run.open(str(tmp_path / "checkpoint"), config.id, "", code="test")
    Checkpoints(run, files.SUPERNET).save(bad.read_bytes(), Progress(step=1), "fine")
    with pytest.raises(Diverged, match=r"the checkpoint in .*supernet: .* training had diverged; delete that folder"):
        train(config, arrays, tmp_path / "checkpoint")


def test_outputs_that_are_not_finite_are_no_accuracy(tiny):
    config, arrays = tiny
    net = Supernet(config.search_space, 10)
    for p in net.parameters():
        p.data *= 1e30
    evaluator = Dataset.of(arrays).evaluator(net, 16, 128)
    with pytest.raises(NotFinite, match="outputs are not finite"):
        evaluator.top1(config.search_space.largest(), Dataset.of(arrays).selection)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("ensemble.most_cost=1", r"ensemble\.most_cost is 1; the smallest network of digits has [\d,]+ macs"),
        ("train.weights=/nowhere/w.safetensors", r"train\.weights: .*nowhere"),
        (f"train.weights={TINY}", r"train\.weights: .*tiny\.toml: is no safetensors file"),
        (
            "train.device=cuda",
            r"this run needs 1 GPUs .*train\.device is 'cuda', .*; this machine has 0",
        ),
    ],
)
def test_what_would_fail_later_fails_before_training(tmp_path, monkeypatch, setting, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load(TINY, [*SHORT, "train.backend=local", "train.workers=1", setting])
    with opened(config, str(tmp_path), Reporter("plain"), "") as job, pytest.raises(InputError, match=says) as caught:
        train_supernet(job)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / config.id / "supernet").exists()


def test_gpus_of_evaluators_are_missed_before_a_training_that_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    evaluators = ["measure.device=cuda", "ray.evaluator_gpus=1", "ray.evaluators=2"]
    config = load(TINY, [*SHORT, "train.backend=local", "train.workers=1", *evaluators])
    with opened(config, str(tmp_path), Reporter("plain"), "") as job, pytest.raises(InputError, match="needs 2 GPUs"):
        train_supernet(job)
    assert not (tmp_path / config.id / "supernet").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"history": []}', b'{"history": [{"largest": "x"}]}'])
def test_a_damaged_description_of_a_phase_is_named(tmp_path, content):
    run = Run.open(str(tmp_path), "r", "title = 1\n", code="test")
    run.store.write("r/supernet/k/meta.json", content)
    with pytest.raises(DamagedObject, match=r"supernet/k/meta\.json: is no description of a phase; delete .*/supernet"):
        _history(run, "supernet", "k")


def test_workers_that_come_and_go_would_take_the_cpus_of_readers():
    streams, elastic = SimpleNamespace(stored=object()), ["train.workers=[1, 2]"]
    with pytest.raises(
        ConfigError, match=r"train\.workers is \[1, 2\], but the training images stream: .*; give one number"
    ):
        check_streamed(load(TINY, elastic), streams)
    check_streamed(load(TINY, elastic), SimpleNamespace(stored=None))
    check_streamed(load(TINY, [*elastic, "train.device=cuda"]), streams)
    check_streamed(load(TINY, ["train.workers=2"]), streams)


def test_more_workers_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"train\.workers is 2; there are 1 training images"):
        check(load(TINY), 10, 1)


TWO_WORKERS = [
    *SHORT[:2],
    "train.workers=2",
    "train.batch=32",
    "train.checkpoint_s=0",
    "train.validate_every=1",
    'train.phases=[{name="a",epochs=2,lr=0.1},{name="b",epochs=2,lr=0.05,distil=1.0}]',
]


def curve(run):
    """The losses of all epochs of two workers, and their weights at the end."""
    losses = [row["loss"] for name in "ab" for row in json.loads(run.read(files.supernet_meta(name)))["history"]]
    return losses, safetensors.torch.load(run.read(files.supernet("b")))


def trained_by_two(backend, store, loop=trainer.loop):
    """The `curve` of a training on the Ray cluster of tests."""
    config = load(TINY, [*TWO_WORKERS, f"train.backend={backend}"])
    with pytest.MonkeyPatch.context() as patch, opened(config, str(store), Reporter("plain"), "") as job:
        patch.setattr(Job, "need_ray", lambda job, gpus=0: None)  # it is there
        patch.setattr("jobs.train.loop", loop)
        train_supernet(job)
        return curve(job.run)


@pytest.fixture(scope="module")
def on_ray(ray_cluster, tmp_path_factory):
    return trained_by_two("ray", tmp_path_factory.mktemp("ray"))


class TestHorovod:
    """What its two workers train on the digits, compared with two workers of Ray Train."""

    pytestmark: ClassVar = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.server]

    def test_the_loss_curve_is_that_of_ray_train(self, on_ray, tmp_path):
        losses, weights = trained_by_two("horovod", tmp_path)
        assert len(losses) == 4
        assert losses == pytest.approx(on_ray[0], abs=1e-5)
        assert same(weights, on_ray[1])

    def test_a_killed_worker_changes_nothing(self, on_ray, tmp_path):
        def killed_once(plan, images, place, worker, arrays):
            """The second worker dies within the second epoch, by SIGKILL."""
            import os
            import signal
            from dataclasses import replace
            from pathlib import Path

            from jobs.workers.trainer import loop

            calls = []

            def add(tensor):
                calls.append(tensor)
                if len(calls) == 30 and worker.rank == 1 and not (mark := Path(place.store_url, "killed")).exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                worker.add(tensor)

            loop(plan, images, place, replace(worker, add=add), arrays)

        losses, weights = trained_by_two("horovod", tmp_path, killed_once)
        assert (tmp_path / "killed").exists()
        assert losses == pytest.approx(on_ray[0], abs=1e-5)
        assert same(weights, on_ray[1])

    @pytest.mark.whole_run
    def test_horovodrun_trains_the_same(self, on_ray, tmp_path):
        sets = [part for setting in [*TWO_WORKERS, "train.backend=horovod"] for part in ("--set", setting)]
        command = [Path(sys.executable).parent / "horovodrun", "-np", "2", "--gloo", helpers.OFA, "train", TINY]
        done = subprocess.run(
            [*map(str, command), "--store", str(tmp_path), *sets], capture_output=True, text=True, check=False, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        run = Run.existing(str(tmp_path), load(TINY, TWO_WORKERS).id, "test")
        losses, weights = curve(run)
        assert losses == pytest.approx(on_ray[0], abs=1e-5)
        assert same(weights, on_ray[1])
