"""A training as data: its phases, its recipe, its plan."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ofa.arch import Arch
from ofa.draws import Draw, Lesson, Uniform
from ofa.space import Space


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of progressive shrinking (Once-for-All, arXiv:1908.09791, sec. 3.3 and app. B).

    Every update trains the sub-networks that `draw` samples from `space`. `distil` is the weight of the soft labels of a
    teacher, the largest network, relative to the true ones; with 0 there is no teacher. The weights of the `teacher` are
    "first": those that training starts from, or without them those at the end of the first phase; "previous": those at the
    end of the phase before; or "largest": the present ones, which the largest network learns in the same step. The learning
    rate of large batches is `lr_scale` times `lr`, warmed up from `lr` itself (arXiv:1706.02677). The exits up to that of a
    sampled network are trained together with the weights `joint_exits`, a name in `ofa.exits.WEIGHTS`; "last" trains that
    one alone. The epochs `before` and `after` it are of other trainings, with which it shares one cosine of the learning
    rate.

    In the first `ramp_epochs` the weight of the gradients of all sub-networks but the first of a step, which is the largest,
    rises from 0 to 1 (DepS, ECCV 2024).

    A phase with `patience` ends early, once so many epochs have passed without a better top-1 of its largest network on the
    selection split. `summed_exits` are the weights of the logits of exits when its networks are evaluated.
    """

    name: str
    space: Space
    epochs: int
    lr: float
    warmup_epochs: float = 0.0
    draw: Draw = field(default_factory=Uniform)
    distil: float = 0.0
    teacher: Literal["first", "previous", "largest"] = "first"
    lr_scale: float = 1.0
    joint_exits: str = "last"
    before: int = 0
    after: int = 0
    patience: int = 0
    summed_exits: str = "last"
    ramp_epochs: float = 0.0

    def lessons(self, rng: random.Random, done: float = math.inf) -> list[Lesson]:
        """The sub-networks of one training step and the target of each one's loss. done: epochs of the phase before it."""
        drawn = [one.with_exits(self.joint_exits) for one in self.draw.lessons(self.space, rng)]
        if done < self.ramp_epochs:
            drawn = [drawn[0], *(replace(one, share=done / self.ramp_epochs) for one in drawn[1:])]
        if not self.distil:
            return drawn
        teacher: Literal["teacher", "largest"] = "teacher" if self.has_teacher else "largest"
        taught = drawn if self.has_teacher else drawn[1:]
        return [*drawn[: len(drawn) - len(taught)],
                *(replace(one, learns_from=teacher, distil=self.distil) if one.learns_from == "labels" else one
                  for one in taught)]  # fmt: skip

    @property
    def has_teacher(self) -> bool:
        """Whether its networks learn from another one than those of their own step."""
        return bool(self.distil) and self.teacher != "largest"

    @property
    def extremes(self) -> tuple[Arch, Arch]:
        """The largest and the smallest network that this phase trains."""
        return self.draw.ends(self.space)

    def lr_at(self, step: float, warmup: float, total: float) -> float:
        """The learning rate at `step` of `total`: linear warm-up for `warmup` steps, then a cosine down to 0.

        The warm-up starts from `lr`, or from a hundredth of a learning rate that is not scaled.
        """
        peak = self.lr * self.lr_scale
        if step < warmup and self.lr_scale > 1:
            return self.lr + (peak - self.lr) * step / warmup
        if step < warmup:
            return peak * max(0.01, step / warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def best_epoch(top1: Sequence[float]) -> int:
    """The epoch (from 1) with the highest of these accuracies, one for each epoch; of equal ones the first."""
    return 1 + max(range(len(top1)), key=lambda index: top1[index])


# The learning rate, given the phases, the number of a phase, the step in it, and the steps of an epoch.
Schedule = Callable[[Sequence[Phase], int, int, int], float]


def by_phase(phases: Sequence[Phase], number: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate with a warm-up and a cosine down to 0 in every phase."""
    phase = phases[number]
    total = (phase.before + phase.epochs + phase.after) * steps_per_epoch
    return phase.lr_at(phase.before * steps_per_epoch + step, phase.warmup_epochs * steps_per_epoch, total)


def over_all(phases: Sequence[Phase], number: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate on one cosine over all phases, times each phase's own peak; only the first phase warms up."""
    before = sum(phase.epochs for phase in phases[:number]) * steps_per_epoch
    total = sum(phase.epochs for phase in phases) * steps_per_epoch
    return phases[number].lr_at(before + step, phases[0].warmup_epochs * steps_per_epoch, total)


SCHEDULES: dict[str, Schedule] = {"phase": by_phase, "whole": over_all}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings that are the same in every phase of a training: optimiser, losses, precision."""

    momentum: float
    weight_decay: float  # of all weights except norms and biases
    label_smoothing: float
    clip_norm: float  # gradient-norm clipping threshold
    distil_loss: Literal["ce", "mse", "alpha"] = "ce"  # a name in `ofa.losses.DISTIL_LOSSES`
    gradients: Literal["mean", "sum"] = (
        "mean"  # how the gradients of a step's sub-networks are combined; the published code takes the sum
    )
    dropout: float = 0.0  # probability, for the features before the classifier
    optimizer: str = "sgd"  # a name in `ofa.train.OPTIMIZERS`
    average: float = 0.0  # decay of the moving average of the weights that are evaluated and kept; 0: the weights themselves
    bfloat16: bool = False  # autocast of the forward pass; weights and sums stay float32


@dataclass(frozen=True, slots=True)
class Plan:
    """A training: all settings that its result depends on, except the images and the number of workers.

    weights: the URL of a trained supernet's `weights.safetensors` to start from; without it weights are sampled.
    head: whether the classifiers of `weights` are "kept", or "new" ones are sampled, which may have other classes.
    own_draws: each worker samples its own sub-networks in a step; otherwise all workers train the same ones.
    keep_momentum: momentum is kept from phase to phase; otherwise each phase starts without.
    """

    space: Space
    classes: int
    phases: tuple[Phase, ...]
    recipe: Recipe
    batch: int  # images a step, of all workers together
    seed: int
    weights: str = ""
    head: Literal["kept", "new"] = "kept"
    zero_last_gamma: bool = False  # each residual block starts as the identity
    schedule: str = "phase"  # a name in `SCHEDULES`
    keep_momentum: bool = False
    own_draws: bool = True
    teacher_norm: Literal["own", "batch"] = "own"  # see `ofa.teacher.Teacher`
    teacher_exits: str = "last"  # see `ofa.teacher.Teacher`
    calibration_images: int = 512  # images of the training split for batch-norm calibration
    evaluation_batch: int = 128
    calibration_batch: int = 0  # of the calibration images; 0: as evaluation_batch
    validate_every: int = 5  # epochs between evaluations on the selection split
    validate_images: int = 10000  # images of the selection split for an evaluation, at most
    device: str = "cpu"
    threads: int = 1  # CPU threads of each worker

    @property
    def evaluation(self) -> tuple[int, int, int]:
        """The calibration images, and the images per batch of an evaluation and of the calibration."""
        return self.calibration_images, self.evaluation_batch, self.calibration_batch or self.evaluation_batch

    def epochs_before(self, phase: str) -> int:
        """The number of epochs of all phases before the one of this name."""
        names = [one.name for one in self.phases]
        return sum(one.epochs for one in self.phases[: names.index(phase)])

    def lr_at(self, number: int, step: int, steps_per_epoch: int) -> float:
        """The learning rate at `step` (from 0) of phase `number`."""
        return SCHEDULES[self.schedule](self.phases, number, step, steps_per_epoch)
