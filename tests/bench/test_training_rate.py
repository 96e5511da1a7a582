"""The bench of training rates: its steps need no teacher, whose phases have one."""

import random

import torch

from bench.training_rate import CONFIG, untaught
from jobs.config import load
from jobs.train import plan_of
from ofa.supernet import Supernet
from ofa.train import Learner, train_step


def test_every_phase_trains_without_the_teacher_that_the_config_has():
    config = load(CONFIG)
    net = Supernet(config.search_space, 10, torch.Generator().manual_seed(1))
    learner = Learner(net, plan_of(config, 10).recipe, lambda gradient: None)
    assert any(lesson.learns_from == "teacher" for phase in config.phases for lesson in phase.lessons(random.Random(1)))
    for phase in config.phases:
        lessons = untaught(phase.lessons(random.Random(1)))
        assert train_step(learner, lessons, torch.randn(2, 3, 24, 24), torch.arange(2), None, 1e-6) > 0
