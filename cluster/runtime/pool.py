"""A pool of Ray actors that share large arrays, and single Ray actors with a state of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError

from cluster.errors import StepError
from cluster.runtime import metrics

ATTEMPTS = 4  # attempts at one task whose actor dies, and at starting one actor
TASKS_PER_ACTOR = 2  # one is running; the next is queued at the actor, so that it need not wait for the driver
PENDING_PER_ACTOR = 3  # tasks of `map` that are pending at once; further arguments are taken when results have been

# A task is hedged, which is to say sent to a second actor, when that actor is idle, no task waits, and its first actor has
# been running one task for longer than HEDGE_RATIO times the median of the last HEDGE_RECENT tasks of the same method.
HEDGE_RATIO = 3.0
HEDGE_LEAST_S = 1.0  # the least of that time; also how often it is checked
HEDGE_KNOWN = 5  # tasks of the method that must have finished
HEDGE_RECENT = 101

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
    ) -> tuple[float, Any]:
        """The seconds and the result of worker.method(*arguments), with the arrays of this renewal.

        further: the last argument, if it is given.
        """
        started = time.monotonic()
        if renewal != self.renewed and newer is not None:
            self.worker.renew(newer)
            self.renewed = renewal
        answer = getattr(self.worker, method)(*arguments, *([] if further is None else [further]))
        return time.monotonic() - started, answer


@dataclass(eq=False, slots=True)
class _Task:
    """A call of a method; `wanted` until its first outcome, or until nobody waits for it any more."""

    ticket: int
    method: str
    argument: Any
    further: Any  # the reference of further arrays, or None
    copies: int = 0  # actors that have it
    lost: int = 0  # actors that died while they were running it
    wanted: bool = True


@dataclass(eq=False, slots=True)
class _Member:
    """An actor of a pool, and its tasks."""

    actor: Any
    deaths: int = 0  # actors in its place that died before they were built
    ready: bool = False
    leaving: bool = False  # gets no more tasks, and is ended when it has none
    tasks: list[_Task] = field(default_factory=list)  # in the order in which the actor runs them
    since: float = 0.0  # when the first of them began, as far as the driver knows


class Pool:
    """`workers` actors, each made by `build(arrays)`; one that dies is replaced and its tasks run again.

    The arrays go into the object store once; on every node all actors read the same copy, which is read-only.
    An actor gets tasks once it is built, so one that the cluster has no CPU for yet does not delay the others.
    A slow task may be sent to a second actor (see HEDGE_RATIO); the first outcome counts, a result or an exception.
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
        self._room: list[dict[_Member, None]] = [
            {} for _ in range(TASKS_PER_ACTOR)
        ]  # who takes tasks, by how many they have
        self._tasks: dict[int, _Task] = {}  # those that are wanted
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, tuple[_Member, _Task | None]] = {}  # None: the actor is being built
        self._seconds: dict[str, deque[float]] = {}  # of finished tasks, by method
        self._tickets = 0
        self.resize(workers)

    @property
    def workers(self) -> int:
        """The number of actors that stay, built or not."""
        return sum(not member.leaving for member in self.members)

    @property
    def pending(self) -> int:
        """The number of tasks that wait or run."""
        return len(self._tasks)

    @property
    def free(self) -> int:
        """The number of further tasks that an actor would take at once; while none is built, as many as one takes."""
        room = sum((TASKS_PER_ACTOR - count) * len(members) for count, members in enumerate(self._room))
        return (room if self._built() else TASKS_PER_ACTOR) - len(self._waiting)

    def resize(self, workers: int) -> None:
        """Starts actors, or ends some once they have finished their tasks, so that `workers` stay."""
        for _ in range(workers - self.workers):
            self._start()
        staying = [member for member in self.members if not member.leaving]
        for member in sorted(staying, key=lambda m: (m.ready, len(m.tasks)))[: len(staying) - workers]:
            member.leaving = True
            self._place(member)
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
        self._tasks[ticket] = task = _Task(ticket, method, argument, further)
        self._waiting.append(task)
        self._feed()
        return ticket

    def finished(self, timeout_s: float | None = None) -> list[tuple[int, Any]]:
        """The (ticket, result) of the tasks that finished since the last call.

        Waits for at least one, at most `timeout_s` seconds; [] if no task is pending or the time is up. Raises the
        exception of a task, and a `StepError` for a task that lost its actor `ATTEMPTS` times.
        """
        results: list[tuple[int, Any]] = []
        end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while self._tasks and not results:
            self._feed()
            ready = self._ended(len(self._running), 0)
            if not ready:
                self._hedge()
                left = end - time.monotonic()
                ready = self._ended(1, max(0.0, min(left, HEDGE_LEAST_S)))
                if not ready and left <= HEDGE_LEAST_S:
                    break
            for reference in ready:
                if reference in self._running:  # else another task has already reported its actor's death
                    results += self._take(reference)
        self._feed()
        metrics.record("ofa_actors", self._built(), pool=self.name)
        metrics.record("ofa_pending", len(self._tasks), pool=self.name)
        return results

    def wait_until_built(self) -> None:
        """Returns once all actors are built; no task may be pending."""
        assert not self._tasks
        while building := [reference for reference, (_, task) in self._running.items() if task is None]:
            ready, _ = ray.wait(building, num_returns=len(building))
            for reference in ready:
                self._take(reference)

    def map(
        self, method: str, arguments: Iterable[Any], further: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yields (index, worker.method(argument)) of every argument, as they finish; raises as `finished` does.

        At most `PENDING_PER_ACTOR` tasks an actor are pending: a caller that is slow to take results slows the actors down.
        further: a second argument of all the calls, arrays of which all actors of a node read the same read-only copy.
        """
        shared = None if further is None else ray.put(dict(further))
        rest, index = enumerate(arguments), dict[int, int]()
        try:
            while True:
                room = PENDING_PER_ACTOR * self.workers - len(self._tasks)
                for i, argument in islice(rest, max(not index, room)):
                    index[self.submit(method, argument, shared)] = i
                if not index:
                    return
                for ticket, answer in self.finished():
                    yield index.pop(ticket), answer
        finally:
            for ticket in index:  # the caller stopped early, or a task failed
                self._forget(ticket)

    def close(self) -> None:
        """Ends all actors at once."""
        for member in self.members:
            ray.kill(member.actor)
        self.members, self._running = [], {}

    def _ended(self, count: int, timeout_s: float) -> list[Any]:
        """The references of at most `count` calls that have ended, once there are so many or the time is up."""
        ready, _ = ray.wait(list(self._running), num_returns=count, timeout=timeout_s)
        return list(ready)

    def _start(self, deaths: int = 0) -> None:
        member = _Member(self._actor(), deaths)
        self.members.append(member)
        self._running[member.actor.ready.remote()] = (member, None)

    def _actor(self) -> Any:
        """The handle of a new actor."""
        actor: Any = ray.remote(num_cpus=1, num_gpus=self.gpus)(_Actor)
        return actor.remote(self.build, self.arrays)

    def _built(self) -> int:
        return sum(member.ready and not member.leaving for member in self.members)

    def _place(self, member: _Member) -> None:
        """Notes how many further tasks the actor takes; to be called whenever that has changed."""
        for members in self._room:
            members.pop(member, None)
        if member.ready and not member.leaving and len(member.tasks) < TASKS_PER_ACTOR:
            self._room[len(member.tasks)][member] = None

    def _feed(self) -> None:
        """Sends waiting tasks to the actors with the fewest tasks."""
        while self._waiting:
            member = next((member for members in self._room for member in members), None)
            if member is None:
                return
            self._send(self._waiting.popleft(), member)

    def _send(self, task: _Task, member: _Member) -> None:
        if not member.tasks:
            member.since = time.monotonic()
        member.tasks.append(task)
        task.copies += 1
        self._place(member)
        call = member.actor.call.remote(task.method, (task.argument,), self.renewal, self.newer, task.further)
        self._running[call] = (member, task)

    def _hedge(self) -> None:
        """Sends second copies of the slowest tasks to idle actors; see HEDGE_RATIO.

        A task that is queued behind a slow one is copied after it, for it would wait for as long.
        """
        idle = list(self._room[0])
        if not idle or self._waiting:
            return
        now = time.monotonic()
        limits_s = {method: self._limit_s(seconds) for method, seconds in self._seconds.items()}
        slow = [m for m in self.members if m.tasks and now - m.since > limits_s.get(m.tasks[0].method, float("inf"))]
        alone = [t for m in sorted(slow, key=lambda m: m.since) for t in m.tasks if t.wanted and t.copies == 1]
        for task, member in zip(alone, idle, strict=False):
            self._send(task, member)
            metrics.record("ofa_hedges", 1, pool=self.name)

    def _limit_s(self, seconds: Collection[float]) -> float:
        """The seconds after which a task is slow. seconds: those that others of its method took."""
        return max(HEDGE_LEAST_S, HEDGE_RATIO * median(seconds)) if len(seconds) >= HEDGE_KNOWN else float("inf")

    def _take(self, reference: Any) -> list[tuple[int, Any]]:
        """A finished task's ticket and result; [] if it is not wanted, if an actor was built, or died and is replaced."""
        member, task = self._running.pop(reference)
        answer: Any = None
        error: RayTaskError | None = None
        try:
            answer = ray.get(reference)
        except (ActorDiedError, ActorUnavailableError, ObjectLostError) as lost:  # a large answer is lost with its node
            self._lose(member, lost)
            return []
        except RayTaskError as raised:
            error = raised
        if task is None:
            member.ready, member.deaths = True, 0
        else:
            member.tasks.remove(task)
            member.since = time.monotonic()
        self._place(member)
        wanted = task is not None and task.wanted
        if task is not None:
            self._forget(task.ticket)
        self._end_if_idle(member)
        if task is None or not wanted:
            return []
        if error is not None:
            raise error.as_instanceof_cause() from None
        seconds, result = answer
        self._seconds.setdefault(task.method, deque(maxlen=HEDGE_RECENT)).append(seconds)
        return [(task.ticket, result)]

    def _forget(self, ticket: int) -> None:
        """Drops a task that has its outcome, or for which nobody waits; an actor that runs it finishes it."""
        task = self._tasks.pop(ticket, None)
        if task is not None:
            task.wanted = False
            if not task.copies:
                self._waiting.remove(task)

    def _lose(self, member: _Member, error: Exception) -> None:
        """Puts a dead actor's tasks that no other actor has first in the queue, and starts another actor.

        The loss is counted for the task that was running: Ray runs an actor's tasks in order, so that is the first.
        """
        self._remove(member)  # one that is only unreachable would keep its CPU
        metrics.record("ofa_lost_actors", 1, pool=self.name)
        for task in member.tasks:
            task.copies -= 1
        self._waiting.extendleft(task for task in reversed(member.tasks) if task.wanted and not task.copies)
        deaths = 0 if member.ready else member.deaths + 1
        if not member.leaving:
            self._start(deaths)
        if deaths == ATTEMPTS:
            raise StepError(_lost("starting an evaluator", "", error)) from None
        if not member.tasks:
            return
        running = member.tasks[0]
        running.lost += 1
        if running.lost >= ATTEMPTS and running.wanted and not running.copies:
            self._forget(running.ticket)
            raise StepError(_lost(running.method, f" at {running.argument}", error)) from None

    def _end_if_idle(self, member: _Member) -> None:
        """Ends an actor that is leaving and has no task left that is wanted."""
        if member.leaving and member in self.members and not any(task.wanted for task in member.tasks):
            self._remove(member)

    def _remove(self, member: _Member) -> None:
        """Ends an actor and drops what it runs."""
        self.members.remove(member)
        for members in self._room:
            members.pop(member, None)
        self._running = {ref: (m, t) for ref, (m, t) in self._running.items() if m is not member}
        ray.kill(member.actor)


def _lost(what: str, where: str, error: Exception) -> str:
    reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    return f"{what} lost its process {ATTEMPTS} times{where} ({reason}); if memory ran out, use fewer ray.evaluators"


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
            _, answer = ray.get(reference)
            return answer
        except (ActorDiedError, ActorUnavailableError, ObjectLostError):
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
