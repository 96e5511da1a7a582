"""One population that an Optuna study in memory evolves: asked for archs in batches, told what they are worth.

A trial's parameters are the few numbers of a packed arch instead of one a gene, the search space is fixed, and
children are bred many at a time: plain Optuna looks at every finished trial for every new one and copies
every parameter, which makes it slower with every trial.
Shape letters in this file: B archs, G genes, P parents.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ofa.genes import Genes
from ofa.space import Space
from search.front import crowding, nondominated, ranks
from search.islands.samplers import SMSEMOASampler, SPEA2Sampler
from search.objective import Direction

Packed = tuple[int, ...]  # an arch as `Genes.pack` makes it
Select = Callable[[optuna.Study, list[FrozenTrial]], list[FrozenTrial]]  # the population that survives

RENEWED = 0.25  # of the population, as so many trials are finished the parents are chosen anew

SAMPLERS: dict[str, type[NSGAIISampler | NSGAIIISampler]] = {
    "nsga2": NSGAIISampler,
    "nsga3": NSGAIIISampler,
    "sms-emoa": SMSEMOASampler,
    "spea2": SPEA2Sampler,
}


@dataclass(frozen=True, slots=True)
class Individual:
    """An arch and the values it got, in the order of the objectives."""

    packed: Packed
    values: tuple[float, ...]


def quiet_study(directions: Sequence[Direction], sampler: BaseSampler) -> optuna.Study:
    """A study in memory, without the line that optuna logs of each."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=list(directions), sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


class Word(IntDistribution):
    """The values of one number of a packed arch; never changed, hence never copied (Optuna copies what it returns)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Word:
        return self


def words(genes: Genes) -> dict[str, BaseDistribution]:
    """The parameters of a trial."""
    return {f"genes{i}": Word(0, max(1, size - 1)) for i, size in enumerate(genes.words)}


def values_of(individual: Individual, names: Iterable[str]) -> dict[str, int]:
    return dict(zip(names, individual.packed, strict=True))


def packed_of(trial: FrozenTrial) -> Packed:
    return tuple(trial.params.values())


class Breeder:
    """Children of a population: binary tournament, uniform crossover, mutation, until they are new."""

    crossover_probability = 0.9
    attempts = 200

    def __init__(self, genes: Genes, directions: Sequence[Direction], rng: np.random.Generator) -> None:
        self.genes, self.rng = genes, rng
        self.signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])

    def adopt(self, parents: Sequence[Individual]) -> None:
        """Makes these the parents of all children to come."""
        self.parents_PG = self.genes.unpack_all([parent.packed for parent in parents])
        points = np.array([parent.values for parent in parents]) * self.signs
        rank, crowd = ranks(points), np.zeros(len(parents))
        for r in np.unique(rank):
            crowd[rank == r] = crowding(points[rank == r])
        order = np.lexsort((-crowd, rank))
        self.place_P = np.empty(len(parents), dtype=np.int64)
        self.place_P[order] = np.arange(len(parents))

    def children(self, count: int, taken: set[Packed]) -> list[Packed]:
        """At most `count` distinct new archs; they are added to `taken`. Fewer only where the space is nearly exhausted."""
        found: list[Packed] = []
        for attempt in range(self.attempts):
            # The longer nothing new is found the more genes change, up to wholly random archs.
            for packed in self.genes.pack_all(self._bred(count - len(found), changes=1 + attempt // 10)):
                if packed not in taken:
                    taken.add(packed)
                    found.append(packed)
            if len(found) == count:
                return found
        for packed in self.genes.pack_all(self.genes.random(100 * count, self.rng)):
            if packed not in taken and len(found) < count:
                taken.add(packed)
                found.append(packed)
        return found

    def _bred(self, count: int, changes: int) -> np.ndarray:
        """A stage that grows gets random blocks, not always the smallest: unused genes are drawn anew before."""
        rng, sizes_G, parents_PG = self.rng, self.genes.sizes_G, self.parents_PG
        shape = (count, len(sizes_G))
        mother_BG, father_BG = (self.genes.filled(parents_PG[self._winners(count)], rng) for _ in range(2))
        from_father = (rng.random(shape) < 0.5) & (rng.random((count, 1)) < self.crossover_probability)
        child_BG = np.where(from_father, father_BG, mother_BG)
        change = rng.random(shape) < changes / len(sizes_G)
        return self.genes.canonical(np.where(change, rng.integers(0, sizes_G, shape), child_BG))

    def _winners(self, count: int) -> np.ndarray:
        """Of two each the one of lower rank, then the lonelier one."""
        one, other = self.rng.integers(0, len(self.parents_PG), (2, count))
        return np.where(self.place_P[one] <= self.place_P[other], one, other)


class PackedSampler(BaseSampler):
    """Evolves packed archs; parents are chosen anew, `population` of them, whenever some more trials are finished.

    select: which of the last parents and the newly finished trials survive (of NSGA-II, SMS-EMOA, ...). Unlike
    Optuna's own samplers, whatever was finished since the last generation counts, however late it was asked for.
    """

    def __init__(self, genes: Genes, directions: Sequence[Direction], select: Select, population: int, seed: str) -> None:
        self.genes, self.select, self.population = genes, select, population
        self.words = words(genes)
        self.rng = np.random.default_rng([*seed.encode()])
        self.breeder = Breeder(genes, directions, self.rng)
        self.taken: set[Packed] = set()
        self.parents: list[int] = []  # by number of their trial
        self.finished: list[int] = []  # since the parents were chosen
        self.children: list[Packed] = []
        self.asked: Packed = ()  # the last; a trial gives only copies of its parameters, which take longer than all else

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.words

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self.ready(study), "every arch of the space was asked for"
        self.asked = self.children.pop()
        return dict(zip(self.words, self.asked, strict=True))

    def ready(self, study: optuna.Study) -> bool:
        """Whether there is an arch left to ask for."""
        if len(self.finished) >= (RENEWED if self.parents else 1) * self.population:
            self._next_generation(study)
        if not self.children:
            self.children = self._bred(self.population)[::-1]
        return bool(self.children)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is no part of a packed arch")

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if state == TrialState.COMPLETE:
            self.finished.append(trial.number)

    def _next_generation(self, study: optuna.Study) -> None:
        trials = study.get_trials(deepcopy=False)
        pool = [trials[number] for number in (*self.parents, *self.finished)]
        survivors = self.select(study, pool)
        self.parents, self.finished = [trial.number for trial in survivors], []
        self.breeder.adopt([Individual(packed_of(trial), tuple(trial.values)) for trial in survivors])
        for packed in self.children:  # bred from parents that are no more
            self.taken.discard(packed)
        self.children = []

    def _bred(self, count: int) -> list[Packed]:
        if self.parents:
            return self.breeder.children(count, self.taken)
        found = dict.fromkeys(p for p in self.genes.pack_all(self.genes.random(10 * count, self.rng)) if p not in self.taken)
        first = list(found)[:count]
        self.taken.update(first)
        return first


def survival(algorithm: str, population: int, objectives: int) -> Select:
    """How the Optuna sampler of this name selects; optuna is pinned for this (pyproject.toml)."""
    settings: dict[str, Any] = {"dividing_parameter": divisions(population, objectives)} if algorithm == "nsga3" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[algorithm](population_size=population, seed=0, **settings)._elite_population_selection_strategy


def divisions(population: int, objectives: int) -> int:
    """Of every axis, so that NSGA-III has as many reference points as a population can hold (Optuna's 3 are few)."""
    found = 1
    while math.comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found


class Island:
    """A population of its own. What it asks for it never asks for again, nor what it was told that others evaluated."""

    def __init__(self, space: Space, directions: Sequence[Direction], *, algorithm: str, population: int, seed: str) -> None:
        self.genes = Genes(space)
        select = survival(algorithm, population, len(directions))
        self.sampler = PackedSampler(self.genes, directions, select, population, seed)
        self.study = quiet_study(directions, self.sampler)
        self.directions = tuple(directions)
        self.open: dict[Packed, int] = {}  # archs asked for, by number of their trial

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        asked: list[Packed] = []
        for _ in range(count):
            if not self.sampler.ready(self.study):
                break
            trial = self.study.ask(self.sampler.words)
            self.open[self.sampler.asked] = trial.number
            asked.append(self.sampler.asked)
        return asked

    def tell(self, told: Sequence[Individual]) -> None:
        """What archs are worth: those that it asked for, and others that it may learn from."""
        for individual in told:
            number = self.open.pop(individual.packed, None)
            if number is not None:
                self.study.tell(number, individual.values)
                continue
            self.sampler.taken.add(individual.packed)
            self.sampler.finished.append(len(self.study.get_trials(deepcopy=False)))
            params = values_of(individual, self.sampler.words)
            self.study.add_trial(
                create_trial(params=params, distributions=self.sampler.words, values=list(individual.values))
            )

    @property
    def parents(self) -> list[Individual]:
        """The population that the latest children come from."""
        trials = self.study.get_trials(deepcopy=False)
        return [Individual(packed_of(trials[n]), tuple(trials[n].values)) for n in self.sampler.parents]

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Archs that others have in hand."""
        self.sampler.taken.update(taken)

    def elites(self, count: int) -> list[Individual]:
        """At most `count` of its best, spread over their front."""
        trials = self.study.get_trials(deepcopy=False)
        numbers = [*self.sampler.parents, *self.sampler.finished]
        return elites([Individual(packed_of(trials[n]), tuple(trials[n].values)) for n in numbers], self.directions, count)


def elites(pool: Sequence[Individual], directions: Sequence[Direction], count: int) -> list[Individual]:
    """At most `count` of the non-dominated, spread over their front."""
    if not pool:
        return []
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    points = np.array([individual.values for individual in pool]) * signs
    kept = nondominated(points)
    best = [pool[i] for i in np.lexsort(points.T) if kept[i]]
    return [
        best[i] for i in dict.fromkeys(np.linspace(0, len(best) - 1, min(count, len(best))).round().astype(int).tolist())
    ]
