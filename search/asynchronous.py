"""The measured search without generations: a free evaluator measures the next arch, and islands never wait for each other.

Islands propose small batches, a little ahead of the evaluators; a result is reported at once to the islands that wait for
it. No arch is evaluated twice: one that is pending for another island is waited for, one that is known is reported.
The result depends on how long evaluations take; `search.measured` gives one result for one seed.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.front import front
from search.islands.breeder import Individual, Packed, elites, within
from search.islands.port import Endpoint, LocalPort, Lost, Port
from search.measured import Result, algorithm_named, distinct
from search.objective import Objective, values


class Evaluators(Protocol):
    """Workers that measure archs; their number may change between calls."""

    @property
    def workers(self) -> int: ...

    @property
    def free(self) -> int:
        """The number of further archs that a worker would start at once."""
        ...

    def submit(self, arch: Arch) -> None:
        """Queues the arch for a worker; if that worker dies, another one measures it."""
        ...

    def finished(self, timeout_s: float) -> list[Measured]:
        """The observations since the last call; waits until there is at least one."""
        ...


@dataclass
class _Member:
    """The state that the search keeps for one island."""

    port: Port
    results: list[Individual] = field(default_factory=list)  # the observations to report to it, in order
    sent: int = 0  # the number already reported
    avoid: list[Packed] = field(default_factory=list)  # pending for the others, not yet sent
    exhausted: bool = False  # it proposed no new arch at its last call


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluators: Evaluators,
    *,
    algorithm: str = "default",
    sampler: Mapping[str, Any] | None = None,
    evaluations: int | Callable[[], int],
    population: int,
    seed: int,
    islands: int = 1,
    migrate_every: int = 3,
    known: Sequence[Measured] = (),
    open_port: Callable[[Callable[[], Any]], Port] = LocalPort,
    on_measured: Callable[[Sequence[Measured]], None] = lambda measured: None,
) -> Result:
    """Evaluates `evaluations` new archs, `population` of all islands together; stops early if the space is exhausted.

    evaluations: a number, or a function whose result may change while the search runs.
    sampler: keyword arguments of an Optuna sampler, if that is the algorithm.
    known: observations that do not count as evaluations; a killed search is resumed by passing all that it had measured.
    open_port: starts an island, in this or another process; a call requests half as many archs as there are evaluators.
    on_measured: called with new observations as they arrive, so that they can be stored.
    Raises a `ProblemError`, which is a `ValueError`, for an unknown algorithm.
    """
    chosen = algorithm_named(algorithm, sampler)
    islands = 1 if chosen.alone else islands
    each = max(4, population // islands)

    def member(i: int) -> _Member:
        def build() -> Endpoint:
            return Endpoint(chosen.build(space, objectives, each, f"{seed}/island{i}/{len(known)}"))

        return _Member(open_port(build))

    least = 8 if chosen.alone else 1  # a predictor is fitted once a batch
    members = [member(i) for i in range(islands)]
    budget = evaluations if callable(evaluations) else lambda: evaluations
    state = _Search(space, objectives, evaluators, budget, members, known, on_measured, least)
    state.begin(population, seed)
    migrations = 0
    while state.open:
        state.feed()
        state.ask()
        state.collect()
        if state.done >= (migrations + 1) * migrate_every * population:
            migrations += 1
            state.migrate(max(2, each // 5))
    return Result(tuple(state.history), front(space.name, objectives, [*known, *state.history]))


class _Search:
    """The state of a running search."""

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        evaluators: Evaluators,
        budget: Callable[[], int],
        members: list[_Member],
        known: Sequence[Measured],
        on_measured: Callable[[Sequence[Measured]], None],
        least: int,
    ) -> None:
        self.least = least  # archs requested in one call
        self.space, self.objectives, self.evaluators = space, tuple(objectives), evaluators
        self.budget, self.members, self.on_measured = budget, members, on_measured
        self.genes = Genes(space)
        self.known: dict[Packed, Individual] = {}
        self.history: list[Measured] = []
        self.queue: deque[Packed] = deque()  # proposed, not submitted yet
        self.pending: dict[Packed, list[int]] = {}  # queued or being evaluated, and which islands wait for it
        for i, individual in enumerate(self._individuals(known)):
            self.known[individual.packed] = individual
            self.members[i % len(members)].results.append(individual)
        for i, member in enumerate(members):
            member.avoid += [packed for n, packed in enumerate(self.known) if n % len(members) != i]

    def begin(self, population: int, seed: int) -> None:
        """Queues the extremes, and as many random archs as the population lacks.

        Where nothing is known they are as many as the evaluators take: islands would propose random ones, too, but later.
        """
        wanted = population if self.known else max(population, self.evaluators.free)
        lacking = min(wanted, self.budget()) - 2 - len(self.known)
        first = [self.space.smallest(), self.space.largest()]
        first += distinct(self.space, max(0, lacking), random.Random(f"{seed}/first"))
        for i, packed in enumerate(self.genes.pack_all(self.genes.encode(first))):
            self._take(packed, i % len(self.members))

    @property
    def done(self) -> int:
        return len(self.history)

    @property
    def left(self) -> int:
        """The number of archs that may still be evaluated."""
        return self.budget() - self.done - len(self.pending)

    @property
    def open(self) -> bool:
        """Whether evaluations are pending or may still be proposed."""
        return bool(self.pending) or (self.left > 0 and not all(member.exhausted for member in self.members))

    def feed(self) -> None:
        """Submits queued archs to free evaluators."""
        count = min(self.evaluators.free, len(self.queue))
        if count > 0:
            packed = [self.queue.popleft() for _ in range(count)]
            for arch in self.genes.decode(self.genes.unpack_all(packed)):
                self.evaluators.submit(arch)

    def ask(self) -> None:
        """Takes the islands' proposals, and calls idle islands while the queue is shorter than the number of evaluators."""
        for i, member in enumerate(self.members):
            if not member.port.busy or not member.port.finished():
                continue
            try:
                proposed = member.port.answer()
            except Lost:
                its_own = {individual.packed for individual in member.results}
                member.sent, member.exhausted = 0, False
                member.avoid = [packed for packed in (*self.known, *self.pending) if packed not in its_own]
                continue
            member.exhausted = not proposed
            for packed in proposed:
                self._take(packed, i)
        lacking = self.evaluators.workers + 1 - len(self.queue)
        idle = [member for member in self.members if not member.port.busy]
        for member in sorted(idle, key=lambda m: len(m.results)):
            if lacking <= 0 or self.left <= 0:
                return
            fresh = member.results[member.sent :]
            if member.exhausted and not fresh:
                continue
            count = min(max(self.least, self.evaluators.workers // 2), self.left)
            member.port.call("exchange", fresh, member.avoid, count)
            member.sent, member.avoid, member.exhausted = len(member.results), [], False
            lacking -= count

    def collect(self) -> None:
        """Takes finished observations, and queues their reports to the islands that wait for them."""
        asking = any(member.port.busy for member in self.members)
        if len(self.pending) == len(self.queue):  # no evaluation is running
            time.sleep(0.01 if asking else 0)
            return
        measured = self.evaluators.finished(0.02 if asking else 1.0)
        if not measured:
            return
        self.history += measured
        for individual in self._individuals(measured):
            self.known[individual.packed] = individual
            for i in self.pending.pop(individual.packed):
                self.members[i].results.append(individual)
        self.on_measured(measured)

    def migrate(self, count: int) -> None:
        """Reports to every island the best archs of the previous island in the ring."""
        directions = [o.direction for o in self.objectives]
        best = [elites(within(self.objectives, member.results), directions, count) for member in self.members]
        for i, member in enumerate(self.members):
            there = {individual.packed for individual in member.results}
            member.results += [individual for individual in best[i - 1] if individual.packed not in there]

    def _take(self, packed: Packed, i: int) -> None:
        """Queues an arch that island `i` proposed, unless it is known or pending."""
        if packed in self.known:
            self.members[i].results.append(self.known[packed])
        elif packed in self.pending:
            self.pending[packed].append(i)
        elif self.left > 0:
            self.pending[packed] = [i]
            self.queue.append(packed)
            for n, member in enumerate(self.members):
                if n != i:
                    member.avoid.append(packed)

    def _individuals(self, measured: Sequence[Measured]) -> list[Individual]:
        packed = self.genes.pack_all(self.genes.encode([m.arch for m in measured]))
        rows = values(self.objectives, measured).tolist()
        return [Individual(p, tuple(row)) for p, row in zip(packed, rows, strict=True)]
