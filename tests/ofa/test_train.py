import random
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ofa.draws import Given, Lesson, Sandwich, Uniform
from ofa.evaluate import Evaluator, top1
from ofa.images import Scale, Split
from ofa.losses import DISTIL_LOSSES
from ofa.phases import Phase, Recipe, best_epoch, by_phase
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.teacher import Teacher
from ofa.train import Learner, train_step

SPACE = get_space("digits")
RECIPE = Recipe(momentum=0.9, weight_decay=1e-2, label_smoothing=0.1, clip_norm=1e9)
PHASE = Phase("width", SPACE, epochs=2, lr=0.1, warmup_epochs=1, draw=Uniform(2, largest=True))


def alone(tensor):
    """One worker's mean is its own."""


def drawn(phase, seed):
    return [lesson.arch for lesson in phase.lessons(random.Random(seed))]


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
        learner.step(images, labels, [Lesson(arch) for arch in archs], 0.05)
        sgd.zero_grad(set_to_none=False)
        losses = [F.cross_entropy(net.train()(images, arch), labels, label_smoothing=0.1) for arch in archs]
        (sum(losses) / 2).backward()
        for p in net.parameters():  # weights that no sampled network used still decay and keep their momentum
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        sgd.step()
    for (name, ours), theirs in zip(learner.net.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_a_step_with_adamw_is_torchs_and_resumes_from_its_state():
    """Two steps, the second by a learner that has loaded the state after the first."""
    images, labels = batch()
    recipe, arch = replace(RECIPE, optimizer="adamw"), SPACE.smallest()
    learner, net = Learner(network(), recipe, alone), network()
    groups = [{"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 1e-2},
              {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(2):
        learner.step(images, labels, [Lesson(arch)], 0.01)
        adamw.zero_grad(set_to_none=False)
        F.cross_entropy(net.train()(images, arch), labels, label_smoothing=0.1).backward()
        for p in net.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        adamw.step()
        for (name, ours), theirs in zip(learner.net.named_parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, msg=name)
        state = {name: tensor.clone() for name, tensor in learner.state().items()}
        learner = Learner(network(1), recipe, alone)
        learner.load(state)
        assert learner.state().keys() == state.keys() and sum(name.startswith("exp_avg_sq.") for name in state) > 10


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_of_an_uneven_batch_make_torchs_step_on_the_mean_over_all_images(workers):
    """Seven images in three shards, of three, two and two; trained by one worker, or by two, one of which has two shards."""
    images, labels = batch(7)
    parts, archs = [slice(n, 7, 3) for n in range(3)], [SPACE.smallest(), SPACE.uniform(24, 2, 5, 2), SPACE.largest()]
    archs = [replace(arch, resolution=24) for arch in archs]
    gradients, losses = [], []
    for worker in range(workers):
        learner = Learner(network(), RECIPE, lambda tensor: gradients.append(tensor.clone()))
        for number in range(worker, 3, workers):
            part = parts[number]
            weight = len(labels[part]) * workers / 7
            losses.append(learner.add_gradients(images[part], labels[part], [Lesson(archs[number])], weight=weight))
        learner.update(0.05, 1)
    learner = Learner(network(), RECIPE, lambda tensor: tensor.copy_(sum(gradients) / workers))
    learner.update(0.05, 1)
    net = network()
    groups = [{"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 1e-2},
              {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
    sgd = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    sums = [F.cross_entropy(net.train()(images[part], arch), labels[part], label_smoothing=0.1, reduction="sum")
            for part, arch in zip(parts, archs, strict=True)]  # fmt: skip
    (sum(sums) / 7).backward()
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    sgd.step()
    assert sum(losses).item() / workers == pytest.approx(sum(sums).item() / 7, rel=1e-5)
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
    learner.step(*batch(), [Lesson(SPACE.smallest())], 0.1)
    assert len(seen) == 1
    assert seen[0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, learner.net.parameters(), strict=True))


def test_long_gradients_are_clipped():
    recipe = replace(RECIPE, clip_norm=1e-3, weight_decay=0.0)
    learner = Learner(network(), recipe, alone)
    before = torch.cat([p.detach().flatten().clone() for p in learner.net.parameters()])
    learner.step(*batch(), [Lesson(SPACE.smallest())], 1.0)
    after = torch.cat([p.detach().flatten() for p in learner.net.parameters()])
    assert (after - before).norm().item() == pytest.approx(1.9e-3, rel=1e-3)  # nesterov's first step is (1 + 0.9) gradients


@pytest.mark.parametrize("phase", [PHASE, replace(PHASE, draw=Sandwich(1))])
def test_a_step_reads_nothing_back_from_its_device(phase, monkeypatch):
    """On torch's meta device, where reading a value, as a GPU's queue would have to be waited for, is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which meta does not have
    learner = Learner(network().to("meta"), replace(RECIPE, dropout=0.1), alone)
    images, labels = (tensor.to("meta") for tensor in batch(resolution=32))
    loss = train_step(learner, phase.lessons(random.Random(0)), images, labels, None, 0.1, torch.Generator())
    assert loss.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


def test_state_continues_to_the_same_weights():
    images, labels = batch()
    straight = Learner(network(), RECIPE, alone)
    for _ in range(4):
        straight.step(images, labels, [Lesson(SPACE.smallest())], 0.05)
    first = Learner(network(), RECIPE, alone)
    for _ in range(2):
        first.step(images, labels, [Lesson(SPACE.smallest())], 0.05)
    second = Learner(network(seed=9), RECIPE, alone)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(2):
        second.step(images, labels, [Lesson(SPACE.smallest())], 0.05)
    assert all(torch.equal(a, b) for a, b in zip(straight.net.parameters(), second.net.parameters(), strict=True))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_momentum_and_average_are_sorted_with_their_weights(average):
    """Momentum and average that equal the weights do so afterwards, and channels did change places."""
    learner = Learner(network(), replace(RECIPE, average=average), alone)
    learner.step(*batch(), [Lesson(SPACE.largest())], 0.05)
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    learner.evaluated.load_state_dict(learner.net.state_dict())
    for p, state in learner.optimizer.state.items():
        state["momentum_buffer"].copy_(p)
    learner.sort_channels(SPACE.expands[-1:])
    moved = 0
    for name, p in learner.net.named_parameters():
        assert torch.equal(learner.optimizer.state[p]["momentum_buffer"], p), name
        assert torch.equal(learner.evaluated.get_parameter(name), p), name
        assert not hasattr(p, "companions")
        moved += not torch.equal(p, before[name])
    assert moved > 10


@pytest.mark.parametrize(("top1", "best"), [([0.3], 1), ([0.1, 0.5, 0.5, 0.4], 2), ([0.2, 0.1, 0.3], 3), ([0.0, 0.0], 1)])
def test_the_best_epoch_is_the_first_of_the_most_accurate(top1, best):
    assert best_epoch(top1) == best


def test_a_step_draws_one_resolution_and_different_networks():
    archs = drawn(PHASE, 0)
    assert len(archs) == 3
    assert len({a.resolution for a in archs}) == 1
    assert archs[0] == replace(SPACE.largest(), resolution=archs[0].resolution)
    assert archs[1] != archs[2]
    resolutions = {drawn(PHASE, seed)[0].resolution for seed in range(30)}
    assert resolutions == set(SPACE.resolutions)


def test_learning_lowers_the_loss():
    learner, rng = Learner(network(), replace(RECIPE, weight_decay=0.0), alone), random.Random(0)
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(64) % 10
    images = torch.randn(10, 3, 32, 32, generator=generator)[labels] + 0.3 * torch.randn(64, 3, 32, 32, generator=generator)
    losses = [train_step(learner, PHASE.lessons(rng), images, labels, None, 0.1).item() for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_teacher_is_the_largest_network_with_statistics_of_each_resolution():
    split = Split(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    evaluator = Evaluator(network(), Scale.of(split), split, 40)
    teacher = Teacher(evaluator)
    for resolution in SPACE.resolutions:
        x = next(evaluator.batches(split, resolution))
        arch = replace(SPACE.largest(), resolution=resolution)
        assert torch.equal(teacher(x), evaluator.net(x, arch, evaluator.statistics(arch)))
    assert not any(p.requires_grad for p in teacher.net.parameters())


def test_distillation_adds_the_soft_cross_entropy():
    images, labels = batch()
    taught = torch.randn(16, 10, generator=torch.Generator().manual_seed(5))
    soft = taught.softmax(1)
    arch = SPACE.smallest()
    net = network().train()
    logits = net(images, arch)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    distilled = -(soft * logits.log_softmax(1)).sum(1).mean()
    loss = Learner(network(), RECIPE, alone).step(images, labels, [Lesson(arch, "teacher", 0.5)], 0.0, teacher=taught)
    torch.testing.assert_close(loss, (hard + 0.5 * distilled).detach())


def test_distillation_by_logits_is_their_squared_error():
    images, labels = batch()
    taught = torch.randn(16, 10, generator=torch.Generator().manual_seed(5))
    logits = network().train()(images, SPACE.smallest())
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1) + 0.5 * (logits - taught).square().mean()
    learner = Learner(network(), replace(RECIPE, distil_loss="mse"), alone)
    torch.testing.assert_close(
        learner.step(images, labels, [Lesson(SPACE.smallest(), "teacher", 0.5)], 0.0, teacher=taught), expected.detach()
    )


def test_the_alpha_divergence_has_the_published_gradient():
    """Against the formula by numpy, image by image; some ratios are clipped, and both alphas are chosen."""
    generator = torch.Generator().manual_seed(2)
    spread = torch.linspace(0.2, 4, 200)[:, None]
    student = (spread * torch.randn(200, 10, generator=generator)).requires_grad_()
    taught = spread * torch.randn(200, 10, generator=generator)
    DISTIL_LOSSES["alpha"](student, taught).backward()
    chosen, clipped = [], 0
    for row, target, gradient in zip(student.detach().double(), taught.double(), student.grad, strict=True):
        q, p = row.softmax(0).numpy(), target.softmax(0).numpy()
        ratio = (q / p).clip(max=5)
        clipped += int((q / p > 5).sum())
        negative, positive = (q * (ratio - 1) / 2).sum(), (p * np.log(p / q)).sum()
        weight = q * (0.5 - ratio) if negative > positive else p  # of -log q
        chosen.append(negative > positive)
        expected = weight.sum() * q - weight  # of the gradient of -(weight * log_softmax).sum()
        np.testing.assert_allclose(gradient.numpy() * 200, expected, atol=1e-5)
    assert 10 < sum(chosen) < 190 and clipped > 100


def test_the_alpha_divergence_of_close_networks_has_the_gradient_of_the_divergence():
    """Against torch's gradient of the divergences as they are defined, where no weight is clipped."""
    generator = torch.Generator().manual_seed(4)
    taught = torch.randn(50, 10, generator=generator, dtype=torch.float64)
    student = (taught + 0.3 * torch.randn(50, 10, generator=generator, dtype=torch.float64)).requires_grad_()
    DISTIL_LOSSES["alpha"](student, taught).backward()
    found = student.grad.clone()
    student.grad = None
    q, p = student.softmax(1), taught.softmax(1)
    assert (q / p).max() < 5
    divergences = torch.stack([(q * (q / p - 1)).sum(1) / 2, (p * (p / q).log()).sum(1)])
    divergences.amax(0).mean().backward()
    torch.testing.assert_close(found, student.grad)
    same = torch.zeros(3, 10, requires_grad=True)
    DISTIL_LOSSES["alpha"](same, same.detach()).backward()
    assert same.grad.abs().max() < 1e-7


def test_the_largest_network_of_a_step_is_a_teacher_beside_the_labels():
    images, labels = batch()
    archs = [replace(SPACE.largest(), resolution=24), SPACE.smallest()]
    net = network().train()
    outputs = [net(images, arch) for arch in archs]
    losses = [F.cross_entropy(one, labels, label_smoothing=0.1) for one in outputs]
    losses[1] = losses[1] + 0.5 * F.cross_entropy(outputs[1], outputs[0].detach().softmax(1))
    lessons = [Lesson(archs[0]), Lesson(archs[1], "largest", 0.5)]
    loss = Learner(network(), RECIPE, alone).step(images, labels, lessons, 0.0)
    torch.testing.assert_close(loss, (sum(losses) / 2).detach())


@pytest.mark.parametrize("gradients", ["mean", "sum"])
def test_a_lesson_counts_by_its_share(gradients):
    """With a share of 0 the update is that of the others alone; with 0.5 the mean is weighted, and so is the sum."""
    images, labels = batch()
    large, small = Lesson(replace(SPACE.largest(), resolution=24)), Lesson(SPACE.smallest())

    def gradient(*lessons):
        learner = Learner(network(), replace(RECIPE, gradients=gradients), alone)
        loss = learner.step(images, labels, lessons, 0.0)
        return loss, learner.gradient.clone()

    (large_loss, first), (small_loss, second) = gradient(large), gradient(small)
    torch.testing.assert_close(gradient(large, replace(small, share=0.0)), (large_loss, first))
    loss, found = gradient(large, replace(small, share=0.5))
    torch.testing.assert_close(loss, (large_loss + 0.5 * small_loss) / 1.5)
    torch.testing.assert_close(found, (first + 0.5 * second) / (1.5 if gradients == "mean" else 1))


def test_the_average_of_the_weights_follows_the_updates_and_resumes():
    """Against the same sum step by step; a learner that has loaded the state after two updates goes on in the same way."""
    images, labels = batch()
    recipe = replace(RECIPE, average=0.3)
    learner = Learner(network(), recipe, alone)
    expected = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    for update in range(4):
        learner.step(images, labels, [Lesson(SPACE.smallest())], 0.05)
        decay = min(0.3, (1 + update) / (10 + update))
        for name, p in learner.net.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
        for name, p in learner.evaluated.named_parameters():
            torch.testing.assert_close(p, expected[name], msg=name)
        if update == 1:
            state = {name: tensor.clone() for name, tensor in learner.state().items()}
    assert not torch.equal(learner.evaluated.classifier.weight, learner.net.classifier.weight)
    resumed = Learner(network(seed=9), recipe, alone)
    resumed.load(state)
    for _ in range(2):
        resumed.step(images, labels, [Lesson(SPACE.smallest())], 0.05)
    for ours, theirs in ((resumed.net, learner.net), (resumed.evaluated, learner.evaluated)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_without_an_average_the_weights_themselves_are_evaluated():
    learner = Learner(network(), RECIPE, alone)
    assert learner.evaluated is learner.net and not any(name.startswith("average.") for name in learner.state())


def test_statistics_of_averaged_weights_are_computed_anew_after_an_update():
    split = Split(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    learner = Learner(network(), replace(RECIPE, average=0.9), alone)
    evaluator = Evaluator(learner.evaluated, Scale.of(split), split, 8)
    first = evaluator.statistics(SPACE.smallest())
    learner.step(*batch(), [Lesson(SPACE.smallest())], 0.1)
    assert evaluator.statistics(SPACE.smallest()) is not first


def test_the_sandwich_teaches_all_others_by_what_the_largest_says():
    """The gradient is that of: the largest by labels, the others by its soft labels alone, which get no gradient."""
    images, labels = batch()
    lessons = replace(PHASE, draw=Sandwich(2)).lessons(random.Random(0))
    lessons = [replace(lesson, arch=replace(lesson.arch, resolution=24)) for lesson in lessons]
    archs = [lesson.arch for lesson in lessons]
    assert archs[0] == replace(SPACE.largest(), resolution=24) and archs[1] == replace(SPACE.smallest(), resolution=24)
    assert len(archs) == 4
    learner, net = Learner(network(), RECIPE, alone), network().train()
    loss = learner.step(images, labels, lessons, 0.0)
    outputs = [net(images, arch) for arch in archs]
    soft = outputs[0].detach().softmax(1)
    losses = [F.cross_entropy(outputs[0], labels, label_smoothing=0.1), *(F.cross_entropy(o, soft) for o in outputs[1:])]
    torch.testing.assert_close(loss, (sum(losses) / 4).detach())
    (sum(losses) / 4).backward()
    ours = {name: p.grad for name, p in learner.net.named_parameters()}
    for name, p in net.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad  # no sampled network used it
        torch.testing.assert_close(ours[name], expected, msg=name)


def test_summed_gradients_are_the_mean_ones_times_the_networks():
    gradients = []
    for way in ("mean", "sum"):
        learner = Learner(network(), replace(RECIPE, gradients=way), alone)
        learner.step(*batch(), [Lesson(SPACE.smallest()), Lesson(SPACE.uniform(24, 2, 5, 2))], 0.0)
        gradients.append(learner.gradient.clone())
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_dropout_is_drawn_from_its_stream_and_keeps_the_mean():
    learner = Learner(network(), replace(RECIPE, dropout=0.25), alone)
    features = torch.ones(200, 50)
    dropped = learner._drop(features, torch.Generator().manual_seed(1))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    losses = [
        learner.step(*batch(), [Lesson(SPACE.smallest())], 0.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != learner.step(*batch(), [Lesson(SPACE.smallest())], 0.0)


def test_bfloat16_changes_the_gradient_a_little_and_weights_stay_float32():
    gradients = []
    for bfloat16 in (False, True):
        learner = Learner(network(), replace(RECIPE, bfloat16=bfloat16), alone)
        learner.step(*batch(), [Lesson(SPACE.smallest())], 0.01)
        assert all(p.dtype == torch.float32 for p in learner.net.parameters())
        gradients.append(learner.gradient.clone())
    assert not torch.equal(*gradients)
    assert F.cosine_similarity(*gradients, dim=0) > 0.95


def test_a_phase_of_one_network_trains_only_its_weights():
    arch = SPACE.smallest()
    phase = replace(PHASE, draw=Given((arch,)))
    assert drawn(phase, 0) == [arch] and phase.extremes == (arch, arch)
    learner = Learner(network(), replace(RECIPE, weight_decay=0.0), alone)
    before = {name: p.clone() for name, p in learner.net.named_parameters()}
    images, labels = batch(resolution=arch.resolution)
    train_step(learner, phase.lessons(random.Random(0)), images, labels, None, 0.1)
    changed = {n for n, p in learner.net.named_parameters() if not torch.equal(p, before[n])}
    graph = SPACE.graph(arch)
    used = {node.name for node in graph.nodes} - graph.heads - {"average"}
    assert {name.split(".")[1] for name in changed if name.startswith("parts.")} == used
    depthwise = next(n for n in sorted(changed) if before[n].shape[-1:] == (7,))
    change = (learner.net.get_parameter(depthwise) - before[depthwise]).abs().amax((0, 1))
    assert change[2:5, 2:5].min() > 0 and change.sum() == change[2:5, 2:5].sum()  # a kernel of 3 is the centre of 7


def test_rates_of_large_batches_grow_from_the_unscaled_one():
    """As published: warm-up from lr to lr times the workers' share, then a cosine to 0."""
    phase = replace(PHASE, lr_scale=32.0)
    rates = [by_phase([phase], 0, step, 10) for step in range(20)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx((0.1 + 3.2) / 2)
    assert max(rates) == rates[10] == pytest.approx(3.2)


def test_a_teacher_in_training_mode_goes_by_each_batch():
    split = Split(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    evaluator = Evaluator(network(), Scale.of(split), split, 40)
    x = torch.randn(8, 3, 24, 24)
    largest = replace(SPACE.largest(), resolution=24)
    assert torch.equal(Teacher(evaluator, norm="batch")(x), network().train()(x, largest))


def test_statistics_are_remembered_until_a_weight_changes():
    split = Split(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    net = network()
    evaluator = Evaluator(net, Scale.of(split), split, 8)
    first = evaluator.statistics(SPACE.smallest())
    assert evaluator.statistics(SPACE.smallest()) is first
    learner = Learner(net, RECIPE, alone)
    learner.step(*batch(), [Lesson(SPACE.smallest())], 0.1)
    second = evaluator.statistics(SPACE.smallest())
    assert second is not first
    assert any(not torch.equal(first[name][0], second[name][0]) for name in first)


def test_the_rate_warms_up_and_falls_to_nothing():
    rates = [by_phase([PHASE], 0, step, 10) for step in range(20)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.003


def test_top1_counts_the_largest_logit_and_ties_go_to_the_lowest_class():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 1.0], [0.0, 5.0]])
    assert top1(logits, torch.tensor([1, 1, 0, 1])) == 0.75
