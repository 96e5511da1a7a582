"""SMS-EMOA and SPEA2 on Optuna's interface."""

import numpy as np
import optuna
import pytest

from search.front import hypervolume
from search.islands.samplers import SMSEMOASampler, SPEA2Sampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


def bent(trial):
    """Both values least where all parameters but the first are 0; two directions that differ."""
    x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(4)]
    away = 1 + 3 * sum(x[1:])
    trial.set_constraint("first", 0.2 - x[0])
    return x[0], -away * (1 - np.sqrt(x[0] / away))


def study_of(sampler):
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.optimize(bent, n_trials=240)
    return study


def volume(study):
    points = np.array([t.values for t in study.best_trials]) * np.array([1.0, -1.0])
    return hypervolume(points, np.array([1.1, 4.0]))


@pytest.mark.parametrize("sampler", [SMSEMOASampler, SPEA2Sampler])
def test_it_beats_random_search_and_keeps_constraints(sampler):
    study = study_of(sampler(population_size=24, seed=1))
    assert volume(study) > volume(study_of(optuna.samplers.RandomSampler(seed=1)))
    late = list(study.trials[120:])
    assert np.mean([t.constraints["first"] <= 0 for t in late]) > 0.85
    assert all(t.constraints["first"] <= 0 for t in study.best_trials)


@pytest.mark.parametrize("sampler", [SMSEMOASampler, SPEA2Sampler])
def test_one_seed_gives_one_study(sampler):
    first, again = (study_of(sampler(population_size=24, seed=3)) for _ in range(2))
    assert [t.params for t in first.trials] == [t.params for t in again.trials]
