"""Runs a training loop on Horovod's workers as Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray
import ray.exceptions

from cluster.errors import StepError
from cluster.runtime import horovod
from cluster.runtime.channel import Given, given_to_workers, last_line
from cluster.runtime.workers import Event, Loop

START_S = 300  # seconds in which started workers must have found each other
PLACES_S = 10**6  # seconds to wait for the workers' CPUs, which an autoscaler may have to add


def train_on_actors(
    loop: Loop,
    arrays: Mapping[str, np.ndarray],
    on_event: Callable[[Event], None],
    *,
    workers: int,
    max_failures: int = 0,
) -> None:
    """Runs `loop` on `workers` actors of Horovod's `RayExecutor`, which average over Gloo, until all return.

    When one dies all are started anew, at most `max_failures` times; the loop resumes from its last checkpoint. An
    `InputError` or `Final` in a worker is not retried but raised here. arrays: shared through the object store. on_event:
    gets the events of all workers, in the driver, on a separate thread.
    """
    horovod.library()
    with given_to_workers(loop, arrays, on_event, shards=workers) as given:
        for _ in range(max_failures + 1):
            reason = _attempt(given, workers)
            if reason is None or given.failure() is not None:
                break
    if reason is not None:
        raise StepError(f"training failed on {workers} workers: {reason}")


def _attempt(given: Given, workers: int) -> str | None:
    """Runs `_on_worker` on new actors; why it failed, or None."""
    from horovod.ray import RayExecutor

    settings = RayExecutor.create_settings(timeout_s=START_S, placement_group_timeout_s=PLACES_S)
    settings.verbose = 0
    executor = RayExecutor(settings, num_workers=workers, cpus_per_worker=1, use_current_placement_group=False)
    try:
        executor.start()
        running = executor.run_remote(_on_worker, args=[given])
        while running:
            done, running = ray.wait(running, num_returns=1)
            ray.get(done)
    except ray.exceptions.RayError as error:
        return last_line(error)
    finally:
        _end(executor)
    return None


def _end(executor: Any) -> None:
    """Ends the actors, and the server by which they found each other, which the executor itself leaves running."""
    adapter = executor.adapter
    executor.shutdown()
    coordinator = getattr(adapter, "coordinator", None)
    if coordinator is not None and coordinator.global_rendezv_port is not None:  # it has started one
        coordinator.rendezvous.stop()
        coordinator.rendezvous._httpd.server_close()


def _on_worker(given: Given) -> None:
    """The function of each actor."""
    hvd = horovod.started()
    given.work(hvd.rank(), hvd.size(), horovod.add)
    hvd.shutdown()
