"""Workers that train together, and the events that the first of them reports to the driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Progressed:
    """`done` steps of the whole training are complete; `resumed`: by an earlier process."""

    done: int
    note: str = ""  # the phase, and the last accuracies
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Training images were skipped; `text` has their names and the reasons."""

    text: str


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch is complete; `row` is its report, as in the history of the training."""

    row: Mapping[str, Any]


Event = Progressed | Skipped | EpochDone
MOST_PENDING = 1000  # events that the driver has not taken; beyond it the oldest are dropped


class PendingEvents:
    """Events on their way to the driver. Progress that the driver has not taken is replaced by later progress."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=MOST_PENDING)

    def add(self, event: Event) -> None:
        """Adds an event after the others."""
        if self.events and _in_between(event) and _in_between(self.events[-1]):
            self.events.pop()
        self.events.append(event)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events = list(self.events)
        self.events.clear()
        return events


def _in_between(event: Event) -> bool:
    return isinstance(event, Progressed) and not event.resumed


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


def all_reduce(tensor: Tensor) -> None:
    """Replaces `tensor` by its sum over all workers of PyTorch's process group."""
    import torch.distributed

    torch.distributed.all_reduce(tensor)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `world` workers that train together; alone it needs no process group.

    Every batch has `shards` shards, each with random streams of its own, however many workers there are: a worker trains
    those in `own`, one after another. So a step is the same step for any number of workers.
    """

    rank: int
    world: int
    report: Callable[[Event], None]  # sends an event to the driver
    shards: int = 0  # of every batch; 0: one for each worker
    awaited: Callable[[], bool] = _never  # whether others wait for a checkpoint, to join from it
    saved: Callable[[], None] = _nothing  # is called after every checkpoint
    add: Callable[[Tensor], None] = all_reduce  # replaces a tensor by its sum over all workers

    @property
    def own(self) -> range:
        """The numbers of this worker's shards."""
        return range(self.rank, self.shards or self.world, self.world)

    def average(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its mean over all workers."""
        if self.world > 1:
            self.add(tensor)
            tensor /= self.world


Loop = Callable[[Worker, "Mapping[str, np.ndarray]"], None]  # the function of each worker; the arrays are shared
