import time

import numpy as np
import optuna
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.front import hypervolume
from search.islands.breeder import Breeder, Individual, elites
from search.islands.island import Island

SPACE = get_space("digits")
GENES, COSTS = Genes(SPACE), CostTable(SPACE, 10)
DIRECTIONS = ("maximize", "minimize")


def worth(packed):
    """A toy: more is better with diminishing returns, and some kernels are better than their cost says."""
    genes_BG = GENES.unpack_all(packed)
    macs = COSTS(genes_BG)[0]
    top1 = 1 - 0.2 * (4e4 / macs) ** 0.5 + 0.004 * (genes_BG[:, GENES.of("kernel")] == 1).sum(axis=1)
    return [Individual(p, (float(t), float(m))) for p, t, m in zip(packed, top1, macs, strict=True)]


def island(algorithm="nsga2", seed="1", population=20):
    return Island(SPACE, DIRECTIONS, algorithm=algorithm, population=population, seed=seed)


def volume(told):
    points = np.array([(-i.values[0], i.values[1] / 1e6) for i in told])
    return hypervolume(points, np.array([-0.7, 1.1]))


def evolved(here, count, batch=20):
    told = []
    while len(told) < count:
        answers = worth(here.ask(batch))
        here.tell(answers)
        told += answers
    return told


@pytest.mark.parametrize("algorithm", ["nsga2", "nsga3", "sms-emoa", "spea2"])
def test_it_asks_for_canonical_archs_and_never_twice(algorithm):
    told = evolved(island(algorithm), 300)
    packed = [individual.packed for individual in told]
    assert len(set(packed)) == 300
    genes_BG = GENES.unpack_all(packed)
    assert np.array_equal(GENES.canonical(genes_BG), genes_BG)


@pytest.mark.parametrize("algorithm", ["nsga2", "nsga3", "sms-emoa", "spea2"])
def test_it_evolves(algorithm):
    drawn = [volume(worth(GENES.pack_all(GENES.random(600, np.random.default_rng(s))))) for s in range(8)]
    ours = [volume(evolved(island(algorithm, seed=str(seed)), 600)) for seed in range(8)]
    assert np.mean(ours) > np.mean(drawn) + np.std(drawn)


def test_it_is_as_good_as_plain_optuna():
    """NSGA-II with a parameter a gene: eight seeds each, in the mean and two standard errors of the difference."""

    def plain(seed):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(population_size=20, seed=seed)
        study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
        told = []
        while len(told) < 150:
            trial = study.ask()
            row = [trial.suggest_categorical(f"{g}", list(range(size))) for g, size in enumerate(GENES.sizes_G.tolist())]
            [individual] = worth(GENES.pack_all(GENES.canonical(np.array([row]))))
            study.tell(trial, individual.values)
            told.append(individual)
        return volume(told)

    ours = [volume(evolved(island(seed=str(seed)), 150, batch=10)) for seed in range(8)]
    theirs = [plain(seed) for seed in range(8)]
    error = ((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 8) ** 0.5
    assert np.mean(ours) > np.mean(theirs) - 2 * error, (ours, theirs)


def test_what_others_evaluated_is_learned_from_and_not_asked_for():
    others = worth(GENES.pack_all(GENES.random(40, np.random.default_rng(0))))
    here = island()
    here.tell(others)
    pending = GENES.pack_all(GENES.random(40, np.random.default_rng(1)))
    here.avoid(pending)
    assert not {*pending, *(i.packed for i in others)} & set(here.ask(100))
    assert {i.packed for i in here.parents} <= {i.packed for i in others}
    assert {i.packed for i in here.elites(5)} <= {i.packed for i in elites(others, DIRECTIONS, 40)}


def test_answers_that_come_late_and_in_another_order_count():
    here = island()
    first, second = here.ask(20), here.ask(20)
    here.tell(worth(second[::-1]))
    third = here.ask(5)
    here.tell(worth(first))
    assert not {*first, *second} & set(third)
    here.ask(1)
    assert {i.packed for i in here.parents} & set(first)


def test_a_trial_of_the_study_is_its_packed_arch():
    """So that the study can be looked at with Optuna's own tools."""
    here = island()
    told = evolved(here, 40)
    trials = here.study.get_trials()
    assert [tuple(trial.params.values()) for trial in trials] == [i.packed for i in told]
    assert [tuple(trial.values) for trial in trials] == [i.values for i in told]
    assert [trial.number for trial in trials] == list(range(40))


def test_a_limit_is_a_constraint_of_the_trial():
    here = Island(
        SPACE, DIRECTIONS, algorithm="nsga2", population=20, seed="1", beyond=lambda v: np.maximum(v[:, 1] - 1e5, 0)
    )
    told = evolved(here, 60)
    assert [trial.constraints for trial in here.study.get_trials()] == [
        {"limits": max(i.values[1] - 1e5, 0.0)} for i in told
    ]


def test_trials_are_not_copied():
    """Optuna copies a trial and all its parameters for every change, which took most of the time."""
    here = island()
    evolved(here, 20)
    assert here.study.get_trials(deepcopy=True)[3] is here.study.get_trials(deepcopy=False)[3]


def test_the_time_of_a_trial_does_not_grow():
    """Plain Optuna takes 1.6 times as long after 4000 trials as in the beginning, and ever longer."""
    big = get_space("ofa_mbv3_w1.0")
    here = Island(big, DIRECTIONS, algorithm="nsga2", population=50, seed="1")
    rng, seconds = np.random.default_rng(0), []
    for _ in range(8):
        started = time.process_time()
        for _ in range(10):
            asked = here.ask(50)
            here.tell([Individual(p, tuple(v)) for p, v in zip(asked, rng.random((50, 2)).tolist(), strict=True)])
        seconds.append(time.process_time() - started)
    assert min(seconds[-4:]) < 1.5 * min(seconds[:4]), seconds


def test_a_converged_population_breeds_in_few_rounds(monkeypatch):
    rounds, bred = [], Breeder._bred
    monkeypatch.setattr(Breeder, "_bred", lambda self, count, changes: rounds.append(count) or bred(self, count, changes))
    space = get_space("ofa_mbv3_w1.0")
    breeder, taken = Breeder(Genes(space), DIRECTIONS, np.random.default_rng(1)), set()
    [packed] = Genes(space).pack_all(Genes(space).encode([space.largest()]))
    breeder.adopt([Individual(packed, (0.5, 1.0))] * 50)  # half of its offspring are the parent itself, or not new
    for _ in range(20):
        assert len(breeder.children(50, taken)) == 50
    assert len(taken) == 20 * 50
    assert len(rounds) < 20 * 6  # 331 with as many offspring as are missing


def test_elites_are_spread_over_the_front():
    pool = [Individual((n,), (float(n), float(n * n))) for n in range(30)] + [Individual((99,), (3.5, 500.0))]
    assert [i.packed[0] for i in elites(pool, DIRECTIONS, 4)] == [0, 10, 19, 29]
    assert elites([], DIRECTIONS, 3) == []
