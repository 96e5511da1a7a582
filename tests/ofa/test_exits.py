"""Training several exits together, and teachers of several exits, against plain torch."""

import random

import pytest
import torch
from torch.nn import functional as F

from cluster.config import ConfigError
from jobs.config import load
from ofa.draws import Lesson
from ofa.evaluate import Evaluator
from ofa.exits import SCHEMES, combined, exit_weights, joint
from ofa.images import Scale, Split
from ofa.norms import calibrate
from ofa.phases import Phase, Recipe
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.teacher import Teacher
from ofa.train import Learner, train_step

SPACE = get_space("ofav2_mbv3_ee_b_w0.25_32px").only(resolutions=(20,))
RECIPE = Recipe(momentum=0.9, weight_decay=0.0, label_smoothing=0.1, clip_norm=1e9)
ASCENDING = (0.06, 0.13, 0.20, 0.27, 0.34)  # as published


def network(seed=0):
    return Supernet(SPACE, 10, torch.Generator().manual_seed(seed))


def batch(count=6):
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 10


def evaluator(net):
    pixels = torch.randint(0, 256, (16, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    images = Split(pixels, torch.arange(16) % 10)
    return Evaluator(net, Scale((0.5,) * 3, (0.25,) * 3), images, 8), images


class TestWeights:
    def test_weights_of_five_exits_are_the_published_ones(self):
        assert exit_weights("ascending", 5) == pytest.approx(ASCENDING)
        assert exit_weights("descending", 5) == pytest.approx(ASCENDING[::-1])
        assert exit_weights("uniform", 5) == pytest.approx([0.2] * 5)
        assert exit_weights("last", 5) == (0, 0, 0, 0, 1)

    @pytest.mark.parametrize("kind", ["ascending", "descending", "uniform", "last"])
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_weights_of_fewer_exits_sum_to_one(self, kind, count):
        found = exit_weights(kind, count)
        assert len(found) == count and sum(found) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("scheme", "losses", "logits"),
        [
            ("UNIF", [1 / 4] * 4, [1 / 4] * 4),
            ("ASC", [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]),
            ("DESC", [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]),
            ("MIX", [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]),
        ],
    )
    def test_schemes_of_exits_that_are_added_up_are_the_published_ones(self, scheme, losses, logits):
        """i / (1 + .. + n), up to the fourth decimal to which the released code rounds."""
        found = [exit_weights(kind, 4) for kind in SCHEMES[scheme]]
        assert found == [pytest.approx(losses), pytest.approx(logits)]

    def test_the_last_exit_alone_is_no_joint_training(self):
        assert joint("last", 5) == () and joint("uniform", 3) == (1, 2, 3)


def test_the_gradient_of_a_joint_lesson_is_the_weighted_sum_of_the_exits_gradients():
    images, labels = batch()
    learner, net = Learner(network(), RECIPE, lambda tensor: None), network().train()
    arch = SPACE.largest()
    learner.step(images, labels, [Lesson(arch).with_exits("ascending")], 0.0)
    logits = net(images, arch, exits=(1, 2, 3, 4, 5))
    loss = sum(w * F.cross_entropy(one, labels, label_smoothing=0.1) for w, one in zip(ASCENDING, logits, strict=True))
    loss.backward()
    for (name, ours), theirs in zip(learner.net.named_parameters(), net.parameters(), strict=True):
        wanted = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(ours.grad, wanted, rtol=1e-4, atol=1e-6, msg=name)
    assert learner.net.part("exit1_classifier").weight.grad.abs().max() > 0


def test_a_network_that_exits_early_trains_the_exits_up_to_its_own():
    images, labels = batch()
    learner = Learner(network(), RECIPE, lambda tensor: None)
    arch = SPACE.only(exits=(2,)).largest()
    learner.step(images, labels, [Lesson(arch).with_exits("uniform")], 0.0)
    used = [bool(learner.net.part(f"exit{i}_classifier").weight.grad.abs().max()) for i in range(1, 6)]
    assert used == [True, True, False, False, False]


@pytest.mark.parametrize("norm", ["own", "batch"])
@pytest.mark.parametrize("kind", ["ascending", "descending", "uniform"])
def test_a_teacher_of_several_exits_adds_up_their_logits(kind, norm):
    found, _ = evaluator(network())
    images, _ = batch()
    teacher = Teacher(found, norm, kind)
    arch, exits = SPACE.largest(), (1, 2, 3, 4, 5)
    with torch.no_grad():
        if norm == "own":
            statistics = calibrate(found.net, arch, found.batches(found.calibration, 20), exits)
            logits = found.net.eval()(images, arch, statistics, exits=exits)
        else:
            logits = found.net.train()(images, arch, exits=exits)
    weights = {"ascending": ASCENDING, "descending": ASCENDING[::-1], "uniform": (0.2,) * 5}[kind]
    wanted = sum(weight * one for weight, one in zip(weights, logits, strict=True))
    torch.testing.assert_close(teacher(images), wanted)
    torch.testing.assert_close(combined(logits, weights), wanted)


def test_every_students_exit_learns_from_the_same_sum():
    """Whatever the exit of a sampled network, its soft labels are those of all the teacher's exits."""
    images, labels = batch()
    found, _ = evaluator(network(3))
    teacher, net = Teacher(found, "own", "ascending"), network().train()
    soft = teacher(images).softmax(1)
    for last in (1, 3, 5):
        learner = Learner(network(), RECIPE, lambda tensor: None)
        arch = SPACE.only(exits=(last,)).largest()
        loss = train_step(learner, [Lesson(arch, "teacher", 1.0)], images, labels, teacher, 0.0)
        logits = net(images, arch)
        wanted = F.cross_entropy(logits, labels, label_smoothing=0.1) - (soft * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-6)


def test_a_phase_gives_its_weights_of_exits_to_every_lesson():
    phase = Phase("full", SPACE, epochs=1, lr=0.1, joint_exits="ascending")
    assert [lesson.exits for lesson in phase.lessons(random.Random(0))] == [
        tuple(range(1, lesson.arch.exit + 1)) for lesson in phase.lessons(random.Random(0))
    ]


def test_logits_of_all_exits_in_one_pass_are_those_of_each_exit():
    found, images = evaluator(network())
    together = found.logits_by_exit(SPACE.largest(), (1, 3, 5), images)
    for last, logits in zip((1, 3, 5), together, strict=True):
        alone = found.logits(SPACE.only(exits=(last,)).largest(), images)
        assert torch.equal(logits, alone)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.teacher_exits=ascending", "train.teacher_exits is 'ascending', but the space digits has a single exit"),
        ("train.teacher_exits=first", "teacher_exits.*there are ascending, descending, uniform, last"),
        (
            'train.phases=[{name="a",epochs=1,lr=0.1,joint_exits="uniform"}]',
            "train.phases: 'a': joint_exits is 'uniform', but the space digits has a single exit",
        ),
    ],
)
def test_exits_that_a_space_has_not_are_one_line(setting, says):
    with pytest.raises(ConfigError, match=says):
        load("configs/digits.toml", [setting])
