"""One population in an Optuna study in memory: `ask` proposes archs, `tell` adds their values.

Optuna provides the study, its trials and, for NSGA-II and NSGA-III, the survival selection; the sampler, tournaments,
crossover and mutation (search/islands/breeder.py) and the selections of SMS-EMOA and SPEA2 (search/selection.py) are ours.
A trial's parameters are the few numbers of a packed arch instead of one for each gene, the search space is fixed, and
offspring are bred many at a time: plain Optuna reads every finished trial for every new one and copies
every parameter, which makes it slower with every trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ofa.genes import Genes
from ofa.space import Space
from search.islands.breeder import Breeder, Individual, Packed, elites
from search.islands.samplers import Select, survival
from search.objective import Direction

RENEWED = 0.25  # parents are selected anew after this share of the population in finished trials


def quiet_study(
    directions: Sequence[Direction], sampler: BaseSampler, storage: BaseStorage | None = None, name: str | None = None
) -> optuna.Study:
    """A study, in memory if there is no storage, without Optuna's log line for each."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=list(directions), sampler=sampler, storage=storage, study_name=name)
    finally:
        optuna.logging.set_verbosity(verbosity)


class Word(IntDistribution):
    """The distribution of one number of a packed arch; immutable, hence never copied (Optuna copies others)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Word:
        return self


def words(genes: Genes) -> dict[str, BaseDistribution]:
    """The parameters of a trial."""
    return {f"genes{i}": Word(0, max(1, size - 1)) for i, size in enumerate(genes.words)}


def values_of(individual: Individual, names: Iterable[str]) -> dict[str, int]:
    """The parameters of a trial for this arch, by name."""
    return dict(zip(names, individual.packed, strict=True))


def packed_of(trial: FrozenTrial) -> Packed:
    """The packed arch of a trial."""
    return tuple(trial.params.values())


class PackedSampler(BaseSampler):
    """Evolves packed archs; `population` parents are selected anew whenever a number of further trials are finished.

    select: the survival selection among the last parents and the newly finished trials (of NSGA-II, SMS-EMOA, ...). Unlike
    in Optuna's own samplers, all trials finished since the last generation count, independent of when they were proposed.
    """

    def __init__(
        self,
        genes: Genes,
        directions: Sequence[Direction],
        select: Select,
        population: int,
        seed: str,
        beyond: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.genes, self.select, self.population = genes, select, population
        self.words = words(genes)
        self.rng = np.random.default_rng([*seed.encode()])
        self.breeder = Breeder(genes, directions, self.rng, beyond)
        self.taken: set[Packed] = set()
        self.parents: list[int] = []  # the numbers of their trials
        self.finished: list[int] = []  # since the parents were selected
        self.children: list[Packed] = []
        self.asked: Packed = ()  # the last one; a trial returns copies of its parameters, which take most of the time

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.words

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        assert self.ready(study), "every arch of the space was already proposed"
        self.asked = self.children.pop()
        return dict(zip(self.words, self.asked, strict=True))

    def ready(self, study: optuna.Study) -> bool:
        """Whether another arch can be proposed."""
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
        for packed in self.children:  # bred from earlier parents
            self.taken.discard(packed)
        self.children = []

    def _bred(self, count: int) -> list[Packed]:
        if self.parents:
            return self.breeder.children(count, self.taken)
        found = dict.fromkeys(p for p in self.genes.pack_all(self.genes.random(10 * count, self.rng)) if p not in self.taken)
        first = list(found)[:count]
        self.taken.update(first)
        return first


class Island:
    """One population. It proposes no arch twice, and none that is pending or evaluated elsewhere.

    algorithm: the name of its survival selection in `search.islands.samplers.SAMPLERS`.
    """

    def __init__(
        self,
        space: Space,
        directions: Sequence[Direction],
        *,
        algorithm: str,
        population: int,
        seed: str,
        beyond: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """beyond: how far values [N, M] are beyond the limits [N], where there are some; a constraint of every trial."""
        self.beyond = beyond
        self.genes = Genes(space)
        select = survival(algorithm, population, len(directions))
        self.sampler = PackedSampler(self.genes, directions, select, population, seed, beyond)
        self.study = quiet_study(directions, self.sampler)
        self.directions = tuple(directions)
        self.pending: dict[Packed, optuna.Trial] = {}  # pending archs, and their trials

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        asked: list[Packed] = []
        for _ in range(count):
            if not self.sampler.ready(self.study):
                break
            trial = self.study.ask(self.sampler.words)
            self.pending[self.sampler.asked] = trial
            asked.append(self.sampler.asked)
        return asked

    def tell(self, evaluated: Sequence[Individual]) -> None:
        """Adds the values of archs that it proposed, and of others to learn from."""
        for individual in evaluated:
            constraints = self._constraints(individual)
            trial = self.pending.pop(individual.packed, None)
            if trial is not None:
                for name, value in constraints.items():
                    trial.set_constraint(name, value)
                self.study.tell(trial, individual.values)
                continue
            self.sampler.taken.add(individual.packed)
            self.sampler.finished.append(len(self.study.get_trials(deepcopy=False)))
            params = values_of(individual, self.sampler.words)
            self.study.add_trial(
                create_trial(
                    params=params,
                    distributions=self.sampler.words,
                    values=list(individual.values),
                    constraints=constraints or None,
                )
            )

    def _constraints(self, individual: Individual) -> dict[str, float]:
        """The constraint of a trial: its value is 0 within all limits, and above 0 beyond one."""
        if self.beyond is None:
            return {}
        return {"limits": float(self.beyond(np.array([individual.values]))[0])}

    @property
    def parents(self) -> list[Individual]:
        """The population that the latest offspring were bred from."""
        trials = self.study.get_trials(deepcopy=False)
        return [Individual(packed_of(trials[n]), tuple(trials[n].values)) for n in self.sampler.parents]

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere, which `ask` then leaves out."""
        self.sampler.taken.update(taken)

    def elites(self, count: int) -> list[Individual]:
        """At most `count` of its non-dominated archs, spread over their front."""
        trials = self.study.get_trials(deepcopy=False)
        numbers = [*self.sampler.parents, *self.sampler.finished]
        return elites([Individual(packed_of(trials[n]), tuple(trials[n].values)) for n in numbers], self.directions, count)
