"""Training steps of a supernet: several sub-networks, one reduction of gradients, one update."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.images import resize
from ofa.phases import Phase
from ofa.supernet import Supernet

Average = Callable[[Tensor], None]  # replaces a tensor by its mean over all workers


@dataclass(frozen=True, slots=True)
class Recipe:
    """What stays the same in every phase."""

    momentum: float
    weight_decay: float
    label_smoothing: float
    clip_norm: float


class Learner:
    """A supernet with its optimiser. Gradients live in one flat buffer, so workers average them in one go."""

    def __init__(self, net: Supernet, recipe: Recipe, average: Average) -> None:
        self.net = net
        self.recipe = recipe
        self.average = average
        parameters = [p for p in net.parameters() if p.requires_grad]
        self.gradient = torch.zeros(sum(p.numel() for p in parameters))
        offset = 0
        for p in parameters:
            p.grad = self.gradient[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        self.reset_momentum()

    def reset_momentum(self) -> None:
        """Forgets the past steps, as every phase does when it starts."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self.recipe.momentum, nesterov=True)

    def step(
        self, images: Tensor, labels: Tensor, archs: Sequence[Arch], lr: float, soft_labels: Tensor | None, distil: float
    ) -> Tensor:
        """One update by the mean gradient of `archs`, all at the resolution of `images`; the mean loss.

        soft_labels: class probabilities [N, classes] of the teacher, weighed by `distil`.
        """
        self.net.train()
        self.gradient.zero_()
        total = torch.zeros(())
        for arch in archs:
            logits = self.net(images, arch)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
            if soft_labels is not None:
                loss = loss + distil * F.cross_entropy(logits, soft_labels)
            loss = loss / len(archs)
            loss.backward()
            total += loss.detach()
        self.average(self.gradient)
        norm = self.gradient.norm()
        if norm > self.recipe.clip_norm:
            self.gradient *= self.recipe.clip_norm / norm
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return total

    def state(self) -> dict[str, Tensor]:
        """Weights, stored statistics and momentum by name; `load` continues from it to the same result."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, p in self.net.named_parameters():
            momentum = self.optimizer.state.get(p, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continues from what `state` gave."""
        self.net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
        self.reset_momentum()
        for name, p in self.net.named_parameters():
            if f"momentum.{name}" in tensors:
                self.optimizer.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].clone()


class Teacher:
    """The largest network, frozen: evaluation mode, with statistics of its own at every resolution."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.net = evaluator.net.eval().requires_grad_(False)
        largest = self.net.space.largest()
        self.archs = {r: replace(largest, resolution=r) for r in self.net.space.resolutions}
        self.statistics = {r: evaluator.statistics(arch) for r, arch in self.archs.items()}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Class probabilities [N, classes]."""
        resolution = images.shape[-1]
        return self.net(images, self.archs[resolution], self.statistics[resolution]).softmax(1)


def draw_archs(phase: Phase, rng: random.Random) -> list[Arch]:
    """The sub-networks of one step: one resolution for all, everything else each on its own."""
    at_one_resolution = phase.space.only(resolutions=[rng.choice(phase.space.resolutions)])
    sampled = [at_one_resolution.sample(rng) for _ in range(phase.subnets)]
    return [at_one_resolution.largest(), *sampled] if phase.largest else sampled


def train_step(
    learner: Learner, phase: Phase, images: Tensor, labels: Tensor, teacher: Teacher | None, lr: float, rng: random.Random
) -> Tensor:
    """Draws this worker's sub-networks and makes one update; the mean loss over them."""
    archs = draw_archs(phase, rng)
    images = resize(images, archs[0].resolution)
    soft_labels = teacher(images) if teacher is not None and phase.distil else None
    return learner.step(images, labels, archs, lr, soft_labels, phase.distil)
