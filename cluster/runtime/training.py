"""Runs a training loop on several Ray Train workers."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import Final, InputError, StepError
from cluster.runtime import metrics
from cluster.runtime.workers import MOST_PENDING, Event, Loop, PendingEvents, Worker

RESIZE_S = 20.0  # between looks for places of further workers; Ray's own view of its nodes is as old
PLACES_S = "10"  # for which all places that the nodes had are waited for, a node that has just died among them
JOIN_S = 30.0  # most seconds that new workers wait for a checkpoint
V2: Any = ray.train  # whose types are those of its first version
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class _Channel:
    """An actor that carries events, and an error that ends the training, from the workers to the driver.

    It also carries the request for a checkpoint from Ray's controller, which would start more workers, to the first worker.
    """

    def __init__(self) -> None:
        self.events = PendingEvents()
        self.error: InputError | Final | None = None
        self.awaits = False

    def await_checkpoint(self) -> None:
        self.awaits = True

    def awaited(self) -> bool:
        return self.awaits

    def saved(self) -> None:
        self.awaits = False

    def fail(self, error: InputError | Final) -> None:
        self.error = error

    def failure(self) -> InputError | Final | None:
        return self.error

    def put(self, event: Event) -> bool:
        """Whether a checkpoint is awaited: workers learn it from the events that they send anyway."""
        self.events.add(event)
        return self.awaits

    def take(self) -> list[Event]:
        return self.events.take()


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
    # on the driver's node, as Ray Train's controller: the loss of another node must not take the events with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(_Channel)
    channel: Any = actor.options(scheduling_strategy=here, max_pending_calls=MOST_PENDING).remote()
    shared = ray.put(dict(arrays))
    ended = threading.Event()
    delivery = threading.Thread(target=_deliver, args=(channel, on_event, ended), daemon=True)
    delivery.start()
    given = {"loop": loop, "arrays": shared, "channel": channel, "shards": workers, "run": metrics.run_of()}
    elastic = least is not None and least < workers
    number: Any = (least, workers) if elastic else workers
    scaling = V2.ScalingConfig(num_workers=number, use_gpu=gpu, elastic_resize_monitor_interval_s=RESIZE_S)
    try:
        for attempt in range(max_failures + 1):
            trainer = _Trainer(
                _on_worker,
                train_loop_config=given,
                scaling_config=scaling,
                torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
                run_config=V2.RunConfig(
                    storage_path=tempfile.mkdtemp(prefix="ofa-train-"),  # Ray's own files; checkpoints go to our store
                    failure_config=ray.train.FailureConfig(max_failures=max_failures - attempt),
                    callbacks=[_Joining(channel, JOIN_S)] if elastic else None,
                ),
            )
            with _environment(START_TIMEOUT, PLACES_S) if elastic else nullcontext():
                failure = _fit(trainer)
            if failure is None or not failure.starting:
                break
            _free_places()
    finally:
        ended.set()
        delivery.join()
    error: InputError | Final | None = ray.get(channel.failure.remote())
    if error is not None:
        raise error
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
    context, channel = ray.train.get_context(), config["channel"]
    answers: list[Any] = []  # at most one, of an event on its way

    def report(event: Event) -> None:
        with suppress(ray.exceptions.PendingCallsLimitExceeded):  # the channel is stuck, and so is the driver
            answer = channel.put.remote(event)
            if not answers:
                answers.append(answer)

    def awaited() -> bool:
        if not answers or not ray.wait(answers, timeout=0)[0]:
            return False
        return bool(ray.get(answers.pop()))

    def saved() -> None:
        answers.clear()
        with suppress(ray.exceptions.PendingCallsLimitExceeded):
            channel.saved.remote()

    metrics.of_run(config["run"])
    rank, world = context.get_world_rank(), context.get_world_size()
    worker = Worker(rank, world, report, config["shards"], awaited, saved)
    if ray.get(channel.failure.remote()) is not None:
        return
    try:
        config["loop"](worker, ray.get(config["arrays"]))
    except (InputError, Final) as error:
        ray.get(channel.fail.remote(error))
        raise


def _deliver(channel: Any, on_event: Callable[[Event], None], ended: threading.Event) -> None:
    """Passes events on until training has ended."""
    while True:
        last = ended.wait(0.3)
        try:
            events = ray.get(channel.take.remote())
        except ray.exceptions.RayError:  # Ray is lost, which the main thread reports
            return
        for event in events:
            on_event(event)
        if last:
            return


def _reason(error: Exception) -> str:
    """The first worker's exception in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
