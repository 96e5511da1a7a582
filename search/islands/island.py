"""One population: `ask` proposes archs, `tell` adds their values to an Optuna study in memory.

Optuna provides the study, its trials and, for NSGA-II and NSGA-III, the survival selection; tournaments, crossover and
mutation (search/islands/breeder.py) and the selections of SMS-EMOA and SPEA2 (search/selection.py) are ours.
A trial's parameters are the few numbers of a packed arch instead of one for each gene, offspring are bred many at a time,
and a trial is added to the study when its values are known: plain Optuna reads every finished trial for every new one and
copies every parameter several times, which makes it slower with every trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ofa.genes import Genes
from ofa.space import Space
from search.islands.breeder import Breeder, Individual, Packed, elites
from search.islands.samplers import survival
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


class Evaluated(FrozenTrial):
    """A finished trial; nothing changes it, hence it is never copied (Optuna copies others)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluated:
        return self


def individual_of(trial: FrozenTrial) -> Individual:
    """The arch of a trial with its values."""
    return Individual(tuple(trial.params.values()), tuple(trial.values))


class Island:
    """One population. It proposes no arch twice, and none that is pending or evaluated elsewhere.

    `population` parents are selected anew whenever a number of further archs are evaluated. Unlike in Optuna's own
    samplers, all archs evaluated since the last selection count, independent of when they were proposed.

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
        self.beyond, self.population, self.directions = beyond, population, tuple(directions)
        self.genes = Genes(space)
        self.words: dict[str, BaseDistribution] = {
            f"genes{i}": Word(0, max(1, size - 1)) for i, size in enumerate(self.genes.words)
        }  # the parameters of a trial
        self.rng = np.random.default_rng([*seed.encode()])
        self.breeder = Breeder(self.genes, directions, self.rng, beyond)
        self.select = survival(algorithm, population, len(directions))
        self.study = quiet_study(directions, RandomSampler(seed=0))  # whose sampler is never used
        self.taken: set[Packed] = set()
        self.survivors: list[FrozenTrial] = []  # the parents of new archs
        self.finished: list[FrozenTrial] = []  # since the parents were selected
        self.children: list[Packed] = []

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        asked: list[Packed] = []
        while len(asked) < count:
            if len(self.finished) >= (RENEWED if self.survivors else 1) * self.population:
                self._next_generation()
            if not self.children:
                self.children = self._bred(self.population)[::-1]
            if not self.children:
                break
            asked.append(self.children.pop())
        return asked

    def tell(self, evaluated: Iterable[Individual]) -> None:
        """Adds the values of archs that it proposed, and of others to learn from."""
        for individual in evaluated:
            self.taken.add(individual.packed)
            now = datetime.now()
            trial = Evaluated(
                number=-1, trial_id=-1, state=TrialState.COMPLETE, value=None, values=individual.values,
                datetime_start=now, datetime_complete=now, params=dict(zip(self.words, individual.packed, strict=True)),
                distributions=self.words, user_attrs={}, system_attrs={}, intermediate_values={},
            )  # fmt: skip
            if self.beyond is not None:  # 0 within all limits, and above 0 beyond one
                trial.set_constraint("limits", float(self.beyond(np.array([individual.values]))[0]))
            self.study.add_trial(trial)
            self.finished.append(trial)

    @property
    def parents(self) -> list[Individual]:
        """The population that the latest offspring were bred from."""
        return [individual_of(trial) for trial in self.survivors]

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere, which `ask` then leaves out."""
        self.taken.update(taken)

    def elites(self, count: int) -> list[Individual]:
        """At most `count` of its non-dominated archs, spread over their front."""
        return elites([individual_of(trial) for trial in (*self.survivors, *self.finished)], self.directions, count)

    def _next_generation(self) -> None:
        self.survivors, self.finished = self.select(self.study, [*self.survivors, *self.finished]), []
        self.breeder.adopt(self.parents)
        self.taken.difference_update(self.children)  # bred from earlier parents
        self.children = []

    def _bred(self, count: int) -> list[Packed]:
        if self.survivors:
            return self.breeder.children(count, self.taken)
        found = dict.fromkeys(p for p in self.genes.pack_all(self.genes.random(10 * count, self.rng)) if p not in self.taken)
        first = list(found)[:count]
        self.taken.update(first)
        return first
