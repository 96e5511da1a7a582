"""Horovod's workers; what needs no Horovod uses a library of this file in its place."""

import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch

from cluster.errors import Diverged, InputError, StepError
from cluster.runtime import horovod
from cluster.runtime.workers import Progressed, Worker

LAUNCHED = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1"}


class Ended(Exception):
    """What the library of this file raises once the first process has ended."""


class Library:
    """Stands for `horovod.torch` in the second of two processes, to which the first sends objects and arrays."""

    def __init__(self, sent):
        self.sent = list(sent)

    def is_initialized(self):
        return True

    def rank(self):
        return 1

    def size(self):
        return 2

    def broadcast_object(self, _, root, name):
        if not self.sent:
            raise Ended
        return self.sent.pop(0)

    def broadcast_(self, tensor, root, name):
        tensor.copy_(torch.from_numpy(np.array(self.sent.pop(0)).reshape(-1).view(np.uint8)))


@pytest.fixture
def library(monkeypatch):
    """Makes a library of this file Horovod: what the first process sends is its argument."""

    def install(*sent):
        monkeypatch.setattr(horovod, "library", lambda: Library(sent))
        monkeypatch.setattr(horovod, "_lost", lambda: Ended)

    return install


def test_without_horovod_there_is_one_line(monkeypatch):
    for name in ("horovod", "horovod.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^train.backend is 'horovod', which is not installed: make horovod$"):
        horovod.library()


def test_a_horovod_of_another_pytorch_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").touch()
    (tmp_path / "horovod" / "torch.py").write_text("raise ImportError('undefined symbol: _ZN3c10\\nfurther lines')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"another PyTorch or Python \(undefined symbol: _ZN3c10\); build it again: make"):
        horovod.library()
    del sys.modules["horovod"]


def test_processes_of_horovodrun_are_known_by_their_environment(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert horovod.launched() is None
    for name, value in LAUNCHED.items():
        assert horovod.launched() is None
        monkeypatch.setenv(name, value)
    assert horovod.launched() == (1, 2)


def test_as_many_processes_as_workers_are_needed():
    with pytest.raises(InputError, match=r"train.workers is 4, and horovodrun started 2 processes; start 4 with -np, or"):
        horovod.train_in_processes(pytest.fail, {}, print, world=2, workers=4)


def test_other_processes_run_the_loops_that_the_first_sends_until_it_ends(library):
    seen = []

    def loop(worker, arrays):
        seen.append((worker.rank, worker.world, worker.add, {name: array.tolist() for name, array in arrays.items()}))
        worker.report(Progressed(1))

    arrays = {"images": np.arange(6, dtype=np.int16).reshape(2, 3), "classes": np.array(10), "none": np.zeros((0, 3))}
    described = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    library((loop, described), arrays["images"], arrays["classes"], (loop, {}))
    horovod.follow()
    assert seen == [
        (1, 2, horovod.add, {"images": [[0, 1, 2], [3, 4, 5]], "classes": 10, "none": []}),
        (1, 2, horovod.add, {}),
    ]


def test_a_process_lost_within_a_training_is_a_failed_step(library):
    def loop(worker, arrays):
        raise Ended

    library((loop, {}))
    with pytest.raises(StepError, match="a process of Horovod was lost; the same command continues"):
        horovod.follow()


def test_a_worker_averages_by_the_sum_of_its_backend():
    tensor = torch.tensor([1.0, 2.0])
    Worker(0, 4, print, add=lambda tensor: tensor.mul_(2)).average(tensor)
    assert tensor.tolist() == [0.5, 1.0]


needs_horovod = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.server, pytest.mark.usefixtures("ray_cluster")]


def trained(loop, tmp_path, max_failures):
    """Runs `loop`, which leaves a file for every start of the first worker; the events, and the number of starts."""
    from cluster.runtime.horovod_ray import train_on_actors

    events = []
    arrays = {"base": np.array([4])}
    train_on_actors(partial(loop, str(tmp_path)), arrays, events.append, workers=2, max_failures=max_failures)
    return events, len(list(tmp_path.iterdir()))


class TestActors:
    pytestmark = needs_horovod

    def test_a_lost_one_is_replaced_with_the_others_and_events_arrive(self, tmp_path):
        def loop(folder, worker, arrays):
            import pathlib
            import uuid

            starts = pathlib.Path(folder)
            if worker.rank == 0:
                (starts / uuid.uuid4().hex).touch()
            worker.average(torch.zeros(()))
            if worker.rank == 1 and len(list(starts.iterdir())) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            for kind in (torch.float32, torch.float64):
                tensor = torch.full((3,), float(worker.rank), dtype=kind)
                worker.average(tensor)
            if worker.rank == 0:
                worker.report(Progressed(int(arrays["base"][0]), f"mean {tensor.tolist()} of {worker.world}"))

        assert trained(loop, tmp_path, max_failures=1) == ([Progressed(4, "mean [0.5, 0.5, 0.5] of 2")], 2)

    def test_what_no_other_try_mends_ends_training_at_once(self, tmp_path):
        def loop(folder, worker, arrays):
            import pathlib
            import uuid

            if worker.rank == 0:
                (pathlib.Path(folder) / uuid.uuid4().hex).touch()
                raise Diverged("the loss is nan")
            worker.average(torch.zeros(1))  # waits for the first worker

        with pytest.raises(Diverged, match=r"^the loss is nan$"):
            trained(loop, tmp_path, max_failures=3)
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_failure_too_many_is_one_line(self, tmp_path):
        def loop(folder, worker, arrays):
            raise OSError("no such device")

        with pytest.raises(StepError, match=r"^training failed on 2 workers: OSError: no such device$"):
            trained(loop, tmp_path, max_failures=0)
