"""The loop over phases: its schedules, momentum and teachers, without a store, Ray or real images."""

import math
import random
from dataclasses import replace

import pytest
import torch

from ofa.draws import Uniform
from ofa.phases import Phase, Plan, Recipe, by_phase
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.teacher import GIVEN, Teachers
from ofa.train import Learner, Observer, Position, Shard, train_phases

SPACE = get_space("digits").only(resolutions=(24,))
RECIPE = Recipe(momentum=0.9, weight_decay=1e-4, label_smoothing=0.1, clip_norm=5.0)
STEPS = 3  # of an epoch


def plan(*phases, **settings):
    return Plan(SPACE, 10, phases, RECIPE, batch=4, seed=1, **settings)


def phase(name, epochs=1, lr=0.1, **settings):
    return Phase(name, SPACE, epochs, lr, draw=Uniform(1), **settings)


class Pictures:
    """Noise that depends on how many steps were made before, not on names."""

    steps_per_epoch = STEPS

    def __init__(self):
        self.made = 0

    def epoch(self, phase, epoch, start):
        for step in range(start, STEPS):
            images = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(self.made))
            self.made += 1
            yield step, [Shard(0, images, torch.arange(4))]


def trained(plan, observer=None):
    """The weights after a training whose samples depend on the number of the step alone."""
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0))
    learner, feed = Learner(net, plan.recipe, lambda tensor: None), Pictures()
    teachers = Teachers(plan.phases, None, None, None)

    def streams(*names):
        return random.Random(f"{names[0]}/{feed.made}")

    train_phases(plan, learner, feed, streams, teachers.enter, observer or Observer())
    return net.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_phases_of_one_schedule_with_momentum_kept_are_one_phase():
    whole = {"schedule": "whole", "keep_momentum": True}
    one = trained(plan(phase("a", epochs=2), **whole))
    assert same(one, trained(plan(phase("a"), phase("b"), **whole)))
    assert not same(one, trained(plan(phase("a"), phase("b"), schedule="whole")))
    assert not same(one, trained(plan(phase("a"), phase("b"), keep_momentum=True)))


@pytest.mark.parametrize(("keep", "expected"), [(False, [False, True, True] * 2), (True, [False] + [True] * 5)])
def test_each_phase_starts_without_momentum_unless_it_is_kept(keep, expected):
    learner = Learner(Supernet(SPACE, 10, torch.Generator().manual_seed(0)), RECIPE, lambda tensor: None)
    had = []

    class Watching(Pictures):
        def epoch(self, *names):
            for batch in super().epoch(*names):
                had.append(bool(learner.optimizer.state))  # before the step
                yield batch

    two = plan(phase("a"), phase("b"), keep_momentum=keep)
    enter = Teachers(two.phases, None, None, None).enter
    train_phases(two, learner, Watching(), lambda *names: random.Random(0), enter, Observer())
    assert had == expected


def test_a_whole_schedule_is_one_cosine_with_the_first_phases_warm_up():
    phases = (phase("a", epochs=2, lr=0.4, warmup_epochs=1.0), phase("b", epochs=3, lr=0.2, warmup_epochs=2.0))
    training = plan(*phases, schedule="whole")
    total, warmup = 5 * 10, 10
    for number, (first, peak) in enumerate(((0, 0.4), (20, 0.2))):
        for step in range(phases[number].epochs * 10):
            at = first + step
            if at < warmup:
                expected = peak * max(0.01, at / warmup)
            else:
                expected = peak * (1 + math.cos(math.pi * (at - warmup) / (total - warmup))) / 2
            assert training.lr_at(number, step, 10) == pytest.approx(expected)


def test_trainings_that_share_a_cosine_have_the_rates_of_one_training():
    whole = Phase("whole", SPACE, epochs=6, lr=0.2, warmup_epochs=1)
    parts = [Phase(f"part{i}", SPACE, epochs=2, lr=0.2, warmup_epochs=1, before=2 * i, after=4 - 2 * i) for i in range(3)]
    rates = [by_phase([part], 0, step, 10) for part in parts for step in range(20)]
    assert rates == [by_phase([whole], 0, step, 10) for step in range(60)]
    assert rates[0] < 0.01 and rates[10] == 0.2 and rates[-1] < 0.001


def test_a_schedule_by_phase_falls_to_nothing_in_every_phase():
    training = plan(phase("a", epochs=2, warmup_epochs=1.0), phase("b", epochs=3, lr=0.2))
    assert training.lr_at(0, 10, 10) == pytest.approx(0.1)
    assert training.lr_at(0, 19, 10) < 0.003
    assert training.lr_at(1, 0, 10) == pytest.approx(0.2)
    assert training.lr_at(1, 29, 10) < 0.001


def test_a_resumed_training_makes_the_steps_that_are_left():
    seen = []

    class Numbers(Observer):
        def step_done(self, number, loss):
            seen.append(number)

        def epoch_done(self, number):
            seen.append("epoch")

        def phase_done(self, number):
            seen.append("phase")

    two = plan(phase("a", epochs=2), phase("b"))
    learner = Learner(Supernet(SPACE, 10, torch.Generator().manual_seed(0)), RECIPE, lambda tensor: None)
    enter = Teachers(two.phases, None, None, None).enter
    start = Position(0, 1, 2)
    train_phases(two, learner, Pictures(), lambda *names: random.Random(0), enter, Numbers(), start=start)
    assert seen == [0, "epoch", "phase", 1, 1, 1, "epoch", "phase"]


class Named:
    """Stands for a supernet whose weights are a word."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def taught_by(phases, given=None, start=0):
    """Of every phase from `start` on, the weights that its teacher has."""
    teachers = Teachers(phases, lambda state: state, given, lambda phase: f"after {phase.name}")
    nets = [Named(f"after {phases[number - 1].name}" if number else "sampled") for number in range(len(phases))]
    return [teachers.enter(number, nets[number]) for number in range(start, len(phases))]


@pytest.mark.parametrize("start", range(4))
def test_a_teacher_is_the_first_phase_or_the_previous_one_also_after_a_restart(start):
    first = tuple(phase(name, distil=float(name != "a")) for name in "abcd")
    previous = tuple(replace(one, teacher="previous") for one in first)
    mixed = (first[0], replace(first[1], distil=0.0), *first[2:3], *previous[3:])
    assert taught_by(first, start=start) == [None, "after a", "after a", "after a"][start:]
    assert taught_by(previous, start=start) == [None, "after a", "after b", "after c"][start:]
    assert taught_by(mixed, start=start) == [None, None, "after a", "after c"][start:]


def test_the_weights_that_training_starts_from_are_the_first_teacher():
    first = tuple(phase(name, distil=1.0) for name in "abc")
    previous = tuple(replace(one, teacher="previous") for one in first)
    assert taught_by(first, given="given") == ["given"] * 3
    assert taught_by(previous, given="given") == ["given", "after a", "after b"]
    assert Teachers(previous, None, "given", None).source(0) == GIVEN
