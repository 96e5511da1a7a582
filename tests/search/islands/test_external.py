"""Samplers by name."""

import threading
from importlib.metadata import EntryPoint

import optuna
import pytest

from search.errors import ProblemError
from search.islands import external


class Registered(optuna.samplers.RandomSampler):
    """A sampler as another package may register it."""


class WithoutSeed(optuna.samplers.RandomSampler):
    def __init__(self):
        super().__init__()


class WithALock(optuna.samplers.RandomSampler):
    def __init__(self, seed=None):
        super().__init__(seed)
        self.held = threading.Lock()


class TestNames:
    def test_optunas_samplers_of_several_objectives_are_listed(self):
        there = external.names()
        assert {"optuna:NSGAIISampler", "optuna:NSGAIIISampler", "optuna:TPESampler", "optuna:GPSampler"} <= {*there}
        assert not {"optuna:CmaEsSampler", "optuna:GridSampler", "optuna:BaseSampler"} & {*there}

    def test_a_registered_sampler_is_listed_and_found(self, monkeypatch):
        entry = EntryPoint("Mine", f"{__name__}:Registered", external.GROUP)
        monkeypatch.setattr(external, "entry_points", lambda group: [entry] if group == "ofa.samplers" else [])
        assert "optuna:Mine" in external.names()
        assert isinstance(external.sampler("optuna:Mine", {}, 4, 1), Registered)

    def test_a_class_of_any_module_is_found(self):
        external.check("optuna:search.islands.samplers:SMSEMOASampler", {"crossover_prob": 0.5}, 4)

    @pytest.mark.parametrize(
        ("name", "settings", "said"),
        [
            ("Nsga", {}, "no sampler is called 'optuna:Nsga'; there are .*optuna:TPESampler.*; any other is optuna:package"),
            ("", {}, "no sampler is called 'optuna:'"),
            (":", {}, "no sampler is called 'optuna::'"),
            ("CmaEsSampler", {}, "optuna:CmaEsSampler cannot be used: .*multi-objective"),
            ("GridSampler", {}, "optuna:GridSampler needs search_space"),
            ("BruteForceSampler", {}, "optuna:BruteForceSampler cannot be used"),
            ("nowhere.at_all:Sampler", {}, "cannot be imported: No module named 'nowhere'"),
            ("json:nothing", {}, "cannot be imported"),
            ("json:loads", {}, "is no sampler of Optuna"),
            (f"{__name__}:WithoutSeed", {}, "takes no seed"),
            (f"{__name__}:WithALock", {}, "cannot be copied"),
            (
                "NSGAIISampler",
                {"colour": 1},
                "has no setting 'colour'; it has population_size, mutation_prob, crossover_prob",
            ),
            ("NSGAIISampler", {"seed": 1}, "has the seed of the run"),
            ("NSGAIISampler", {"crossover_prob": 7}, "cannot be used with its settings: .*crossover_prob"),
            ("NSGAIISampler", {"population_size": 1}, "cannot be used with its settings: .*population_size"),
        ],
    )
    def test_what_cannot_be_used_gets_one_line(self, name, settings, said):
        with pytest.raises(ProblemError, match=said) as error:
            external.check(f"optuna:{name}", settings, 4)
        assert "\n" not in str(error.value)


class TestSampler:
    def test_the_size_of_the_population_is_the_islands_unless_it_is_set(self):
        assert external.sampler("optuna:NSGAIISampler", {}, 12, 1).population_size == 12
        assert external.sampler("optuna:NSGAIISampler", {"population_size": 30}, 12, 1).population_size == 30

    def test_a_number_is_its_own_seed_and_any_text_has_one(self):
        assert external.seed_of("7") == 7
        assert external.seed_of("-1") == 2**32 - 1
        assert 0 <= external.seed_of("7/island1") < 2**32
        assert external.seed_of("7/island1") != external.seed_of("7/island2")
