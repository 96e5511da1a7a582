"""Genes as parameters of Optuna trials."""

import random

import numpy as np
import optuna
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.islands.island import quiet_study
from search.islands.parameters import Parameters

NAMES = ("digits", "ofav2_mbv3_ee_dp_w1.0", "ofa_resnet50")


def archs(space, count=20):
    rng = random.Random(1)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize("name", NAMES)
class TestParameters:
    def test_an_enqueued_arch_is_proposed_again_gene_by_gene(self, name):
        space = get_space(name)
        parameters, genes = Parameters(space), Genes(space)
        study = quiet_study(("maximize", "minimize"), optuna.samplers.RandomSampler(seed=1))
        for packed in genes.pack_all(genes.encode(archs(space))):
            study.enqueue_trial(parameters.of(packed))
            trial = study.ask()
            assert parameters.suggest(trial) == packed
            assert trial.params == parameters.of(packed)

    def test_only_genes_that_matter_and_have_a_choice_are_parameters_with_the_values_of_the_arch(self, name):
        space = get_space(name)
        parameters, genes = Parameters(space), Genes(space)
        for arch, packed in zip(archs(space), genes.pack_all(genes.encode(archs(space))), strict=True):
            active = space.forest.active(arch.values)
            held = [
                value
                for value, here, matters in zip(arch.values, space.choices, active, strict=True)
                if matters and here[1:]
            ]
            assert [*parameters.of(packed).values()] == held

    def test_a_random_study_varies_genes_and_gives_canonical_archs(self, name):
        space = get_space(name)
        parameters = Parameters(space)
        study = quiet_study(("maximize", "minimize"), optuna.samplers.RandomSampler(seed=1))
        rows = np.array([parameters.genes.unpack(parameters.suggest(study.ask())) for _ in range(30)])
        assert (rows.max(axis=0) > 0).mean() > 0.8
        assert np.array_equal(parameters.genes.canonical(rows), rows)
