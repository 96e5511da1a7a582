"""Ray Train's workers, and what ends them."""

import tempfile

import numpy as np
import pytest
import ray
import torch

from cluster.errors import Diverged, InputError, NoSpace, StepError
from cluster.runtime.training import train_on_ray
from cluster.runtime.workers import Progressed

pytestmark = pytest.mark.usefixtures("ray_cluster")


def trained(loop, tmp_path, max_failures):
    """Runs `loop`, which leaves a file for every start; the events, and how often the first worker was started."""
    events = []
    arrays = {"folder": np.frombuffer(str(tmp_path).encode(), np.uint8)}
    try:
        train_on_ray(loop, arrays, events.append, workers=2, max_failures=max_failures)
    finally:
        starts = len(list(tmp_path.iterdir()))
    return events, starts


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Diverged, InputError, NoSpace])
def test_what_no_other_try_mends_ends_training_at_once(tmp_path, kind):
    """With its own line, although other failures would be tried again three times."""

    def loop(worker, arrays):
        import pathlib
        import uuid

        if worker.rank == 0:
            (pathlib.Path(arrays["folder"].tobytes().decode()) / uuid.uuid4().hex).touch()
            raise kind("images: 11 cannot be decoded")
        worker.average(torch.zeros(1))  # waits for the first worker

    with pytest.raises(kind, match="images: 11 cannot be decoded"):
        trained(loop, tmp_path, max_failures=3)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow  # test_pool.py has a worker that dies in every suite
def test_another_failure_is_tried_again_and_events_arrive_and_no_folder_is_left(tmp_path, monkeypatch):
    temporary = tmp_path.with_name("temporary")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def loop(worker, arrays):
        import pathlib
        import uuid

        folder = pathlib.Path(arrays["folder"].tobytes().decode())
        if worker.rank == 0:
            (folder / uuid.uuid4().hex).touch()
            if len(list(folder.iterdir())) == 1:
                raise OSError("a disk that is slow to come up")
            worker.report(Progressed(worker.world))

    events, starts = trained(loop, tmp_path, max_failures=2)
    assert events == [Progressed(2)]
    assert starts == 2
    assert not list(temporary.iterdir())


def test_events_go_through_the_drivers_node(monkeypatch):
    """Where another node is lost, its workers' training goes on, and so must the driver."""

    def options(self, scheduling_strategy, **others):
        raise InterruptedError(scheduling_strategy.node_id, scheduling_strategy.soft)

    monkeypatch.setattr(ray.actor.ActorClass, "options", options)
    with pytest.raises(InterruptedError) as placed:
        train_on_ray(lambda *_: None, {}, print, workers=1)
    assert placed.value.args == (ray.get_runtime_context().get_node_id(), False)


@pytest.mark.slow
def test_a_failure_too_many_is_one_line(tmp_path):
    def loop(worker, arrays):
        raise OSError("no such device")

    with pytest.raises(StepError, match=r"training failed on 2 workers: .*no such device") as caught:
        trained(loop, tmp_path, max_failures=0)
    assert "\n" not in str(caught.value)
