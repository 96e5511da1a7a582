"""SMS-EMOA and SPEA2 for Optuna, and the survival selections of Optuna's genetic samplers as functions.

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=SMSEMOASampler(population_size=50, seed=1))

Crossover, mutation, constraints (`trial.set_constraint`) and storage of these two samplers are Optuna's own; their
selections are those of search/selection.py. `survival` gives the selection of any of the four samplers: NSGA-II's and
NSGA-III's are Optuna's, called by its public `select_parent`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from search.selection import Survival, constrained, sms_emoa, spea2

Select = Callable[[Study, list[FrozenTrial]], list[FrozenTrial]]  # the population that survives


class SMSEMOASampler(NSGAIISampler):
    """Multi-objective search by hypervolume contributions. Source: doi:10.1016/j.ejor.2006.08.008.

    Takes NSGAIISampler's arguments but `elite_population_selection_strategy`. Generations have `population_size` members, as
    NSGA-II's: the least contributor is removed from the last front repeatedly until the population fits.
    """

    def __init__(self, *, population_size: int = 50, seed: int | None = None, **settings: Any) -> None:
        _initialise(super().__init__, sms_emoa, population_size, seed, settings)


class SPEA2Sampler(NSGAIISampler):
    """Multi-objective search by strength and density. Source: SPEA2, doi:10.3929/ethz-a-004284029.

    Takes NSGAIISampler's arguments but `elite_population_selection_strategy`.
    """

    def __init__(self, *, population_size: int = 50, seed: int | None = None, **settings: Any) -> None:
        _initialise(super().__init__, spea2, population_size, seed, settings)


def _initialise(
    initialise: Callable[..., None], survival: Survival, population_size: int, seed: int | None, settings: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # for the argument below
        initialise(
            population_size=population_size,
            seed=seed,
            elite_population_selection_strategy=_Elite(survival, population_size, seed),
            **settings,
        )


class _Elite:
    """Optuna's interface to a selection on arrays."""

    def __init__(self, survival: Survival, population_size: int, seed: int | None) -> None:
        self.survival, self.size = survival, population_size
        self.rng = np.random.default_rng(seed)

    def __call__(self, study: Study, population: list[FrozenTrial]) -> list[FrozenTrial]:
        signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
        points_NM = np.array([trial.values for trial in population]) * signs
        beyond_N = np.array([sum(max(0.0, value) for value in _constraints(trial)) for trial in population])
        kept, _ = constrained(self.survival, points_NM, beyond_N, min(self.size, len(population)), self.rng)
        return [population[i] for i in kept]


def _constraints(trial: FrozenTrial) -> list[float]:
    """Values that are 0 or less where a constraint is kept; a trial without any keeps all."""
    return [float(value) for value in (trial.constraints or {}).values()]


SAMPLERS: dict[str, type[NSGAIISampler | NSGAIIISampler]] = {
    "nsga2": NSGAIISampler,
    "nsga3": NSGAIIISampler,
    "sms-emoa": SMSEMOASampler,
    "spea2": SPEA2Sampler,
}


def survival(name: str, population: int, objectives: int) -> Select:
    """The survival selection of the sampler of this name in `SAMPLERS`: selects `population` of any finished trials.

    Optuna selects the parents of a generation from the populations before it (`BaseGASampler.select_parent`); here
    those are the trials that the returned function gets.
    """

    class Pooled(SAMPLERS[name]):  # type: ignore[misc, valid-type]
        pool: list[FrozenTrial]

        def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            return self.pool

        def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
            return []

    settings: dict[str, Any] = {"dividing_parameter": divisions(population, objectives)} if name == "nsga3" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = Pooled(population_size=population, seed=0, **settings)

    def select(study: Study, pool: list[FrozenTrial]) -> list[FrozenTrial]:
        sampler.pool = pool
        parents: list[FrozenTrial] = sampler.select_parent(study, generation=1)
        return parents

    return select


def divisions(population: int, objectives: int) -> int:
    """Divisions of each axis that give NSGA-III as many reference points as a population can hold (Optuna's 3 are few)."""
    found = 1
    while math.comb(found + objectives, objectives - 1) <= population:
        found += 1
    return found
