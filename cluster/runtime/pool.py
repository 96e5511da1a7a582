"""A pool of Ray actors that share large arrays, and single Ray actors with a state of their own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from cluster.errors import StepError
from cluster.runtime import metrics

ATTEMPTS = 4  # attempts at one task whose actor dies
TASKS_PER_ACTOR = 2  # one is running; the next is queued at the actor, so that it need not wait for the driver

Build = Callable[[Mapping[str, np.ndarray]], Any]


class _Actor:
    """The Ray actor: builds its worker once, then calls its methods."""

    def __init__(self, build: Build, arrays: Mapping[str, np.ndarray]) -> None:
        self.worker = build(arrays)
        self.renewed = 0

    def ready(self) -> None:
        """Returns once the worker is built."""

    def call(
        self,
        method: str,
        arguments: tuple[Any, ...],
        renewal: int = 0,
        newer: Mapping[str, np.ndarray] | None = None,
        further: Mapping[str, np.ndarray] | None = None,
    ) -> Any:
        """worker.method(*arguments), with `further` as the last one if there is one, with the arrays of this renewal."""
        if renewal != self.renewed and newer is not None:
            self.worker.renew(newer)
            self.renewed = renewal
        return getattr(self.worker, method)(*arguments, *([] if further is None else [further]))


@dataclass(eq=False)
class _Member:
    """An actor of a pool, and the tickets of its tasks."""

    actor: Any
    ready: bool = False
    leaving: bool = False  # gets no more tasks, and is ended when it has none
    tickets: set[int] = field(default_factory=set)


class Pool:
    """`workers` actors, each made by `build(arrays)`; one that dies is replaced and its tasks run again.

    The arrays go into the object store once; on every node all actors read the same copy, which is read-only.
    An actor gets tasks once it is built, so one that the cluster has no CPU for yet does not delay the others.
    gpus: of each actor; a share below 1 is of one GPU, which actors then share. name: of the pool in metrics.
    """

    def __init__(
        self, build: Build, arrays: Mapping[str, np.ndarray], workers: int, gpus: float = 0, name: str = "evaluators"
    ) -> None:
        self.build, self.gpus, self.name = build, gpus, name
        self.arrays = ray.put(dict(arrays))
        self.renewal = 0  # the number of renewals
        self.newer: Any = None  # the reference to the arrays of the latest
        self.members: list[_Member] = []
        # lost actors by ticket; None counts actors that died before they were ready
        self.lost: Counter[int | None] = Counter()
        self._tasks: dict[int, tuple[str, Any, Any]] = {}  # method, argument, reference of further arrays or None
        self._waiting: deque[int] = deque()
        self._running: dict[Any, tuple[_Member, int | None]] = {}
        self._tickets = 0
        self.resize(workers)

    @property
    def workers(self) -> int:
        """The number of actors that stay, built or not."""
        return sum(not member.leaving for member in self.members)

    @property
    def free(self) -> int:
        """The number of further tasks that an actor would take at once; while none is built, as many as one takes."""
        taken = [len(member.tickets) for member in self._available()] or [0]
        return sum(TASKS_PER_ACTOR - count for count in taken) - len(self._waiting)

    def resize(self, workers: int) -> None:
        """Starts actors, or ends some once they have finished their tasks, so that `workers` stay."""
        for _ in range(workers - self.workers):
            self._start()
        staying = [member for member in self.members if not member.leaving]
        for member in sorted(staying, key=lambda m: (m.ready, len(m.tickets)))[: len(staying) - workers]:
            member.leaving = True
            self._end_if_idle(member)

    def renew(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replaces arrays of these names for all tasks from now on, by worker.renew(arrays); no task may be pending.

        The other arrays stay in the object store as they are, and no actor is built again.
        """
        assert not self._tasks, "tasks are pending"
        self.renewal, self.newer = self.renewal + 1, ray.put(dict(arrays))

    def submit(self, method: str, argument: Any, further: Any = None) -> int:
        """Queues worker.method(argument) for any actor; returns the ticket that `finished` returns with the result.

        further: the reference of arrays in the object store, which become the method's second argument.
        """
        ticket, self._tickets = self._tickets, self._tickets + 1
        self._tasks[ticket] = (method, argument, further)
        self._waiting.append(ticket)
        self._feed()
        return ticket

    def finished(self, timeout_s: float | None = None) -> list[tuple[int, Any]]:
        """The (ticket, result) of the tasks that finished since the last call.

        Waits for at least one, at most `timeout_s` seconds; [] if no task is pending or the time is up. Raises the
        exception of a task, and a `StepError` for a task that lost its actor `ATTEMPTS` times.
        """
        results: list[tuple[int, Any]] = []
        while self._tasks and not results:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if not ready:
                break
            ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in ready:
                if reference in self._running:  # else another task has already reported its actor's death
                    results += self._take(reference)
            self._feed()
        metrics.record("ofa_actors", len(self._available()), pool=self.name)
        metrics.record("ofa_pending", len(self._tasks), pool=self.name)
        return results

    def wait_until_built(self) -> None:
        """Returns once all actors are built; no task may be pending."""
        assert not self._tasks
        while self._running:
            ready, _ = ray.wait(list(self._running))
            self._take(ready[0])

    def map(
        self, method: str, arguments: Sequence[Any], further: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yields (index, worker.method(argument)) of every argument, as they finish; raises as `finished` does.

        further: a second argument of all the calls, arrays of which all actors of a node read the same read-only copy.
        """
        shared = None if further is None else ray.put(dict(further))
        index = {self.submit(method, argument, shared): i for i, argument in enumerate(arguments)}
        try:
            while index:
                for ticket, answer in self.finished():
                    yield index.pop(ticket), answer
        finally:
            for ticket in index:  # the caller stopped early: tasks that have not begun are dropped
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    del self._tasks[ticket]

    def close(self) -> None:
        """Ends all actors at once."""
        for member in self.members:
            ray.kill(member.actor)
        self.members, self._running = [], {}

    def _start(self) -> None:
        actor: Any = ray.remote(num_cpus=1, num_gpus=self.gpus)(_Actor)
        member = _Member(actor.remote(self.build, self.arrays))
        self.members.append(member)
        self._running[member.actor.ready.remote()] = (member, None)

    def _available(self) -> list[_Member]:
        return [member for member in self.members if member.ready and not member.leaving]

    def _feed(self) -> None:
        """Sends waiting tasks to the actors with the fewest tasks."""
        while self._waiting:
            member = min(self._available(), key=lambda m: len(m.tickets), default=None)
            if member is None or len(member.tickets) >= TASKS_PER_ACTOR:
                return
            ticket = self._waiting.popleft()
            method, argument, further = self._tasks[ticket]
            member.tickets.add(ticket)
            call = member.actor.call.remote(method, (argument,), self.renewal, self.newer, further)
            self._running[call] = (member, ticket)

    def _take(self, reference: Any) -> list[tuple[int, Any]]:
        """A finished task's ticket and result; [] if an actor was built, or if it died and is replaced."""
        member, ticket = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except (ActorDiedError, ActorUnavailableError) as error:
            self._lose(member, ticket, error)
            return []
        except RayTaskError as error:
            self._forget(member, ticket)
            raise error.as_instanceof_cause() from None
        if ticket is None:
            member.ready = True
            self.lost[None] = 0
            self._end_if_idle(member)
            return []
        self._forget(member, ticket)
        self._end_if_idle(member)
        return [(ticket, answer)]

    def _forget(self, member: _Member, ticket: int | None) -> None:
        if ticket is not None:
            member.tickets.discard(ticket)
            del self._tasks[ticket]

    def _lose(self, member: _Member, ticket: int | None, error: Exception) -> None:
        """Puts a dead actor's tasks first in the queue, and starts another actor.

        The loss is counted for the task that was running: Ray runs an actor's tasks in order, so that is the oldest.
        """
        self.members.remove(member)
        self._running = {ref: (m, t) for ref, (m, t) in self._running.items() if m is not member}
        tickets = sorted(member.tickets)
        failed = tickets[0] if tickets else None
        self.lost[failed] += 1
        metrics.record("ofa_lost_actors", 1, pool=self.name)
        self._waiting.extendleft(reversed(tickets))
        if not member.leaving:
            self._start()
        if self.lost[failed] == ATTEMPTS:
            reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            what = "starting an evaluator" if failed is None else self._tasks[failed][0]
            where = "" if failed is None else f" at {self._tasks[failed][1]}"
            if failed is not None:
                self._waiting.remove(failed)
                del self._tasks[failed]
            raise StepError(
                f"{what} lost its process {ATTEMPTS} times{where} ({reason}); if memory ran out, use fewer ray.evaluators"
            ) from None

    def _end_if_idle(self, member: _Member) -> None:
        """Ends an actor that is leaving and has no task left."""
        if member.leaving and not member.tickets and member in self.members:
            self.members.remove(member)
            self._running = {ref: (m, t) for ref, (m, t) in self._running.items() if m is not member}
            ray.kill(member.actor)


class Lost(Exception):
    """The actor died with its state; a new one was started from its initial state."""


class Remote:
    """One actor that holds the object made by `build()`; one asynchronous call of a method at a time."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.build = build
        self.reference: Any = None  # the result's reference, from the call until the result is taken
        self._start()

    @property
    def busy(self) -> bool:
        """Whether a call was started whose result was not taken yet."""
        return self.reference is not None

    def call(self, method: str, *arguments: Any) -> None:
        """Starts worker.method(*arguments); `answer` returns its result."""
        assert not self.busy, "one call at a time"
        self.reference = self.actor.call.remote(method, arguments)

    def finished(self, timeout_s: float | None = 0) -> bool:
        """Whether the call has ended, after waiting at most `timeout_s` (None: until it has)."""
        ready, _ = ray.wait([self.reference], timeout=timeout_s)
        return bool(ready)

    def answer(self) -> Any:
        """The result of the call, once it has ended; raises `Lost` if the actor died, which is then replaced."""
        reference, self.reference = self.reference, None
        try:
            return ray.get(reference)
        except (ActorDiedError, ActorUnavailableError):
            self._start()
            raise Lost from None
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def close(self) -> None:
        """Ends the actor at once."""
        ray.kill(self.actor)

    def _start(self) -> None:
        build, actor = self.build, ray.remote(num_cpus=0)(_Actor)
        self.actor: Any = actor.remote(lambda arrays: build(), {})
