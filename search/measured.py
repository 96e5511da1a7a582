"""Search whose objectives take seconds to measure: islands propose archs, a callable evaluates them.

There are several islands, each with a population of its own, which propose a generation each; every few generations their
best archs migrate in a ring. One generation of an island is a pure function (`next_generation`), which may run anywhere,
such as in a Ray task, and is repeated if its worker dies. All randomness comes from named streams, so one seed
gives one result, independent of the duration and the place of evaluations.

    search(space, objectives, evaluate, algorithm="optuna:TPESampler", evaluations=300, batch=20, seed=1)

runs a sampler of Optuna instead of one of `ALGORITHMS`, unchanged.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.errors import ProblemError
from search.front import Front, front
from search.islands import external
from search.islands.breeder import Individual, Packed, elites, within
from search.islands.guided import Guided
from search.islands.island import Island
from search.islands.port import AskTell
from search.islands.sampled import Sampled
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


def sampled(
    space: Space, objectives: Sequence[Objective], population: int, seed: str, sampler: str, settings: Mapping[str, Any]
) -> Sampled:
    """An island with this sampler of Optuna; the seed is the sampler's, if it is a number."""
    number = external.seed_of(seed)
    made = external.sampler(sampler, settings, population, number)
    return Sampled(space, objectives, made, number)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A measured search's algorithm: makes its islands from a space, objectives, a population size and a seed.

    alone: it learns from all observations, so there is one island, from which large batches are requested.
    lasting: an island's study continues from one generation to the next, and proposes the first one too.
    """

    build: Callable[[Space, Sequence[Objective], int, str], AskTell]
    alone: bool = False
    lasting: bool = False


ALGORITHMS: dict[str, Algorithm] = {
    "default": Algorithm(partial(evolved, sampler="nsga2")),
    **{name: Algorithm(partial(evolved, sampler=name)) for name in SAMPLERS},
    "guided": Algorithm(guided, alone=True),
    "random": Algorithm(uniform),
}
ALTERNATIVES = f"there are {', '.join(ALGORITHMS)}, and Optuna's samplers, such as optuna:TPESampler"


def algorithm_named(name: str, sampler: Mapping[str, Any] | None = None) -> Algorithm:
    """The algorithm of this name: one of `ALGORITHMS`, or `optuna:` and the name of a sampler (search/islands/external.py).

    sampler: keyword arguments of an Optuna sampler. Raises a `ProblemError` for an unknown algorithm.
    """
    if name.startswith(external.PREFIX):
        return Algorithm(partial(sampled, sampler=name, settings=dict(sampler or {})), lasting=True)
    if name not in ALGORITHMS:
        raise ProblemError(f"no algorithm is called {name!r}; {ALTERNATIVES}")
    if sampler:
        raise ProblemError(f"the algorithm {name!r} has no settings; only a sampler such as optuna:TPESampler has")
    return ALGORITHMS[name]


def check_algorithm(name: str, sampler: Mapping[str, Any], population: int) -> None:
    """Raises the `ProblemError` of an algorithm that is not there or cannot be used with these settings."""
    algorithm_named(name, sampler)
    if name.startswith(external.PREFIX):
        external.check(name, sampler, population)


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
    first: tuple[Packed, ...] = ()  # archs that a lasting island proposes before others
    island: Sampled | None = None  # a lasting island as its last generation left it


@dataclass(frozen=True, slots=True)
class Generation:
    """The output of an island: the parents that it selected, and the archs to evaluate."""

    parents: tuple[Individual, ...]
    asked: tuple[Packed, ...]
    island: Sampled | None = None  # a lasting island, to be continued


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
    sampler: Mapping[str, Any] | None = None,
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
    search/selection.py; `guided` by a predictor (search/islands/guided.py), which has one island; or `random`. Or a sampler
    of Optuna, such as `optuna:TPESampler`, which proposes the first generation too. sampler: its keyword arguments.
    run_islands: calls a function with each of several arguments, like `map`.
    Raises a `ProblemError`, which is a `ValueError`, for an unknown algorithm.
    """
    chosen = algorithm_named(algorithm, sampler)
    budget = evaluations if callable(evaluations) else lambda: evaluations
    state = _State(space, tuple(objectives), evaluate, budget, known)
    islands = 1 if chosen.alone else islands
    first = [space.smallest(), space.largest()]
    if not known and not chosen.lasting:
        first += distinct(space, min(batch, budget()) - 2, random.Random(f"{seed}/first"))
    packed_first = [state.genes.pack(row) for row in state.genes.encode(first)]
    if not chosen.lasting:
        state.evaluate(packed_first)
    fresh = [packed for packed in dict.fromkeys(packed_first) if packed not in state.seen]
    pools = [list(state.seen.values())[i::islands] for i in range(islands)]
    told: list[list[Individual]] = [[] for _ in range(islands)]  # by lasting islands, in all generations
    kept: list[Sampled | None] = [None] * islands
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
                population=share if chosen.lasting else max(2, min(share, len(pool))),
                asked=share,
                seen=tuple(state.seen.values()),
                seed=_seed(seed, i, generation, chosen.lasting),
                first=tuple(fresh[i::islands]) if generation == 1 else (),
                island=kept[i],
            )
            for i, (pool, share) in enumerate(zip(pools, shares, strict=True))
        ]
        answers = list(run_islands(next_generation, requests))
        state.evaluate([packed for answer in answers for packed in answer.asked])
        if not any(answer.asked for answer in answers):
            break  # the space is exhausted
        told = [[*before, *pool] for before, pool in zip(told, pools, strict=True)] if chosen.lasting else told
        pools = [[*a.parents, *(state.seen[p] for p in a.asked if p in state.seen)] for a in answers]
        kept = [answer.island for answer in answers]
        if generation % migrate_every == 0:
            pools = _migrated(pools, told, objectives)
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
    if algorithm.lasting:
        return _continued(request)
    island = algorithm.build(request.space, request.objectives, request.population, request.seed)
    island.avoid(individual.packed for individual in request.seen)
    island.tell(request.seen if algorithm.alone else request.pool)
    asked = island.ask(request.asked)
    return Generation(tuple(island.parents), tuple(asked))


def _continued(request: Request) -> Generation:
    """The next generation of a lasting island, which continues in a copy."""
    island: AskTell | None = copy.deepcopy(request.island)
    if island is None:
        island = request.algorithm.build(request.space, request.objectives, request.population, request.seed)
    assert isinstance(island, Sampled)
    island.recall(request.seen)
    island.tell(request.pool)
    island.enqueue(request.first)
    asked = island.ask(request.asked)
    return Generation((), tuple(asked), island)


def _seed(seed: int, island: int, generation: int, lasting: bool) -> str:
    """The seed of an island's next generation; the first lasting island has the search's own."""
    if lasting:
        return f"{seed}/island{island}" if island else str(seed)
    return f"{seed}/island{island}/generation{generation}"


def _migrated(
    pools: list[list[Individual]], told: list[list[Individual]], objectives: Sequence[Objective]
) -> list[list[Individual]]:
    """Adds to every island the best archs of the previous one, spread over their front.

    told: what islands already have beside their pools.
    """
    directions = [o.direction for o in objectives]
    whole = [[*before, *pool] for before, pool in zip(told, pools, strict=True)]
    best = [
        elites(within(objectives, both), directions, max(2, len(pool) // 5)) for both, pool in zip(whole, pools, strict=True)
    ]
    return [[*pool, *(i for i in best[n - 1] if i not in whole[n])] for n, pool in enumerate(pools)]


def distinct(space: Space, count: int, rng: random.Random) -> list[Arch]:
    """At most `count` random archs, all distinct and none of them an extreme."""
    archs: dict[str, Arch] = {arch.key: arch for arch in (space.smallest(), space.largest())}
    for _ in range(100 * count):
        if len(archs) >= count + 2:
            break
        arch = space.sample(rng)
        archs.setdefault(arch.key, arch)
    return list(archs.values())[2:]
