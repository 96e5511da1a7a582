"""The ways to run the workers of a training, by name; a further one is a function and a line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cluster.errors import InputError
from cluster.runtime import horovod
from cluster.runtime.workers import Event, Loop, Worker

if TYPE_CHECKING:
    import numpy as np


class RunWorkers(Protocol):
    """Runs `loop` on `workers` workers and returns when all have; an exception in a worker ends it with an error.

    least: the fewest workers with which it goes on while there is no room for more; `workers`, unless the backend is
    elastic. arrays: passed to every worker's loop. on_event: gets the workers' events in this process. max_failures: the
    number of restarts after lost workers; `gpu`: each worker has a GPU.
    """

    def __call__(
        self,
        loop: Loop,
        arrays: Mapping[str, np.ndarray],
        on_event: Callable[[Event], None],
        *,
        workers: int,
        least: int,
        max_failures: int,
        gpu: bool,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run workers; `needs_ray`: only inside a Ray session; `elastic`: their number may change meanwhile.

    gpus: whether workers may have GPUs. require: raises an `InputError` if the backend is not installed.
    """

    run: RunWorkers
    needs_ray: bool = True
    elastic: bool = False
    gpus: bool = True
    require: Callable[[], Any] = lambda: None


def on_ray(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    least: int,
    max_failures: int,
    gpu: bool,
) -> None:
    """Runs Ray Train's workers, data-parallel over gloo or nccl, as many as the cluster has places for."""
    from cluster.runtime.training import train_on_ray  # Ray takes seconds to import

    train_on_ray(loop, arrays, on_event, workers=workers, least=least, max_failures=max_failures, gpu=gpu)


def local(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    least: int,
    max_failures: int,
    gpu: bool,
) -> None:
    """Runs one worker in this process, without Ray; its exceptions are not wrapped. Several workers are an `InputError`."""
    if workers != 1:
        raise InputError(f"train.backend is 'local', one process, and train.workers is {workers}; set train.workers to 1")
    loop(Worker(0, 1, on_event), arrays)


def on_horovod(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    least: int,
    max_failures: int,
    gpu: bool,
) -> None:
    """Runs Horovod's workers, data-parallel over gloo: the processes that horovodrun started, else Ray actors."""
    if (place := horovod.launched()) is not None:
        return horovod.train_in_processes(loop, arrays, on_event, world=place[1], workers=workers)
    from cluster.runtime.horovod_ray import train_on_actors  # Ray takes seconds to import

    return train_on_actors(loop, arrays, on_event, workers=workers, max_failures=max_failures)


BACKENDS = {
    "ray": Backend(on_ray, elastic=True),
    "horovod": Backend(on_horovod, needs_ray=horovod.launched() is None, gpus=False, require=horovod.library),
    "local": Backend(local, needs_ray=False),
}
