"""The measured search without generations: whoever is free measures the next arch, and islands never wait for each other.

Islands ask in small batches, a little ahead of the evaluators; whatever comes back is told at once to who asked for
it. Nothing is evaluated twice: an arch that another island has in hand is waited for, one that is known is told.
What it finds depends on how long evaluations take; `search.measured` gives one result for one seed.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.front import front
from search.islands.guided import Guided
from search.islands.island import Individual, Island, Packed, elites
from search.measured import ALGORITHMS, Result, distinct
from search.objective import Objective, values


class Evaluators(Protocol):
    """Workers that measure; there may be more or fewer of them from one call to the next."""

    @property
    def workers(self) -> int: ...

    @property
    def free(self) -> int:
        """How many more archs would find a worker at once."""
        ...

    def submit(self, arch: Arch) -> None:
        """Has the arch measured, also if the worker that is at it dies."""
        ...

    def finished(self, timeout_s: float) -> list[Measured]:
        """What was measured since the last call; waits for at least one, but not longer."""
        ...


class Lost(Exception):
    """An island died with all that it was told, and was replaced by a new one."""


class Port(Protocol):
    """An island somewhere: one call at a time, whose answer comes later."""

    @property
    def busy(self) -> bool: ...

    def call(self, method: str, *arguments: Any) -> None: ...

    def answer(self) -> list[Any]:
        """What the call returned, as the only item of a list; empty while it is at it. `Lost` if it died."""
        ...


class Here:
    """The port of an island in this process."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.island = build()
        self.answers: list[Any] = []

    @property
    def busy(self) -> bool:
        return bool(self.answers)

    def call(self, method: str, *arguments: Any) -> None:
        self.answers = [getattr(self.island, method)(*arguments)]

    def answer(self) -> list[Any]:
        answers, self.answers = self.answers, []
        return answers


class Talk:
    """What an island hears and answers in one call."""

    def __init__(self, island: Island | Guided | Uniform) -> None:
        self.island = island

    def turn(self, told: Sequence[Individual], avoid: Sequence[Packed], count: int) -> list[Packed]:
        """Tells it what archs are worth and which others have in hand, and asks for `count` more."""
        self.island.tell(told)
        self.island.avoid(avoid)
        return self.island.ask(count)


class Uniform:
    """Asks for archs drawn uniformly."""

    def __init__(self, space: Space, seed: str) -> None:
        self.space, self.genes, self.rng = space, Genes(space), random.Random(seed)
        self.taken: set[Packed] = set()

    def tell(self, told: Sequence[Individual]) -> None:
        self.taken.update(individual.packed for individual in told)

    def avoid(self, taken: Sequence[Packed]) -> None:
        self.taken.update(taken)

    def ask(self, count: int) -> list[Packed]:
        drawn = self.genes.pack_all(self.genes.encode([self.space.sample(self.rng) for _ in range(20 * count)]))
        asked = [packed for packed in dict.fromkeys(drawn) if packed not in self.taken][:count]
        self.taken.update(asked)
        return asked


def build_island(space: Space, objectives: Sequence[Objective], algorithm: str, population: int, seed: str) -> Talk:
    """An island of this algorithm, that knows nothing yet."""
    if algorithm == "random":
        return Talk(Uniform(space, seed))
    if algorithm == "guided":
        return Talk(Guided(space, objectives, seed))
    directions = [o.direction for o in objectives]
    return Talk(Island(space, directions, algorithm=algorithm, population=population, seed=seed))


@dataclass
class _Member:
    """An island as the search sees it."""

    port: Port
    told: list[Individual] = field(default_factory=list)  # everything it ever heard, in order
    heard: int = 0  # how many of them went out
    avoid: list[Packed] = field(default_factory=list)  # of the others, not yet sent
    dry: bool = False  # it had nothing new to ask for when it last heard something


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluators: Evaluators,
    *,
    algorithm: str = "default",
    evaluations: int | Callable[[], int],
    population: int,
    seed: int,
    islands: int = 1,
    migrate_every: int = 3,
    known: Sequence[Measured] = (),
    open_port: Callable[[Callable[[], Any]], Port] = Here,
    seen: Callable[[Sequence[Measured]], None] = lambda measured: None,
) -> Result:
    """Evaluates `evaluations` new archs, `population` of all islands together; stops early where the space is exhausted.

    evaluations: a number, or a function that may say more or less while it runs.

    known: observations that cost nothing; a search that was killed goes on with all that it had measured among them.
    open_port: makes an island where it shall live; it is asked for half as many archs at a time as there are evaluators.
    seen: gets what was measured, as it comes: to be kept.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    algorithm = "nsga2" if algorithm == "default" else algorithm
    islands = 1 if algorithm == "guided" else islands
    each = max(4, population // islands)

    def member(i: int) -> _Member:
        def build() -> Talk:
            return build_island(space, objectives, algorithm, each, f"{seed}/island{i}/{len(known)}")

        return _Member(open_port(build))

    least = 8 if algorithm == "guided" else 1  # a predictor takes its time, once a batch
    members = [member(i) for i in range(islands)]
    budget = evaluations if callable(evaluations) else lambda: evaluations
    state = _Search(space, objectives, evaluators, budget, members, known, seen, least)
    state.begin(population, seed)
    migrations = 0
    while state.open:
        state.feed()
        state.ask()
        state.listen()
        if state.done >= (migrations + 1) * migrate_every * population:
            migrations += 1
            state.migrate(max(2, each // 5))
    return Result(tuple(state.history), front(space.name, objectives, [*known, *state.history]))


class _Search:
    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        evaluators: Evaluators,
        budget: Callable[[], int],
        members: list[_Member],
        known: Sequence[Measured],
        seen: Callable[[Sequence[Measured]], None],
        least: int,
    ) -> None:
        self.least = least  # archs to ask for at a time
        self.space, self.objectives, self.evaluators = space, tuple(objectives), evaluators
        self.budget, self.members, self.tell_keeper = budget, members, seen
        self.genes = Genes(space)
        self.worth: dict[Packed, Individual] = {}
        self.history: list[Measured] = []
        self.queue: deque[Packed] = deque()  # asked for, nobody is at it yet
        self.in_hand: dict[Packed, list[int]] = {}  # queued or being evaluated, and which islands wait for it
        for i, individual in enumerate(self._individuals(known)):
            self.worth[individual.packed] = individual
            self.members[i % len(members)].told.append(individual)
        for i, member in enumerate(members):
            member.avoid += [packed for n, packed in enumerate(self.worth) if n % len(members) != i]

    def begin(self, population: int, seed: int) -> None:
        """The extremes, and as many random archs as a population lacks."""
        lacking = min(population, self.budget()) - 2 - len(self.worth)
        first = [self.space.smallest(), self.space.largest()]
        first += distinct(self.space, max(0, lacking), random.Random(f"{seed}/first"))
        for i, packed in enumerate(self.genes.pack_all(self.genes.encode(first))):
            self._take(packed, i % len(self.members))

    @property
    def done(self) -> int:
        return len(self.history)

    @property
    def left(self) -> int:
        """How many more archs may be taken."""
        return self.budget() - self.done - len(self.in_hand)

    @property
    def open(self) -> bool:
        """Whether anything is under way or may come."""
        return bool(self.in_hand) or (self.left > 0 and not all(member.dry for member in self.members))

    def feed(self) -> None:
        """Gives queued archs to whoever is free."""
        count = min(self.evaluators.free, len(self.queue))
        if count > 0:
            packed = [self.queue.popleft() for _ in range(count)]
            for arch in self.genes.decode(self.genes.unpack_all(packed)):
                self.evaluators.submit(arch)

    def ask(self) -> None:
        """Takes what islands answered, and asks idle ones while there is less to do than there are evaluators."""
        for i, member in enumerate(self.members):
            if not member.port.busy:
                continue
            try:
                answer = member.port.answer()
            except Lost:
                heard = {individual.packed for individual in member.told}
                member.heard, member.dry = 0, False
                member.avoid = [packed for packed in (*self.worth, *self.in_hand) if packed not in heard]
                continue
            if answer:
                member.dry = not answer[0]
                for packed in answer[0]:
                    self._take(packed, i)
        lacking = self.evaluators.workers + 1 - len(self.queue)
        idle = [member for member in self.members if not member.port.busy]
        for member in sorted(idle, key=lambda m: len(m.told)):
            if lacking <= 0 or self.left <= 0:
                return
            fresh = member.told[member.heard :]
            if member.dry and not fresh:
                continue
            count = min(max(self.least, self.evaluators.workers // 2), self.left)
            member.port.call("turn", fresh, member.avoid, count)
            member.heard, member.avoid, member.dry = len(member.told), [], False
            lacking -= count

    def listen(self) -> None:
        """Notes what was measured and tells who waits for it."""
        thinking = any(member.port.busy for member in self.members)
        if len(self.in_hand) == len(self.queue):  # nobody is at anything
            time.sleep(0.01 if thinking else 0)
            return
        measured = self.evaluators.finished(0.02 if thinking else 1.0)
        if not measured:
            return
        self.history += measured
        for individual in self._individuals(measured):
            self.worth[individual.packed] = individual
            for i in self.in_hand.pop(individual.packed):
                self.members[i].told.append(individual)
        self.tell_keeper(measured)

    def migrate(self, count: int) -> None:
        """Tells every island of the best of the one before it."""
        directions = [o.direction for o in self.objectives]
        best = [elites(member.told, directions, count) for member in self.members]
        for i, member in enumerate(self.members):
            heard = {individual.packed for individual in member.told}
            member.told += [individual for individual in best[i - 1] if individual.packed not in heard]

    def _take(self, packed: Packed, i: int) -> None:
        """What island `i` asked for: to be evaluated, if nobody did or does."""
        if packed in self.worth:
            self.members[i].told.append(self.worth[packed])
        elif packed in self.in_hand:
            self.in_hand[packed].append(i)
        elif self.left > 0:
            self.in_hand[packed] = [i]
            self.queue.append(packed)
            for n, member in enumerate(self.members):
                if n != i:
                    member.avoid.append(packed)

    def _individuals(self, measured: Sequence[Measured]) -> list[Individual]:
        packed = self.genes.pack_all(self.genes.encode([m.arch for m in measured]))
        rows = values(self.objectives, measured).tolist()
        return [Individual(p, tuple(row)) for p, row in zip(packed, rows, strict=True)]
