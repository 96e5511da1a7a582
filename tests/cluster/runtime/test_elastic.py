"""Workers that come and go in the middle of a phase, on real nodes of Ray."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import groupby, pairwise
from pathlib import Path

import helpers
import pytest
from kube.local_ray import TOKEN, LocalRay

from bench.machines import free_port
from cluster.progress import Reporter
from cluster.run import Run
from cluster.runtime import training as training_on_ray
from cluster.runtime.channel import _Channel
from cluster.runtime.workers import Progressed, Worker
from jobs import files
from jobs.config import load
from jobs.images.dataset import load as load_data
from jobs.train import plan_of
from jobs.workers import trainer

ROOT = Path(__file__).parents[3]
CHECKPOINT_S = 10.0
STEP_S = 1.0  # of a step of two workers, until both are there again
SETS = ["train.workers=[1, 2]", "train.batch=33", "data.selection=0.4", "data.test=0.4", "train.validate_every=1000",
        f"train.checkpoint_s={CHECKPOINT_S}", 'train.phases=[{name="a",epochs=40,lr=0.001,subnets=1}]']  # fmt: skip
PROGRAM = """
import sys, time
import ray
import cluster.runtime.training as training
from cluster.progress import Reporter
from cluster.run import Run
from cluster.runtime.session import session
from jobs import files
from jobs.config import load
from jobs.images.dataset import load as load_data
from jobs.train import plan_of
from jobs.workers import trainer

address, folder, step_s, tiny, *sets = sys.argv[1:]
training.RESIZE_S = 5.0
config = load(tiny, sets)
run = Run.open(f"{folder}/store", config.id, "", code="test")
plan, images = plan_of(config, 10), config.data
place = trainer.Place(f"{folder}/store", config.id, "test", files.SUPERNET, checkpoint_s=config.train.checkpoint_s)

def loop(worker, arrays):
    import json, time
    from pathlib import Path
    from jobs.workers import trainer

    def record(**row):
        with (Path(folder) / "steps.jsonl").open("a") as log:
            log.write(json.dumps({"world": worker.world, "at": time.time(), **row}) + "\\n")

    class Watched(trainer.Monitor):
        def step_done(self, number, loss):
            if worker.rank == 0:
                record(step=self.progress.epoch * self.per_epoch + self.progress.step)
            super().step_done(number, loss)
            if not (Path(folder) / "fast").exists():
                time.sleep(float(step_s) * (3 - worker.world))  # one worker has two shards

        def save(self, number):
            super().save(number)
            if worker.rank == 0:
                record(saved=self.progress.epoch * self.per_epoch + self.progress.step)

    trainer.Monitor = Watched
    trainer.loop(plan, images, place, worker, arrays)

with session(address, cpus=1, shared_bytes=0):
    while ray.cluster_resources().get("CPU", 0) < 2:
        time.sleep(0.5)
    arrays = load_data(config, Reporter("plain")).arrays()
    training.train_on_ray(loop, arrays, lambda event: None, workers=2, least=1, max_failures=3)
"""


class Training:
    """A training on two nodes of one CPU each, and what its first worker has recorded."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.ray = LocalRay({})
        self.nodes = [self.ray.node(folder, "--head", "--num-cpus=1", "--include-dashboard=false", f"--port={self.port}",
                                    f"--temp-dir={folder}/ray"), self.more()]  # fmt: skip
        (folder / "program.py").write_text(PROGRAM)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        command = [sys.executable, folder / "program.py", f"127.0.0.1:{self.port}", folder, str(STEP_S), helpers.TINY, *SETS]
        time.sleep(5)  # the head's
        with (folder / "driver.log").open("wb") as log:
            self.driver = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log)

    def more(self):
        """Another node."""
        return self.ray.node(self.folder, f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    @property
    def rows(self):
        log = self.folder / "steps.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def worlds(self):
        """The numbers of workers, one after another."""
        return [world for world, _ in groupby(row["world"] for row in self.rows)]

    def wait(self, worlds, steps, longest_s=500):
        """Until the last number of workers has made so many steps; when it made the first, in seconds since the epoch."""
        end = time.monotonic() + longest_s
        while time.monotonic() < end:
            assert self.driver.poll() is None, (self.folder / "driver.log").read_text()
            if self.nodes[-1].process.poll() is not None:  # on a busy machine a node does not start in time
                self.nodes[-1] = self.more()
            if self.worlds == worlds:
                last = [row for row in self.rows[-200:] if row["world"] == worlds[-1]]
                if len([row for row in last if "step" in row]) >= steps:
                    return self.segments[-1][0]["at"]
            time.sleep(0.5)
        raise AssertionError(f"{self.worlds}, not {worlds}: {(self.folder / 'driver.log').read_text()}")

    @property
    def segments(self):
        return [list(rows) for _, rows in groupby(self.rows, lambda row: row["world"])]

    def end(self):
        self.driver.kill()
        self.driver.wait()
        for node in self.nodes:
            node.kill()


class Called:
    """A method of an actor that is a function of this process."""

    def __init__(self, function):
        self.remote = function


class Channel:
    """Stands for the actor; the first worker has saved a checkpoint when it was asked `asks` times."""

    def __init__(self, asks):
        self.asks, self.calls = asks, []
        self.await_checkpoint = Called(lambda: self.calls.append("await"))
        self.awaited = Called(self._awaited)
        self.saved = Called(lambda: self.calls.append("over"))

    def _awaited(self):
        self.calls.append("awaited")
        return self.calls.count("awaited") < self.asks


class ResizingState:
    """As in Ray Train's controller, by its name."""


class TestNewWorkers:
    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch):
        monkeypatch.setattr(training_on_ray.ray, "get", lambda value: value)

    def test_wait_until_a_checkpoint_is_made_for_them(self):
        channel = Channel(asks=3)
        training_on_ray._Joining(channel, 60).after_controller_state_update(None, ResizingState())
        assert channel.calls == ["await", "awaited", "awaited", "awaited", "over"]

    def test_do_not_wait_for_a_worker_that_makes_none(self):
        channel, started = Channel(asks=10**6), time.monotonic()
        training_on_ray._Joining(channel, 0.2).after_controller_state_update(None, ResizingState())
        assert channel.calls[-1] == "over" and time.monotonic() - started < 5

    def test_do_not_wait_where_none_is_at_work(self):
        channel = Channel(asks=3)
        training_on_ray._Joining(channel, 60).after_controller_state_update(ResizingState(), object())
        assert channel.calls == []


def test_the_first_worker_learns_from_its_events_that_a_checkpoint_is_awaited():
    channel = _Channel()
    assert channel.put(Progressed(1)) is False
    channel.await_checkpoint()
    assert channel.put(Progressed(2)) and channel.awaited()
    channel.saved()
    assert not channel.put(Progressed(3)) and not channel.awaited()


def test_the_timeout_for_places_is_the_users_where_there_is_one(monkeypatch):
    name = training_on_ray.START_TIMEOUT
    monkeypatch.delenv(name, raising=False)
    with training_on_ray._environment(name, "10"):
        assert os.environ[name] == "10"
    assert name not in os.environ
    monkeypatch.setenv(name, "77")
    with training_on_ray._environment(name, "10"):
        assert os.environ[name] == "77"
    assert os.environ[name] == "77"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.server
def test_two_workers_one_and_two_again_train_every_step_once_but_what_was_not_saved(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="ofa-e"))  # short, for Ray's sockets
    training = Training(folder)
    try:
        training.wait([2], steps=15)
        lost = time.time()
        training.nodes.pop().kill()
        after_loss = training.wait([2, 1], steps=5) - lost
        came = time.time()
        training.nodes.append(training.more())
        after_join = training.wait([2, 1, 2], steps=2) - came
        (folder / "fast").touch()
        assert training.driver.wait(300) == 0, (folder / "driver.log").read_text()
    finally:
        training.end()
    repeated = []
    for before, now in pairwise(training.segments):
        saved = [row["saved"] for row in before if "saved" in row][-1]
        assert now[0]["step"] == saved  # the first step after the last checkpoint
        repeated.append([row["step"] for row in before if "step" in row][-1] + 1 - saved)
    steps = [row["step"] for row in training.rows if "step" in row]
    total = 40 * (359 // 33)
    assert sorted(set(steps)) == list(range(total)) and len(steps) == total + sum(repeated)
    assert repeated[0] * STEP_S <= CHECKPOINT_S + 2 * STEP_S
    assert repeated[1] <= 5  # workers join at a checkpoint that is made for them
    print(f"lost node: {after_loss:.0f} s to the next step, {repeated[0]} steps repeated; "
          f"new node: {after_join:.0f} s, {repeated[1]} steps repeated")  # fmt: skip
    config = load(str(helpers.TINY), SETS)
    Run.open(str(tmp_path), config.id, "", code="test")
    place = trainer.Place(str(tmp_path), config.id, "test", files.SUPERNET)
    alone = Worker(0, 1, lambda event: None, shards=2)
    trainer.loop(plan_of(config, 10), config.data, place, alone, load_data(config, Reporter("plain")).arrays())
    straight, changed = (
        json.loads(Run.at(str(store), config.id, "").raw(files.supernet_meta("a").key))["history"]
        for store in (tmp_path, folder / "store")
    )
    shutil.rmtree(folder)
    assert [row["epoch"] for row in changed] == list(range(1, 41))
    assert [row["loss"] for row in changed] == pytest.approx([row["loss"] for row in straight], abs=1e-3)
