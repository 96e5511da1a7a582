"""Runs a training loop on several Ray Train workers."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import Final, InputError, StepError
from cluster.runtime import metrics
from cluster.runtime.workers import Event, Loop, Worker


class _Channel:
    """An actor that carries events, and an error that ends the training, from the workers to the driver."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: InputError | Final | None = None

    def fail(self, error: InputError | Final) -> None:
        self.error = error

    def failure(self) -> InputError | Final | None:
        return self.error

    def put(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def train_on_ray(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    max_failures: int = 0,
    gpu: bool = False,
) -> None:
    """Runs `loop` on `workers` Ray Train workers (gloo; with `gpu` one GPU each and nccl) until all return.

    When a worker dies all are restarted, at most `max_failures` times; the loop resumes from its last
    checkpoint. An `InputError` or `Final` in a worker is not retried but raised here. arrays: shared
    through the object store. on_event: gets the events of all workers, in the driver, on a separate thread.
    """
    # on the driver's node, as Ray Train's controller: the loss of another node must not take the events with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Channel).remote()
    shared = ray.put(dict(arrays))
    ended = threading.Event()
    delivery = threading.Thread(target=_deliver, args=(channel, on_event, ended), daemon=True)
    delivery.start()
    try:
        for attempt in range(max_failures + 1):
            trainer = _Trainer(
                _on_worker,
                train_loop_config={"loop": loop, "arrays": shared, "channel": channel, "run": metrics.run_of()},
                scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu),
                torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
                run_config=ray.train.RunConfig(
                    storage_path=tempfile.mkdtemp(prefix="ofa-train-"),  # Ray's own files; checkpoints go to our store
                    failure_config=ray.train.FailureConfig(max_failures=max_failures - attempt),
                ),
            )
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


class _Trainer(ray.train.torch.TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to the command line; Ray's handler would stay installed and end the process with 0 or 1."""


def _on_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on each worker."""
    context, channel = ray.train.get_context(), config["channel"]

    def report(event: Event) -> None:
        channel.put.remote(event)

    metrics.of_run(config["run"])
    worker = Worker(context.get_world_rank(), context.get_world_size(), report)
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
