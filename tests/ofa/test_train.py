import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ofa.evaluate import Evaluator, top1
from ofa.images import Scale, Split
from ofa.phases import Phase
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.train import Learner, Recipe, Teacher, draw_archs, train_step

SPACE = get_space("digits")
RECIPE = Recipe(momentum=0.9, weight_decay=1e-2, label_smoothing=0.1, clip_norm=1e9)
PHASE = Phase("width", SPACE, epochs=2, warmup_epochs=1, lr=0.1, subnets=2, largest=True, distil=0.0)


def alone(tensor):
    """One worker's mean is its own."""


def network(seed=0):
    return Supernet(SPACE, 10, torch.Generator().manual_seed(seed))


def batch(count=16, resolution=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, resolution, resolution, generator=generator), torch.arange(count) % 10


def test_a_step_is_torchs_sgd_on_the_mean_loss():
    """Against torch.optim.SGD with plain gradients; two steps, so that momentum counts."""
    images, labels = batch()
    archs = [SPACE.smallest(), SPACE.uniform(24, 2, 5, 2)]
    learner, net = Learner(network(), RECIPE, alone), network()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(2):
        learner.step(images, labels, archs, 0.05, None, 0.0)
        sgd.zero_grad(set_to_none=False)
        losses = [F.cross_entropy(net.train()(images, arch), labels, label_smoothing=0.1) for arch in archs]
        (sum(losses) / 2).backward()
        for p in net.parameters():  # weights that no sampled network used still decay and keep their momentum
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        sgd.step()
    for (name, ours), theirs in zip(learner.net.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_gradients_are_averaged_over_workers_before_the_update():
    seen = []

    def average(tensor):
        seen.append(tensor.clone())
        tensor.zero_()  # as if the other worker's gradient were the opposite

    recipe = replace(RECIPE, weight_decay=0.0)
    learner = Learner(network(), recipe, average)
    before = [p.clone() for p in learner.net.parameters()]
    learner.step(*batch(), [SPACE.smallest()], 0.1, None, 0.0)
    assert len(seen) == 1
    assert seen[0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.net.parameters(), strict=True))


def test_long_gradients_are_clipped():
    recipe = replace(RECIPE, clip_norm=1e-3, weight_decay=0.0)
    learner = Learner(network(), recipe, alone)
    before = torch.cat([p.detach().flatten().clone() for p in learner.net.parameters()])
    learner.step(*batch(), [SPACE.smallest()], 1.0, None, 0.0)
    after = torch.cat([p.detach().flatten() for p in learner.net.parameters()])
    assert (after - before).norm().item() == pytest.approx(1.9e-3, rel=1e-3)  # nesterov's first step is (1 + 0.9) gradients


def test_state_continues_to_the_same_weights():
    images, labels = batch()
    straight = Learner(network(), RECIPE, alone)
    for _ in range(4):
        straight.step(images, labels, [SPACE.smallest()], 0.05, None, 0.0)
    first = Learner(network(), RECIPE, alone)
    for _ in range(2):
        first.step(images, labels, [SPACE.smallest()], 0.05, None, 0.0)
    second = Learner(network(seed=9), RECIPE, alone)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(2):
        second.step(images, labels, [SPACE.smallest()], 0.05, None, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(straight.net.parameters(), second.net.parameters(), strict=True))


def test_a_step_draws_one_resolution_and_different_networks():
    archs = draw_archs(PHASE, random.Random(0))
    assert len(archs) == 3
    assert len({a.resolution for a in archs}) == 1
    assert archs[0] == replace(SPACE.largest(), resolution=archs[0].resolution)
    assert archs[1] != archs[2]
    resolutions = {draw_archs(PHASE, random.Random(seed))[0].resolution for seed in range(30)}
    assert resolutions == set(SPACE.resolutions)


def test_learning_lowers_the_loss():
    learner, rng = Learner(network(), replace(RECIPE, weight_decay=0.0), alone), random.Random(0)
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(64) % 10
    images = torch.randn(10, 3, 32, 32, generator=generator)[labels] + 0.3 * torch.randn(64, 3, 32, 32, generator=generator)
    losses = [train_step(learner, PHASE, images, labels, None, 0.1, rng).item() for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_teacher_is_the_largest_network_with_statistics_of_each_resolution():
    split = Split(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    evaluator = Evaluator(network(), Scale.of(split), split, 40)
    teacher = Teacher(evaluator)
    for resolution in SPACE.resolutions:
        x = next(evaluator.batches(split, resolution))
        probs = teacher(x)
        arch = replace(SPACE.largest(), resolution=resolution)
        assert torch.equal(probs, evaluator.net(x, arch, evaluator.statistics(arch)).softmax(1))
        torch.testing.assert_close(probs.sum(1), torch.ones(40))
    assert not any(p.requires_grad for p in teacher.net.parameters())


def test_distillation_adds_the_soft_cross_entropy():
    images, labels = batch()
    soft = torch.rand(16, 10).softmax(1)
    arch = SPACE.smallest()
    net = network().train()
    logits = net(images, arch)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    distilled = -(soft * logits.log_softmax(1)).sum(1).mean()
    loss = Learner(network(), RECIPE, alone).step(images, labels, [arch], 0.0, soft, 0.5)
    torch.testing.assert_close(loss, (hard + 0.5 * distilled).detach())


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [PHASE.lr_at(step, 10) for step in range(20)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.003


def test_top1_counts_the_largest_logit_and_ties_go_to_the_lowest_class():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 1.0], [0.0, 5.0]])
    assert top1(logits, torch.tensor([1, 1, 0, 1])) == 0.75
