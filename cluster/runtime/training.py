"""The same training loop on several Ray Train workers, or in this process alone."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.errors import InputError, NoSpace, StepError

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `world` workers that train together; alone it needs no process group."""

    rank: int
    world: int
    report: Report  # says how it goes; only the first worker's words are shown

    def average(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its mean over all workers."""
        if self.world > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)
            tensor /= self.world


Loop = Callable[[Worker, Mapping[str, np.ndarray]], None]


class _Mailbox:
    """Words from the workers to the driver."""

    def __init__(self) -> None:
        self.letters: list[dict[str, Any]] = []
        self.refused: InputError | NoSpace | None = None

    def refuse(self, why: InputError | NoSpace) -> None:
        self.refused = why

    def refusal(self) -> InputError | NoSpace | None:
        return self.refused

    def put(self, letter: dict[str, Any]) -> None:
        self.letters.append(letter)

    def take(self) -> list[dict[str, Any]]:
        letters, self.letters = self.letters, []
        return letters


def train_on_ray(
    loop: Loop, arrays: Mapping[str, np.ndarray], workers: int, max_failures: int, hear: Report, *, gpu: bool = False
) -> None:
    """Runs `loop` on `workers` Ray Train workers (gloo; with `gpu` one GPU each and nccl) until all return.

    When a worker dies all are started again, at most `max_failures` times; the loop continues from what it
    saved. An `InputError` or `NoSpace` in a worker is nothing that another try mends: it is raised here. arrays: shared
    through the object store. hear: gets every report, here in the driver.
    """
    mailbox: Any = ray.remote(num_cpus=0)(_Mailbox).remote()
    shared = ray.put(dict(arrays))
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(mailbox, hear, ended))
    listener.start()
    try:
        for attempt in range(max_failures + 1):
            trainer = _Trainer(
                _on_worker,
                train_loop_config={"loop": loop, "arrays": shared, "mailbox": mailbox},
                scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu),
                torch_config=ray.train.torch.TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
                run_config=ray.train.RunConfig(
                    storage_path=tempfile.mkdtemp(prefix="ofa-train-"),  # Ray's own notes; checkpoints go to our store
                    failure_config=ray.train.FailureConfig(max_failures=max_failures - attempt),
                ),
            )
            failure = _fit(trainer)
            if failure is None or not failure.starting:
                break
            _free_places()
    finally:
        ended.set()
        listener.join()
    refusal: InputError | NoSpace | None = ray.get(mailbox.refusal.remote())
    if refusal is not None:
        raise refusal
    if failure is not None:
        raise StepError(f"training failed on {workers} workers: {failure.reason}")


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    starting: bool  # a worker died while Ray was starting it: then Ray gives up at once, and we try again


def _fit(trainer: Any) -> _Failure | None:
    """Trains; a failure comes back as words, for its traceback would hold the dead training's CPUs."""
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        return _Failure(_reason(error), isinstance(cause, ray.exceptions.RayActorError))
    return None


def _free_places() -> None:
    """Gives back the CPUs that a training which Ray gave up while starting it still holds."""
    job = ray.get_runtime_context().get_job_id()
    for name, group in ray.util.placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))


class _Trainer(ray.train.torch.TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to the command line; Ray's handler would stay for good and end the process with 0 or 1."""


def _on_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on each worker."""
    context = ray.train.get_context()
    mailbox = config["mailbox"]

    def report(letter: dict[str, Any]) -> None:
        mailbox.put.remote(letter)

    worker = Worker(context.get_world_rank(), context.get_world_size(), report)
    if ray.get(mailbox.refusal.remote()) is not None:
        return
    try:
        config["loop"](worker, ray.get(config["arrays"]))
    except (InputError, NoSpace) as error:
        ray.get(mailbox.refuse.remote(error))
        raise


def _listen(mailbox: Any, hear: Report, ended: threading.Event) -> None:
    while True:
        last = ended.wait(0.3)
        for letter in ray.get(mailbox.take.remote()):
            hear(letter)
        if last:
            return


def _reason(error: Exception) -> str:
    """The first worker's exception in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
