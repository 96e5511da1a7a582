"""A pool of Ray actors that share large arrays and each do one thing at a time; and single actors that keep a state."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from cluster.errors import StepError

ATTEMPTS = 4  # of one task; each lost one took its actor with it
AHEAD = 2  # tasks that an actor has at once: it works on one and finds the next without waiting for us

Build = Callable[[Mapping[str, np.ndarray]], Any]


class _Actor:
    """Builds its worker once, then calls it."""

    def __init__(self, build: Build, arrays: Mapping[str, np.ndarray]) -> None:
        self.worker = build(arrays)

    def ready(self) -> None:
        """Answers once the worker is built."""

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self.worker, method)(*arguments)


@dataclass(eq=False)
class _Place:
    """An actor and the tasks that it has."""

    actor: Any
    ready: bool = False
    leaving: bool = False  # gets no more tasks, and goes when it has none
    tickets: set[int] = field(default_factory=set)


class Pool:
    """`workers` actors, each made by `build(arrays)`; one that dies is replaced and its tasks run again.

    The arrays go into the object store once; on every node all actors read the same copy, which is read-only.
    An actor gets tasks once it is built, so one that the cluster has no place for yet holds nothing up.
    """

    def __init__(self, build: Build, arrays: Mapping[str, np.ndarray], workers: int) -> None:
        self.build = build
        self.arrays = ray.put(dict(arrays))
        self.places: list[_Place] = []
        self.lost: Counter[int | None] = Counter()  # by ticket; None are actors that died before they were ready
        self._tasks: dict[int, tuple[str, Any]] = {}
        self._waiting: deque[int] = deque()
        self._running: dict[Any, tuple[_Place, int | None]] = {}
        self._tickets = 0
        self.resize(workers)

    @property
    def workers(self) -> int:
        """How many there are and shall be, ready or not."""
        return sum(not place.leaving for place in self.places)

    @property
    def free(self) -> int:
        """How many more tasks would find an actor at once; while all are being built, as many as the first will take."""
        room = sum(AHEAD - len(place.tickets) for place in self._open()) if self._open() else AHEAD
        return room - len(self._waiting)

    def resize(self, workers: int) -> None:
        """Adds actors, or lets some go once they have done what they have."""
        for _ in range(workers - self.workers):
            self._start()
        staying = [place for place in self.places if not place.leaving]
        for place in sorted(staying, key=lambda p: (p.ready, len(p.tickets)))[: len(staying) - workers]:
            place.leaving = True
            self._dismiss(place)

    def submit(self, method: str, argument: Any) -> int:
        """Has some actor do worker.method(argument), sooner or later; its ticket comes back with the answer."""
        ticket, self._tickets = self._tickets, self._tickets + 1
        self._tasks[ticket] = (method, argument)
        self._waiting.append(ticket)
        self._feed()
        return ticket

    def finished(self, timeout_s: float | None = None) -> list[tuple[int, Any]]:
        """Tickets and answers of what was finished, at least one; none if nothing is under way or time is up."""
        answers: list[tuple[int, Any]] = []
        while self._tasks and not answers:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if not ready:
                break
            ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in ready:
                if reference in self._running:  # else its actor's death was noticed by another task
                    answers += self._take(reference)
            self._feed()
        return answers

    def wait_until_built(self) -> None:
        """Until all actors are there and idle; only for who has submitted nothing."""
        assert not self._tasks
        while self._running:
            ready, _ = ray.wait(list(self._running))
            self._take(ready[0])

    def map(self, method: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, worker.method(argument)) of every argument, as they finish."""
        index = {self.submit(method, argument): i for i, argument in enumerate(arguments)}
        try:
            while index:
                for ticket, answer in self.finished():
                    yield index.pop(ticket), answer
        finally:
            for ticket in index:  # somebody stopped listening: what has not begun never will
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    del self._tasks[ticket]

    def close(self) -> None:
        for place in self.places:
            ray.kill(place.actor)
        self.places, self._running = [], {}

    def _start(self) -> None:
        actor: Any = ray.remote(num_cpus=1)(_Actor)
        place = _Place(actor.remote(self.build, self.arrays))
        self.places.append(place)
        self._running[place.actor.ready.remote()] = (place, None)

    def _open(self) -> list[_Place]:
        return [place for place in self.places if place.ready and not place.leaving]

    def _feed(self) -> None:
        """Gives waiting tasks to the actors that have least."""
        while self._waiting:
            place = min(self._open(), key=lambda p: len(p.tickets), default=None)
            if place is None or len(place.tickets) >= AHEAD:
                return
            ticket = self._waiting.popleft()
            method, argument = self._tasks[ticket]
            place.tickets.add(ticket)
            self._running[place.actor.call.remote(method, (argument,))] = (place, ticket)

    def _take(self, reference: Any) -> list[tuple[int, Any]]:
        """What came of a task: its answer, or nothing if its actor died, who is then replaced."""
        place, ticket = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except (ActorDiedError, ActorUnavailableError) as error:
            self._lose(place, ticket, error)
            return []
        except RayTaskError as error:
            self._forget(place, ticket)
            raise error.as_instanceof_cause() from None
        if ticket is None:
            place.ready = True
            self.lost[None] = 0
            self._dismiss(place)
            return []
        self._forget(place, ticket)
        self._dismiss(place)
        return [(ticket, answer)]

    def _forget(self, place: _Place, ticket: int | None) -> None:
        if ticket is not None:
            place.tickets.discard(ticket)
            del self._tasks[ticket]

    def _lose(self, place: _Place, ticket: int | None, error: Exception) -> None:
        """Puts a dead actor's tasks first in the queue, and another in its place.

        Only the task that it was at counts the loss; Ray runs an actor's tasks in their order, so that is the oldest.
        """
        self.places.remove(place)
        self._running = {ref: (p, t) for ref, (p, t) in self._running.items() if p is not place}
        tickets = sorted(place.tickets)
        guilty = tickets[0] if tickets else None
        self.lost[guilty] += 1
        self._waiting.extendleft(reversed(tickets))
        if not place.leaving:
            self._start()
        if self.lost[guilty] == ATTEMPTS:
            reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            what = "starting an evaluator" if guilty is None else self._tasks[guilty][0]
            where = "" if guilty is None else f" at {self._tasks[guilty][1]}"
            if guilty is not None:
                self._waiting.remove(guilty)
                del self._tasks[guilty]
            raise StepError(
                f"{what} lost its process {ATTEMPTS} times{where} ({reason}); if memory ran out, use fewer ray.evaluators"
            ) from None

    def _dismiss(self, place: _Place) -> None:
        """Ends an actor that is to leave and has nothing left to do."""
        if place.leaving and not place.tickets and place in self.places:
            self.places.remove(place)
            self._running = {ref: (p, t) for ref, (p, t) in self._running.items() if p is not place}
            ray.kill(place.actor)


class Lost(Exception):
    """The actor died, and with it what it knew; there is a new one that knows nothing."""


class Remote:
    """One actor that keeps what `build()` makes, and does one call at a time while we go on."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.build = build
        self.reference: Any = None  # to what the call under way returns
        self._start()

    @property
    def busy(self) -> bool:
        """Whether a call was made whose answer was not taken yet."""
        return self.reference is not None

    def call(self, method: str, *arguments: Any) -> None:
        """Starts worker.method(*arguments); `answer` gets what it returns."""
        assert not self.busy, "one call at a time"
        self.reference = self.actor.call.remote(method, arguments)

    def finished(self, timeout_s: float | None = 0) -> bool:
        """Whether the call has ended, after waiting at most so long (None: until it has)."""
        ready, _ = ray.wait([self.reference], timeout=timeout_s)
        return bool(ready)

    def answer(self) -> Any:
        """What the call returned; waits until it has. `Lost` if the actor died, which is then replaced by a new one."""
        reference, self.reference = self.reference, None
        try:
            return ray.get(reference)
        except (ActorDiedError, ActorUnavailableError):
            self._start()
            raise Lost from None
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def close(self) -> None:
        ray.kill(self.actor)

    def _start(self) -> None:
        build, actor = self.build, ray.remote(num_cpus=0)(_Actor)
        self.actor: Any = actor.remote(lambda arrays: build(), {})
