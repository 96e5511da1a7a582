"""Search whose objectives take seconds to measure: Optuna's samplers ask, somebody evaluates, they are told.

Several islands, each a population of its own, ask for a generation each; after some generations their best
migrate in a ring. What an island does in one generation is a pure function (`next_generation`), which may run
anywhere, in a Ray task for one, and run again when its worker dies. All randomness is named, so one seed
gives one result however long evaluations take and wherever they run.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, create_trial

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.front import Front, crowding, front, nondominated, ranks
from search.objective import Direction, Objective, minimised, values

Evaluate = Callable[[Sequence[Arch]], Sequence[Measured]]  # a table, a predictor, or Ray actors
Packed = tuple[int, ...]  # an arch as `Genes.pack` makes it

ALGORITHMS = ("default", "nsga2", "random")


@dataclass(frozen=True, slots=True)
class Individual:
    """An arch and the values it got, in the order of the objectives."""

    packed: Packed
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """All that an island needs to know to ask for its next generation."""

    space: Space
    directions: tuple[Direction, ...]
    pool: tuple[Individual, ...]  # the parents and children of the last generation, and migrants
    population: int  # how many of the pool become parents
    asked: int
    taken: frozenset[Packed]  # what was evaluated before and must not be asked for again
    seed: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What an island answers: the parents that it chose, and the archs to evaluate."""

    parents: tuple[Individual, ...]
    asked: tuple[Packed, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Every new observation in order, and the non-dominated of all that is known."""

    history: tuple[Measured, ...]
    front: Front


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluate: Evaluate,
    *,
    algorithm: str = "default",
    evaluations: int,
    batch: int,
    seed: int,
    islands: int = 1,
    migrate_every: int = 3,
    known: Sequence[Measured] = (),
    run_islands: Callable[[Callable[[Request], Generation], Iterable[Request]], Iterable[Generation]] = map,
) -> Result:
    """Evaluates at most `evaluations` archs, `batch` a generation, and never one twice.

    The smallest and the largest arch are in the first generation; `known` observations are in it too and cost
    nothing. algorithm: `nsga2` (the default; doi:10.1109/4235.996017, as Optuna has it) or `random`.
    run_islands: calls a function with each of several arguments, like `map`.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    state = _State(space, tuple(objectives), evaluate, evaluations, known)
    ask = random_generation if algorithm == "random" else next_generation
    first = [space.smallest(), space.largest()]
    if not known:
        first += _distinct(space, min(batch, evaluations) - 2, random.Random(f"{seed}/first"))
    state.evaluate([state.genes.pack(row) for row in state.genes.encode(first)])
    pools = [list(state.seen.values())[i::islands] for i in range(islands)]
    generation = 0
    while state.left > 0:
        generation += 1
        shares = [batch // islands + (i < batch % islands) for i in range(islands)]
        requests = [
            Request(
                space,
                tuple(o.direction for o in objectives),
                tuple(pool),
                population=max(2, min(share, len(pool))),
                asked=share,
                taken=frozenset(state.seen),
                seed=f"{seed}/island{i}/generation{generation}",
            )
            for i, (pool, share) in enumerate(zip(pools, shares, strict=True))
        ]
        answers = list(run_islands(ask, requests))
        state.evaluate([packed for answer in answers for packed in answer.asked])
        if not any(answer.asked for answer in answers):
            break  # the space is exhausted
        told = [[*a.parents, *(state.seen[p] for p in a.asked if p in state.seen)] for a in answers]
        pools = _migrated(told, objectives) if generation % migrate_every == 0 else told
    return Result(tuple(state.history), front(space.name, objectives, [*known, *state.history]))


class _State:
    """What was observed so far, by packed arch."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        evaluate: Evaluate,
        evaluations: int,
        known: Sequence[Measured],
    ) -> None:
        self.genes = Genes(space)
        self.objectives = objectives
        self.ask = evaluate
        self.left = evaluations
        self.seen: dict[Packed, Individual] = {}
        self.history: list[Measured] = []
        self._note(known)

    def evaluate(self, asked: Sequence[Packed]) -> None:
        """Has the new ones among `asked` evaluated, as far as the budget goes."""
        new = [packed for packed in dict.fromkeys(asked) if packed not in self.seen][: self.left]
        if not new:
            return
        measured = list(self.ask(self.genes.decode(np.array([self.genes.unpack(packed) for packed in new]))))
        assert len(measured) == len(new), f"asked for {len(new)} archs, got {len(measured)}"
        self.left -= len(new)
        self.history += measured
        self._note(measured)

    def _note(self, measured: Sequence[Measured]) -> None:
        rows = values(self.objectives, measured)
        for genes, row in zip(self.genes.encode([m.arch for m in measured]), rows, strict=True):
            packed = self.genes.pack(genes)
            self.seen[packed] = Individual(packed, tuple(row.tolist()))


def next_generation(request: Request) -> Generation:
    """One generation of NSGA-II by Optuna: choose parents from the pool, cross and mutate them.

    The study lives only here, in memory: parents and children of the last generation are all that NSGA-II's
    next step depends on, so a short-lived study takes the same step as one that holds the whole history.
    """
    genes = Genes(request.space)
    breeder = _Breeder(genes, request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # child_generation_strategy
        sampler = NSGAIISampler(population_size=request.population, seed=0, child_generation_strategy=breeder)
    study = _quiet_study(request.directions, sampler)
    names = {f"genes{i}": IntDistribution(0, max(1, size - 1)) for i, size in enumerate(genes.words)}
    for individual in request.pool:
        study.add_trial(
            create_trial(
                params=dict(zip(names, individual.packed, strict=True)),
                distributions=dict(names),
                values=list(individual.values),
                system_attrs={sampler._get_generation_key(): 0},  # optuna is pinned for this (pyproject.toml)
            )
        )
    asked = []
    for _ in range(request.asked):
        trial = study.ask()
        packed = tuple(trial.suggest_int(name, d.low, d.high) for name, d in names.items())
        if packed in breeder.taken_before:
            break  # the breeder found nothing new: the space is nearly exhausted
        breeder.taken_before.add(packed)
        asked.append(packed)
    trials = sampler.get_parent_population(study, 1)
    parents = tuple(
        Individual(tuple(int(t.params[name]) for name in names), tuple(float(v) for v in t.values)) for t in trials
    )
    return Generation(parents, tuple(asked))


def _quiet_study(directions: Sequence[Direction], sampler: NSGAIISampler) -> optuna.Study:
    """A study in memory, without the line that optuna logs of each."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=list(directions), sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


def random_generation(request: Request) -> Generation:
    """Archs drawn uniformly; the baseline that any search must beat."""
    genes, rng = Genes(request.space), random.Random(request.seed)
    asked: dict[Packed, None] = {}
    for _ in range(100 * request.asked):
        if len(asked) == request.asked:
            break
        packed = genes.pack(genes.encode([request.space.sample(rng)])[0])
        if packed not in request.taken:
            asked[packed] = None
    return Generation(request.pool[: request.population], tuple(asked))


class _Breeder:
    """Optuna's child generation on whole archs: tournament, uniform crossover, mutation, until the child is new."""

    crossover_probability = 0.9
    attempts = 200

    def __init__(self, genes: Genes, request: Request) -> None:
        self.genes = genes
        self.rng = np.random.default_rng([*request.seed.encode()])
        self.taken_before = set(request.taken)
        self.signs = np.array([1.0 if d == "minimize" else -1.0 for d in request.directions])
        self.parents = np.zeros((0, len(genes.sizes_G)), dtype=np.int64)

    def __call__(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution], parents: list[FrozenTrial]
    ) -> dict[str, Any]:
        if not len(self.parents):  # the same for every child of a generation
            self._rank(parents)
        packed: Packed = ()
        for attempt in range(self.attempts):
            # The longer nothing new is found the more genes change, up to a wholly random arch.
            packed = self.genes.pack(self._child(changes=1 + attempt // 10))
            if packed not in self.taken_before:
                break
        return {f"genes{i}": number for i, number in enumerate(packed)}

    def _rank(self, parents: list[FrozenTrial]) -> None:
        self.parents = np.array([self.genes.unpack([int(n) for n in trial.params.values()]) for trial in parents])
        points = np.array([trial.values for trial in parents]) * self.signs
        rank, crowd = ranks(points), np.zeros(len(parents))
        for r in np.unique(rank):
            crowd[rank == r] = crowding(points[rank == r])
        self.better = list(zip(rank.tolist(), (-crowd).tolist(), strict=True))

    def _child(self, changes: int) -> np.ndarray:
        rng, sizes = self.rng, self.genes.sizes_G
        child = self._winner()
        if rng.random() < self.crossover_probability:
            child = np.where(rng.random(len(sizes)) < 0.5, child, self._winner())
        change = rng.random(len(sizes)) < changes / len(sizes)
        child = np.where(change, rng.integers(0, sizes), child)
        return self.genes.canonical(child[None])[0]

    def _winner(self) -> np.ndarray:
        """Of two the one of lower rank, then the lonelier one."""
        one, other = self.rng.integers(0, len(self.parents), 2)
        return self.parents[other if self.better[other] < self.better[one] else one]


def _migrated(pools: list[list[Individual]], objectives: Sequence[Objective]) -> list[list[Individual]]:
    """Every island gets the best of the one before it, spread over their front."""
    best = [_elites(pool, objectives) for pool in pools]
    return [[*pool, *(i for i in best[n - 1] if i not in pool)] for n, pool in enumerate(pools)]


def _elites(pool: list[Individual], objectives: Sequence[Objective]) -> list[Individual]:
    points = minimised(objectives, np.array([individual.values for individual in pool]))
    elite = [pool[i] for i in np.lexsort(points.T) if nondominated(points)[i]]
    count = min(len(elite), max(2, len(pool) // 5))
    return [elite[round(i)] for i in np.linspace(0, len(elite) - 1, count)]


def _distinct(space: Space, count: int, rng: random.Random) -> list[Arch]:
    archs: dict[str, Arch] = {arch.key: arch for arch in (space.smallest(), space.largest())}
    for _ in range(100 * count):
        if len(archs) >= count + 2:
            break
        arch = space.sample(rng)
        archs.setdefault(arch.key, arch)
    return list(archs.values())[2:]
