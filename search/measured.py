"""Search whose objectives take seconds to measure: islands propose archs, a callable evaluates them.

There are several islands, each with a population of its own, which propose a generation each; every few generations their
best archs migrate in a ring. One generation of an island is a pure function (`next_generation`), which may run anywhere,
such as in a Ray task, and is repeated if its worker dies. All randomness comes from named streams, so one seed
gives one result, independent of the duration and the place of evaluations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.errors import ProblemError
from search.front import Front, front
from search.islands.breeder import Individual, Packed, elites, within
from search.islands.guided import Guided
from search.islands.island import Island
from search.islands.port import AskTell
from search.islands.samplers import SAMPLERS
from search.islands.uniform import Uniform
from search.objective import Objective, beyond_bounds, values

Evaluate = Callable[[Sequence[Arch]], Sequence[Measured]]  # a table, a predictor, or Ray actors


def evolved(space: Space, objectives: Sequence[Objective], population: int, seed: str, sampler: str) -> AskTell:
    """An island with the survival selection of the sampler of this name."""
    directions = [o.direction for o in objectives]
    return Island(space, directions, algorithm=sampler, population=population, seed=seed, beyond=beyond_bounds(objectives))


def guided(space: Space, objectives: Sequence[Objective], population: int, seed: str) -> AskTell:
    """An island that a predictor guides; it has no population."""
    return Guided(space, objectives, seed)


def uniform(space: Space, objectives: Sequence[Objective], population: int, seed: str) -> AskTell:
    """An island that samples uniformly; it has no population."""
    return Uniform(space, seed)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A measured search's algorithm: makes its islands from a space, objectives, a population size and a seed.

    alone: it learns from all observations, so there is one island, from which large batches are requested.
    """

    build: Callable[[Space, Sequence[Objective], int, str], AskTell]
    alone: bool = False


ALGORITHMS: dict[str, Algorithm] = {
    "default": Algorithm(partial(evolved, sampler="nsga2")),
    **{name: Algorithm(partial(evolved, sampler=name)) for name in SAMPLERS},
    "guided": Algorithm(guided, alone=True),
    "random": Algorithm(uniform),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of this name; raises a `ProblemError` for an unknown one."""
    if name not in ALGORITHMS:
        raise ProblemError(f"no algorithm is called {name!r}; there are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


@dataclass(frozen=True, slots=True)
class Request:
    """The input from which an island proposes its next generation."""

    space: Space
    objectives: tuple[Objective, ...]
    algorithm: Algorithm
    pool: tuple[Individual, ...]  # the parents and offspring of the last generation, and migrants
    population: int  # the number of parents selected from the pool
    asked: int
    seen: tuple[Individual, ...]  # all evaluated individuals, which must not be proposed again
    seed: str


@dataclass(frozen=True, slots=True)
class Generation:
    """The output of an island: the parents that it selected, and the archs to evaluate."""

    parents: tuple[Individual, ...]
    asked: tuple[Packed, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """All new observations in order, and the non-dominated of all known ones."""

    history: tuple[Measured, ...]
    front: Front


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluate: Evaluate,
    *,
    algorithm: str = "default",
    evaluations: int | Callable[[], int],
    batch: int,
    seed: int,
    islands: int = 1,
    migrate_every: int = 3,
    known: Sequence[Measured] = (),
    run_islands: Callable[[Callable[[Request], Generation], Iterable[Request]], Iterable[Generation]] = map,
) -> Result:
    """Evaluates at most `evaluations` archs, `batch` in a generation, and none twice.

    The smallest and the largest arch are in the first generation; `known` observations are in it too and do not count as
    evaluations. evaluations: a number, or a function whose result may change while the search runs.
    algorithm: one of `ALGORITHMS`: `nsga2` (the default; doi:10.1109/4235.996017) or `nsga3`
    (doi:10.1109/TEVC.2013.2281535), with Optuna's survival selection; `sms-emoa` or `spea2`, with that of
    search/selection.py; `guided` by a predictor (search/islands/guided.py), which has one island; or `random`.
    run_islands: calls a function with each of several arguments, like `map`.
    Raises a `ProblemError`, which is a `ValueError`, for an unknown algorithm.
    """
    chosen = algorithm_named(algorithm)
    budget = evaluations if callable(evaluations) else lambda: evaluations
    state = _State(space, tuple(objectives), evaluate, budget, known)
    islands = 1 if chosen.alone else islands
    first = [space.smallest(), space.largest()]
    if not known:
        first += distinct(space, min(batch, budget()) - 2, random.Random(f"{seed}/first"))
    state.evaluate([state.genes.pack(row) for row in state.genes.encode(first)])
    pools = [list(state.seen.values())[i::islands] for i in range(islands)]
    generation = 0
    while state.left > 0:
        generation += 1
        shares = [batch // islands + (i < batch % islands) for i in range(islands)]
        requests = [
            Request(
                space,
                tuple(objectives),
                chosen,
                tuple(pool),
                population=max(2, min(share, len(pool))),
                asked=share,
                seen=tuple(state.seen.values()),
                seed=f"{seed}/island{i}/generation{generation}",
            )
            for i, (pool, share) in enumerate(zip(pools, shares, strict=True))
        ]
        answers = list(run_islands(next_generation, requests))
        state.evaluate([packed for answer in answers for packed in answer.asked])
        if not any(answer.asked for answer in answers):
            break  # the space is exhausted
        pools = [[*a.parents, *(state.seen[p] for p in a.asked if p in state.seen)] for a in answers]
        if generation % migrate_every == 0:
            pools = _migrated(pools, objectives)
    return Result(tuple(state.history), front(space.name, objectives, [*known, *state.history]))


class _State:
    """All observations so far, by packed arch."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        evaluate: Evaluate,
        budget: Callable[[], int],
        known: Sequence[Measured],
    ) -> None:
        self.genes = Genes(space)
        self.objectives = objectives
        self.measure = evaluate
        self.budget = budget
        self.seen: dict[Packed, Individual] = {}
        self.history: list[Measured] = []
        self._note(known)

    @property
    def left(self) -> int:
        return max(0, self.budget() - len(self.history))

    def evaluate(self, asked: Sequence[Packed]) -> None:
        """Evaluates the new archs among `asked`, up to the remaining budget."""
        new = [packed for packed in dict.fromkeys(asked) if packed not in self.seen][: self.left]
        if not new:
            return
        measured = list(self.measure(self.genes.decode(np.array([self.genes.unpack(packed) for packed in new]))))
        assert len(measured) == len(new), f"asked for {len(new)} archs, got {len(measured)}"
        self.history += measured
        self._note(measured)

    def _note(self, measured: Sequence[Measured]) -> None:
        rows = values(self.objectives, measured)
        for genes, row in zip(self.genes.encode([m.arch for m in measured]), rows, strict=True):
            packed = self.genes.pack(genes)
            self.seen[packed] = Individual(packed, tuple(row.tolist()))


def next_generation(request: Request) -> Generation:
    """The next generation of an island, computed in memory from a `Request`.

    The next step of an evolutionary algorithm depends only on the parents and offspring of the last generation, so
    a short-lived study takes the same step as one with the whole history.
    """
    algorithm = request.algorithm
    island = algorithm.build(request.space, request.objectives, request.population, request.seed)
    island.avoid(individual.packed for individual in request.seen)
    island.tell(request.seen if algorithm.alone else request.pool)
    asked = island.ask(request.asked)
    return Generation(tuple(island.parents), tuple(asked))


def _migrated(pools: list[list[Individual]], objectives: Sequence[Objective]) -> list[list[Individual]]:
    """Adds to every island the best archs of the previous one, spread over their front."""
    directions = [o.direction for o in objectives]
    best = [elites(within(objectives, pool), directions, max(2, len(pool) // 5)) for pool in pools]
    return [[*pool, *(i for i in best[n - 1] if i not in pool)] for n, pool in enumerate(pools)]


def distinct(space: Space, count: int, rng: random.Random) -> list[Arch]:
    """At most `count` random archs, all distinct and none of them an extreme."""
    archs: dict[str, Arch] = {arch.key: arch for arch in (space.smallest(), space.largest())}
    for _ in range(100 * count):
        if len(archs) >= count + 2:
            break
        arch = space.sample(rng)
        archs.setdefault(arch.key, arch)
    return list(archs.values())[2:]
