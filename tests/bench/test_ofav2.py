"""The bench of OFAv2's parts: its trainings make equally many updates, and open what they say."""

import pytest

from bench.ofav2 import CONFIG, EPOCHS, OPENS, TRAININGS, settings_of
from bench.ofav2_gpu import constants
from jobs.config import load


@pytest.mark.parametrize("name", list(TRAININGS))
def test_a_training_has_every_phase_and_opens_its_own_choice(name):
    config = load(CONFIG, settings_of(name, 1, "data/cifar10"))
    assert [(phase.name, phase.epochs) for phase in config.phases] == [(phase, epochs) for phase, epochs, _ in EPOCHS]
    full = config.search_space
    assert config.phases[-1].space == full
    for before, after in zip(config.phases, config.phases[1:], strict=False):
        opened = [c for c in full.choice_names if getattr(before.space, c) != getattr(after.space, c)]
        assert opened == ([OPENS[after.name]] if OPENS[after.name] in full.choice_names else [])
    assert {phase.teacher for phase in config.phases[1:]} == {TRAININGS[name][1]}


def test_the_seed_is_the_only_difference_between_seeds():
    one, two = (load(CONFIG, settings_of("exits", seed, "data/cifar10")) for seed in (1, 2))
    assert one.id != two.id and one.train == two.train


def test_constant_sub_networks_have_one_value_for_each_kind_of_choice():
    space = load(CONFIG, settings_of("exits and dense", 1, "data/cifar10")).search_space
    found = constants(space)
    assert len(found) == len(set(found)) == 5 * 2**3
    for arch in found:
        assert space.contains(arch) and arch.resolution == 24
        for values in (arch.kernel, arch.expand, arch.depth):
            assert len({value for value in values if value}) == 1
