"""What the workers of a training on Ray get from the driver, and send to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import Final, InputError
from cluster.runtime import metrics
from cluster.runtime.workers import MOST_PENDING, Event, Loop, PendingEvents, Worker, all_reduce

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True, slots=True)
class Given:
    """What every worker gets: its loop, references to the arrays and the channel, the number of shards, the run's id."""

    loop: Loop
    arrays: Any
    channel: Any
    shards: int
    run: str

    def failure(self) -> InputError | Final | None:
        """The error of a worker that ends the training."""
        error: InputError | Final | None = ray.get(self.channel.failure.remote())
        return error

    def work(self, rank: int, world: int, add: Callable[[Tensor], None] = all_reduce) -> None:
        """Runs the loop on a worker, unless an error has ended the training; its own such error goes to the driver."""
        answers: list[Any] = []  # at most one, of an event on its way

        def report(event: Event) -> None:
            with suppress(ray.exceptions.PendingCallsLimitExceeded):  # the channel is stuck, and so is the driver
                answer = self.channel.put.remote(event)
                if not answers:
                    answers.append(answer)

        def awaited() -> bool:
            if not answers or not ray.wait(answers, timeout=0)[0]:
                return False
            return bool(ray.get(answers.pop()))

        def saved() -> None:
            answers.clear()
            with suppress(ray.exceptions.PendingCallsLimitExceeded):
                self.channel.saved.remote()

        metrics.of_run(self.run)
        if self.failure() is not None:
            return
        try:
            self.loop(Worker(rank, world, report, self.shards, awaited, saved, add), ray.get(self.arrays))
        except (InputError, Final) as error:
            ray.get(self.channel.fail.remote(error))
            raise


@contextmanager
def given_to_workers(
    loop: Loop, arrays: Mapping[str, np.ndarray], on_event: Callable[[Event], None], shards: int
) -> Iterator[Given]:
    """What the workers of a training get; at the end raises the `InputError` or `Final` that one of them raised.

    on_event: gets the events of all workers, in the driver, on a separate thread.
    """
    # on the driver's node, as Ray Train's controller: the loss of another node must not take the events with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(_Channel)
    channel: Any = actor.options(scheduling_strategy=here, max_pending_calls=MOST_PENDING).remote()
    given = Given(loop, ray.put(dict(arrays)), channel, shards, metrics.run_of())
    ended = threading.Event()
    delivery = threading.Thread(target=_deliver, args=(channel, on_event, ended), daemon=True)
    delivery.start()
    try:
        yield given
    finally:
        ended.set()
        delivery.join()
    if (error := given.failure()) is not None:
        raise error


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


def last_line(error: Exception) -> str:
    """An exception in one line; of one that Ray carried, that of the worker."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
