"""Optuna's samplers as islands of a measured search, compared with studies that are driven directly."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import optuna
import pytest

from ofa.cost import cost
from ofa.genes import Genes
from ofa.record import Measured
from ofa.spaces import get_space
from search import asynchronous
from search.islands.breeder import Individual
from search.islands.island import quiet_study
from search.islands.sampled import Sampled
from search.measured import search
from search.objective import MACS, TOP1

SPACE = get_space("digits")
FIXED = SPACE.only(depths=(SPACE.depths[-1],))  # every gene matters
OBJECTIVES = (TOP1, MACS)


def toy(arch):
    """More is better with diminishing returns."""
    macs, params = cost(SPACE, arch, 10)
    return Measured(arch, round(1 - 0.2 * (4e4 / macs) ** 0.5, 6), macs, params)


def values(arch):
    measured = toy(arch)
    return measured.top1, measured.macs


class Recorder:
    def __init__(self, known=()):
        self.batches, self.known, self.fresh = [], {m.arch.key: m for m in known}, []

    def __call__(self, archs):
        self.batches.append([arch.key for arch in archs])
        self.fresh += [arch.key for arch in archs if arch.key not in self.known]
        return [self.known.get(arch.key) or toy(arch) for arch in archs]


def run(name, space=SPACE, evaluations=40, recorder=None, **settings):
    recorder = recorder or Recorder()
    chosen = {"batch": 12, "seed": 3, "algorithm": f"optuna:{name}"} | settings
    return search(space, OBJECTIVES, recorder, evaluations=evaluations, **chosen), recorder


def arch_of(space, suggest):
    """The arch of a trial, without the forest of genes: in the digits space with a fixed depth."""
    slots = len(space.slots)
    doc = {"resolution": suggest("resolution", space.resolutions), "depth": [space.depths[-1]] * space.counts["depth"]}
    doc["kernel"] = [suggest(f"kernel_{i}", space.kernels) for i in range(slots)]
    doc["expand"] = [suggest(f"expand_{i}", space.expands) for i in range(slots)]
    return type(space.largest()).from_json(doc)


class TestAgainstPlainOptuna:
    @pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
    @pytest.mark.parametrize("name", ["NSGAIISampler", "NSGAIIISampler", "TPESampler", "RandomSampler"])
    def test_one_island_proposes_what_a_study_that_is_driven_directly_proposes(self, name):
        made = getattr(optuna.samplers, name)
        genetic = issubclass(made, optuna.samplers.BaseGASampler)
        study = quiet_study(("maximize", "minimize"), made(seed=3, **({"population_size": 12} if genetic else {})))
        for arch in (FIXED.smallest(), FIXED.largest()):
            params = {"resolution": arch.resolution}
            params |= {f"kernel_{i}": value for i, value in enumerate(arch.kernel)}
            params |= {f"expand_{i}": value for i, value in enumerate(arch.expand)}
            study.enqueue_trial(params)
        batches, known = [], {}
        for _ in range(3):
            asked = {}
            while len(asked) < 12:
                trial = study.ask()
                arch = arch_of(FIXED, trial.suggest_categorical)
                if genetic and trial.number < 2:  # an enqueued trial is in no generation of Optuna's unless one is given
                    study.sampler.get_trial_generation(study, study.trials[trial.number])
                if arch.key in known:
                    study.tell(trial, known[arch.key])
                else:
                    asked.setdefault(arch, []).append(trial)
            batches.append([arch.key for arch in asked])
            for arch, trials in asked.items():
                known[arch.key] = values(arch)
                for trial in trials:
                    study.tell(trial, known[arch.key])
        assert run(name, FIXED, evaluations=36, islands=1)[1].batches == batches


@pytest.mark.parametrize("name", ["NSGAIISampler", "TPESampler"])
class TestSearch:
    def test_it_is_repeatable_wherever_islands_run_and_nothing_is_evaluated_twice(self, name):
        found, recorder = run(name, islands=2, migrate_every=2)
        with ThreadPoolExecutor(2) as threads:
            elsewhere, _ = run(name, islands=2, migrate_every=2, run_islands=threads.map)
        assert elsewhere == found != run(name, islands=2, migrate_every=2, seed=4)[0]
        asked = [key for batch in recorder.batches for key in batch]
        assert len(asked) == len(set(asked)) == 40
        assert {SPACE.smallest().key, SPACE.largest().key} <= {*recorder.batches[0]}

    def test_a_killed_search_continues_to_the_same_result_from_its_ledger(self, name):
        whole, recorder = run(name, islands=2)
        again, continued = run(name, islands=2, recorder=Recorder(whole.history[:27]))
        assert again == whole
        assert continued.fresh == [key for batch in recorder.batches for key in batch][27:]

    def test_a_space_smaller_than_the_budget_is_searched_whole_and_the_search_ends(self, name):
        tiny = SPACE.only(resolutions=(24,), depths=(1,), kernels=(3, 5), expands=(1,))
        found, _ = run(name, tiny, evaluations=500, islands=2)
        assert len({m.arch.key for m in found.history}) == len(found.history) == tiny.size == 8


class TestSampled:
    def known(self, count=30):
        rng, genes = random.Random(0), Genes(SPACE)
        archs = [SPACE.sample(rng) for _ in range(count)]
        packed = genes.pack_all(genes.encode(archs))
        return [Individual(p, tuple(map(float, values(arch)))) for p, arch in zip(packed, archs, strict=True)]

    def test_what_is_known_is_the_first_population_of_a_genetic_sampler(self):
        island = Sampled(SPACE, OBJECTIVES, optuna.samplers.NSGAIISampler(population_size=12, seed=1), 1)
        known = self.known()
        island.tell(known)
        island.ask(12)
        parents = island.study.sampler.get_parent_population(island.study, 1)
        assert len(parents) == 12
        assert {tuple(trial.values) for trial in parents} <= {i.values for i in known}
        best = {tuple(trial.values) for trial in island.study.best_trials}
        assert best <= {tuple(trial.values) for trial in parents} or len(best) > 12

    def test_a_known_arch_that_is_proposed_again_has_its_values_at_once(self):
        tiny = SPACE.only(resolutions=(24,), depths=(1,), kernels=(3, 5), expands=(1,))
        genes = Genes(tiny)
        packed = genes.pack_all(genes.encode([tiny.smallest(), tiny.largest()]))
        known = [Individual(p, (0.5, float(i))) for i, p in enumerate(packed)]
        island = Sampled(tiny, OBJECTIVES, optuna.samplers.RandomSampler(seed=1), 1)
        island.recall(known)
        asked = island.ask(6)
        assert {*asked}.isdisjoint(packed)
        assert len({*asked}) == 6
        told = [tuple(trial.values) for trial in island.study.trials if trial.values]
        assert told
        assert {*told} <= {i.values for i in known}
        assert island.ask(1) == []

    @pytest.mark.parametrize("name", ["NSGAIISampler", "TPESampler"])
    def test_the_bound_of_an_objective_is_a_constraint_of_every_trial(self, name):
        limited = (TOP1, replace(MACS, bound=3e5))
        island = Sampled(SPACE, limited, getattr(optuna.samplers, name)(seed=1), 1)
        known = self.known()
        island.tell(known)
        genes = Genes(SPACE)
        asked = island.ask(4)
        archs = genes.decode(genes.unpack_all(asked))
        island.tell([Individual(p, tuple(map(float, values(arch)))) for p, arch in zip(asked, archs, strict=True)])
        trials = island.study.trials
        assert len(trials) >= len(known) + 4
        assert [t.constraints["macs"] <= 0 for t in trials] == [t.values[1] <= 3e5 for t in trials]
        assert {True, False} == {t.constraints["macs"] <= 0 for t in trials}

    def test_an_asynchronous_search_learns_from_what_it_knows(self):
        genes = Genes(SPACE)
        archs = genes.decode(genes.unpack_all([i.packed for i in self.known()]))
        known = [toy(arch) for arch in {arch.key: arch for arch in archs}.values()]
        found = asynchronous.search(
            SPACE, OBJECTIVES, Evaluators(), algorithm="optuna:NSGAIISampler", evaluations=30, population=12, seed=1,
            islands=2, known=known,
        )  # fmt: skip
        keys = [m.arch.key for m in (*known, *found.history)]
        assert len(keys) == len(set(keys)) == len(known) + 30


class Evaluators:
    workers = 3

    def __init__(self):
        self.pending = []

    @property
    def free(self):
        return self.workers - len(self.pending)

    def submit(self, arch):
        self.pending.append(arch)

    def finished(self, timeout_s):
        done, self.pending = self.pending, []
        return [toy(arch) for arch in done]
