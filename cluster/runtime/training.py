"""Runs a training loop on several Ray Train workers."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.errors import StepError
from cluster.runtime.channel import given_to_workers, last_line
from cluster.runtime.workers import Event, Loop

RESIZE_S = 20.0  # between looks for places of further workers; Ray's own view of its nodes is as old
PLACES_S = "10"  # for which all places that the nodes had are waited for, a node that has just died among them
JOIN_S = 30.0  # most seconds that new workers wait for a checkpoint
V2: Any = ray.train  # whose types are those of its first version
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def train_on_ray(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    least: int | None = None,
    max_failures: int = 0,
    gpu: bool = False,
) -> None:
    """Runs `loop` on `workers` Ray Train workers (gloo; with `gpu` one GPU each and nccl) until all return.

    With `least` below `workers`, on as many between them as the cluster has places for: when it has more, the first worker
    is asked for a checkpoint and all are restarted from there. When a worker dies all are restarted, at most `max_failures`
    times; the loop resumes from its last checkpoint. An `InputError` or `Final` in a worker is not retried but raised here.
    arrays: shared through the object store. on_event: gets the events of all workers, in the driver, on a separate thread.
    """
    elastic = least is not None and least < workers
    number: Any = (least, workers) if elastic else workers
    scaling = V2.ScalingConfig(num_workers=number, use_gpu=gpu, elastic_resize_monitor_interval_s=RESIZE_S)
    # Ray's own files, for checkpoints go to our store
    temporary = tempfile.TemporaryDirectory(prefix="ofa-train-", ignore_cleanup_errors=True)
    with temporary as folder, given_to_workers(loop, arrays, on_event, shards=workers) as given:
        for attempt in range(max_failures + 1):
            trainer = _Trainer(
                _on_worker,
                train_loop_config={"given": given},
                scaling_config=scaling,
                torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
                run_config=V2.RunConfig(
                    storage_path=folder,
                    failure_config=ray.train.FailureConfig(max_failures=max_failures - attempt),
                    callbacks=[_Joining(given.channel, JOIN_S)] if elastic else None,
                ),
            )
            with _environment(START_TIMEOUT, PLACES_S) if elastic else nullcontext():
                failure = _fit(trainer)
            if failure is None or not failure.starting:
                break
            _free_places()
    if failure is not None:
        raise StepError(f"training failed on {workers} workers: {failure.reason}")


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    starting: bool  # a worker died while Ray was starting it: Ray gives up at once, so the start is repeated here


def _fit(trainer: Any) -> _Failure | None:
    """Trains; returns a failure as text, because its traceback would keep the dead training's CPUs reserved."""
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        return _Failure(_reason(error), isinstance(cause, ray.exceptions.RayActorError))
    return None


def _free_places() -> None:
    """Frees the CPUs that are still reserved by a training which Ray gave up while starting it."""
    job = ray.get_runtime_context().get_job_id()
    for name, group in ray.util.placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable of Ray unless the user has set it."""
    if os.environ.get(name):
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


class _Joining(ControllerCallback):
    """Lets new workers wait for a checkpoint, so that no step is repeated for them; runs in Ray's controller."""

    def __init__(self, channel: Any, longest_s: float) -> None:
        self.channel, self.longest_s = channel, longest_s

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Waits while the workers train on, before Ray replaces them by another number of workers."""
        if type(current_state).__name__ != "ResizingState":
            return
        end = time.monotonic() + self.longest_s
        try:
            ray.get(self.channel.await_checkpoint.remote())
            while ray.get(self.channel.awaited.remote()) and time.monotonic() < end:
                time.sleep(0.05)
            ray.get(self.channel.saved.remote())
        except ray.exceptions.RayError:  # the driver is lost, which ends the training elsewhere
            return


class _Trainer(ray.train.torch.TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to the command line; Ray's handler would stay installed and end the process with 0 or 1."""


def _on_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on each worker."""
    context = ray.train.get_context()
    config["given"].work(context.get_world_rank(), context.get_world_size())


def _reason(error: Exception) -> str:
    """The first worker's exception in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    return last_line(next(iter(failures.values()), error))
