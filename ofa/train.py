"""Training a supernet: the loop over phases, epochs and steps, and the update of one step.

It depends neither on Ray nor on a store: images, random streams, teachers and the observer are arguments, so the same
loop runs in a test, in one process on a GPU machine, and in Ray's workers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ofa.draws import Lesson
from ofa.images import resize, torch_generator
from ofa.losses import joint_loss
from ofa.phases import Phase, Plan, Recipe
from ofa.sorting import sort_channels
from ofa.supernet import Supernet
from ofa.teacher import Teacher

# Optimisers of parameter groups; the learning rate is set before every step.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda groups, recipe: torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0),
    "adamw": lambda groups, recipe: torch.optim.AdamW(groups, lr=0.0),
}
# What an optimiser keeps of a parameter, by its name in a checkpoint.
KEPT = {"momentum": "momentum_buffer", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
UPDATES = "updates"  # the number of updates in the averages of a checkpoint

Average = Callable[[Tensor], None]  # replaces a tensor by its mean over all workers
Streams = Callable[..., random.Random]  # an independent generator for a purpose, by names and numbers


@dataclass(frozen=True, slots=True)
class Position:
    """The next step of a training, by its phase, epoch and step, all counted from 0."""

    phase: int = 0
    epoch: int = 0
    step: int = 0


START = Position()


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a step's batch, which has random streams of its own: the same part for any number of workers.

    images: [N, 3, S, S], augmented, at the largest resolution; labels: [N]. weight: N relative to the mean number of images
    that a worker has in the step, so that the mean over workers of their weighted gradients is a mean over all images.
    """

    number: int
    images: Tensor
    labels: Tensor
    weight: float = 1.0


class Feed(Protocol):
    """One worker's part of the training images."""

    steps_per_epoch: int

    def epoch(self, phase: str, epoch: int, start: int) -> Iterator[tuple[int, Sequence[Shard]]]:
        """Yields (step, the worker's shards of its batch) from step `start` on."""
        ...


class Observer:
    """Is called after every step, epoch and phase of a training; this base class does nothing."""

    def step_done(self, number: int, loss: Tensor) -> None:
        """Is called after every update of phase `number`; `loss` is the mean over the worker's sub-networks,
        weighted as its gradients are: the mean over workers is one over all images of the step.
        """

    def epoch_done(self, number: int) -> None:
        """Is called after every epoch of phase `number`."""

    def ends(self, number: int) -> bool:
        """Whether phase `number` ends early, with the epoch that is just done."""
        return False

    def phase_done(self, number: int) -> None:
        """Is called at the end of phase `number`."""


class Learner:
    """A supernet with its optimiser. Gradients are in one flat buffer, so workers average them in one operation.

    evaluated: the supernet whose weights are evaluated and kept: with `recipe.average` one with the moving average of the
    weights over the updates, otherwise `net` itself.
    """

    def __init__(self, net: Supernet, recipe: Recipe, average: Average) -> None:
        self.net = net
        self.evaluated = copy.deepcopy(net).requires_grad_(False) if recipe.average else net
        self.updates = 0  # in the moving average
        self.recipe = recipe
        self.average = average
        parameters = [p for p in net.parameters() if p.requires_grad]
        self.gradient = torch.zeros(sum(p.numel() for p in parameters), device=net.device)
        offset = 0
        for p in parameters:
            p.grad = self.gradient[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        self.reset_momentum()

    def reset_momentum(self) -> None:
        """Replaces the optimiser by a new one without momentum."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = OPTIMIZERS[self.recipe.optimizer](groups, self.recipe)

    @torch.no_grad()
    def sort_channels(self, trained_expands: tuple[float, ...]) -> None:
        """Sorts channels (`ofa.sorting.sort_channels`); reorders momentum and average of every weight in the same way."""
        pairs: list[tuple[Any, Tensor]] = list(zip(self.net.parameters(), self.evaluated.parameters(), strict=True))
        for p, averaged in pairs:
            state = self.optimizer.state.get(p, {}).values()
            kept = [tensor for tensor in state if tensor is not None and tensor.shape == p.shape]
            p.companions = tuple(kept if averaged is p else [*kept, averaged])
        sort_channels(self.net, trained_expands)
        for p, _ in pairs:
            del p.companions

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        lessons: Sequence[Lesson],
        lr: float,
        *,
        teacher: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Makes one update from `lessons` on the images of one shard; see `add_gradients`, whose loss it returns."""
        self.gradient.zero_()
        loss = self.add_gradients(images, labels, lessons, teacher=teacher, generator=generator)
        self.update(lr, shares_of(lessons))
        return loss

    def add_gradients(
        self,
        images: Tensor,
        labels: Tensor,
        lessons: Sequence[Lesson],
        *,
        weight: float = 1.0,
        teacher: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adds the gradients of the mean loss of `lessons`, all at the resolution of `images`; returns that loss.

        The mean is weighted by the lessons' shares. images: [N, 3, R, R], labels: [N]. weight: of the loss, see `Shard`.
        teacher: its logits [N, classes], for lessons that learn from it. generator: samples the dropped features.
        """
        self.net.train()
        drop = None if generator is None or not self.recipe.dropout else partial(self._drop, generator=generator)
        total, first = torch.zeros((), device=self.net.device), None
        shares = shares_of(lessons)
        for lesson in lessons:
            with torch.autocast(self.net.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
                found = self.net(images, lesson.arch, drop=drop, exits=lesson.exits)
            logits = [one.float() for one in (found if lesson.exits else [found])]
            loss = joint_loss(
                lesson,
                logits,
                labels,
                teacher_NC=teacher,
                first_NC=first,
                distil_loss=self.recipe.distil_loss,
                label_smoothing=self.recipe.label_smoothing,
            )
            first = logits[-1].detach() if first is None else first
            loss = loss / shares if lesson.share == 1 else loss * (lesson.share / shares)
            loss = loss if weight == 1 else loss * weight
            loss.backward()
            total += loss.detach()
        return total

    def update(self, lr: float, shares: float) -> None:
        """Makes one update by the mean over all workers of the gradients that were added. shares: those of each shard."""
        if self.recipe.gradients == "sum":
            self.gradient *= shares
        self.average(self.gradient)
        norm = self.gradient.norm()
        # chosen on the device: an `if` would wait for a GPU in every step
        self.gradient *= torch.where(norm > self.recipe.clip_norm, self.recipe.clip_norm / norm, torch.ones_like(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self._only_trained():
            self.optimizer.step()
        if self.recipe.average:
            self._add_to_average()

    def _add_to_average(self) -> None:
        """Moves the average of the weights towards the present ones, in the first updates with a lower decay."""
        decay = min(self.recipe.average, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        get_ema_multi_avg_fn(decay)(list(self.evaluated.parameters()), list(self.net.parameters()), None)

    @contextmanager
    def _only_trained(self) -> Iterator[None]:
        """Without the gradients of networks that no worker trained in this step, which the optimiser then leaves alone.

        Else momentum and weight decay would change the weights of a network that shares none with those of the step.
        """
        separate = self.net.separate
        idle = [] if len(separate) == 1 else [p for network in separate if not _any_gradient(network) for p in network]
        gradients = [p.grad for p in idle]
        for p in idle:
            p.grad = None
        try:
            yield
        finally:
            for p, gradient in zip(idle, gradients, strict=True):
                p.grad = gradient

    def _drop(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features, each set to 0 with the recipe's probability and the others scaled to keep the mean."""
        keep = 1 - self.recipe.dropout
        mask = torch.rand(features.shape, generator=generator, device=generator.device).to(features.device) < keep
        return features * mask / keep

    def state(self) -> dict[str, Tensor]:
        """Weights, stored statistics, momentum and averages by name; after `load` training continues to the same result."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        if self.recipe.average:
            tensors |= {f"average.{name}": p for name, p in self.evaluated.named_parameters()}
            tensors[UPDATES] = torch.tensor(self.updates)
        for name, p in self.net.named_parameters():
            for key, field in KEPT.items():
                if (tensor := self.optimizer.state.get(p, {}).get(field)) is not None:
                    tensors[f"{key}.{name}"] = tensor
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors that `state` returned."""
        self.net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
        if self.recipe.average:
            # the weights of a finished phase have no averages beside them, since they are averages
            names = [name for name, _ in self.evaluated.named_parameters()]
            averaged = {name: tensors.get(f"average.{name}", tensors[f"net.{name}"]) for name in names}
            self.evaluated.load_state_dict(averaged, strict=False)  # its statistics are computed anew before they are used
            self.updates = int(tensors.get(UPDATES, 0))
        self.reset_momentum()
        for name, p in self.net.named_parameters():
            for key, field in KEPT.items():
                if (tensor := tensors.get(f"{key}.{name}")) is not None:
                    device = p.device if tensor.shape == p.shape else tensor.device  # a count of steps stays on the CPU
                    self.optimizer.state[p][field] = tensor.to(device, copy=True)


def shares_of(lessons: Sequence[Lesson]) -> float:
    """The number of lessons, each counted by its share."""
    return sum(lesson.share for lesson in lessons)


def train_phases(
    plan: Plan,
    learner: Learner,
    feed: Feed,
    streams: Streams,
    enter: Callable[[int, Supernet], Teacher | None],
    observer: Observer,
    *,
    start: Position = START,
) -> None:
    """Trains the learner's network by `plan`, from the step `start` to the end.

    enter: returns the teacher of a phase by its number; called before each phase (`ofa.teacher.Teachers.enter`). Every
    shard of a batch has its own crops and (with `plan.own_draws`) its own sub-networks, whichever worker trains it.
    """
    for number in range(start.phase, len(plan.phases)):
        phase = plan.phases[number]
        here = start if number == start.phase else Position(number)
        teacher = enter(number, learner.evaluated)
        if here.epoch == here.step == 0:
            _open(plan, learner, number)
        for epoch in range(here.epoch, phase.epochs):
            for step, shards in feed.epoch(phase.name, epoch, here.step if epoch == here.epoch else 0):
                lr = plan.lr_at(number, epoch * feed.steps_per_epoch + step, feed.steps_per_epoch)
                learner.gradient.zero_()
                loss, shares = torch.zeros((), device=learner.net.device), 0.0
                done = epoch + step / feed.steps_per_epoch
                for shard in shards:
                    own = (shard.number,) if plan.own_draws else ()
                    lessons = phase.lessons(streams("arch", phase.name, epoch, step, *own), done)
                    dropped = torch_generator(streams("drop", phase.name, epoch, step, shard.number))
                    images, labels, soft = _prepared(learner, lessons, shard.images, shard.labels, teacher)
                    loss = loss + learner.add_gradients(
                        images, labels, lessons, weight=shard.weight, teacher=soft, generator=dropped
                    )
                    shares = shares_of(lessons)
                learner.update(lr, shares)
                observer.step_done(number, loss)
            observer.epoch_done(number)
            if observer.ends(number):
                break
        observer.phase_done(number)


def _any_gradient(parameters: Sequence[torch.nn.Parameter]) -> bool:
    return bool(torch.stack([p.grad.abs().max() for p in parameters if p.grad is not None]).any())


def _open(plan: Plan, learner: Learner, number: int) -> None:
    """Prepares the learner before the first step of a phase."""
    if not plan.keep_momentum:
        learner.reset_momentum()
    if number and _expands(plan.phases[number - 1]) != _expands(plan.phases[number]):
        learner.sort_channels(_expands(plan.phases[number - 1]))


def _expands(phase: Phase) -> tuple[float, ...]:
    return phase.space.values("expand")


def train_step(
    learner: Learner,
    lessons: Sequence[Lesson],
    images: Tensor,
    labels: Tensor,
    teacher: Teacher | None,
    lr: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Makes one update on the images, resized to the lessons' resolution; returns the mean loss over the lessons."""
    images, labels, soft = _prepared(learner, lessons, images, labels, teacher)
    return learner.step(images, labels, lessons, lr, teacher=soft, generator=generator)


def _prepared(
    learner: Learner, lessons: Sequence[Lesson], images: Tensor, labels: Tensor, teacher: Teacher | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images [N, 3, R, R] at the lessons' resolution, labels [N], the teacher's logits [N, classes] if one needs them."""
    device = learner.net.device
    images, labels = resize(images.to(device), lessons[0].arch.resolution), labels.to(device)
    taught = teacher is not None and any(lesson.learns_from == "teacher" for lesson in lessons)
    return images, labels, teacher(images) if teacher is not None and taught else None
