"""Training steps of a supernet: several sub-networks, one reduction of gradients, one update."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.images import resize
from ofa.norms import by_batch
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
    distil_loss: Literal["ce", "mse"] = "ce"  # against the teacher's probabilities, or its logits
    gradients: Literal["mean", "sum"] = "mean"  # of a step's sub-networks; the published code takes the sum
    dropout: float = 0.0  # of the features before the classifier
    bfloat16: bool = False  # autocast of the forward pass; weights and sums stay float32


class Learner:
    """A supernet with its optimiser. Gradients live in one flat buffer, so workers average them in one go."""

    def __init__(self, net: Supernet, recipe: Recipe, average: Average) -> None:
        self.net = net
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
        """Forgets the past steps, as every phase does when it starts."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self.recipe.momentum, nesterov=True)

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        archs: Sequence[Arch],
        lr: float,
        *,
        teacher: Tensor | None = None,
        distil: float = 0.0,
        in_place: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One update by the gradients of `archs`, all at the resolution of `images`; the mean loss.

        teacher: its logits [N, classes], weighed by `distil` against the labels. in_place: the first of `archs` learns
        from the labels, the others from what it says. generator: draws the dropped features.
        """
        self.net.train()
        self.gradient.zero_()
        drop = None if generator is None or not self.recipe.dropout else partial(self._drop, generator=generator)
        total, first = torch.zeros((), device=self.net.device), None
        for arch in archs:
            with torch.autocast(self.net.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
                logits = self.net(images, arch, drop=drop)
            logits = logits.float()
            if first is not None:
                loss = self._soft_loss(logits, first)
            else:
                loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
                if teacher is not None:
                    loss = loss + distil * self._soft_loss(logits, teacher)
                first = logits.detach() if in_place else None
            loss = loss / len(archs)
            loss.backward()
            total += loss.detach()
        if self.recipe.gradients == "sum":
            self.gradient *= len(archs)
        self.average(self.gradient)
        norm = self.gradient.norm()
        # chosen on the device: an `if` would wait for a GPU in every step
        self.gradient *= torch.where(norm > self.recipe.clip_norm, self.recipe.clip_norm / norm, torch.ones_like(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return total

    def _soft_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        if self.recipe.distil_loss == "mse":
            return F.mse_loss(logits, teacher)
        return F.cross_entropy(logits, teacher.softmax(1))

    def _drop(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Each feature left out with the recipe's probability, the others raised to the same mean."""
        keep = 1 - self.recipe.dropout
        mask = torch.rand(features.shape, generator=generator, device=generator.device).to(features.device) < keep
        return features * mask / keep

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
                self.optimizer.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].to(p.device, copy=True)


class Teacher:
    """The largest network, frozen: evaluation mode with statistics of its own at every resolution.

    in_training_mode: normalised by each batch's own statistics instead, as the published code does.
    """

    def __init__(self, evaluator: Evaluator, *, in_training_mode: bool = False) -> None:
        self.net = evaluator.net.eval().requires_grad_(False)
        largest = self.net.space.largest()
        self.archs = {r: replace(largest, resolution=r) for r in self.net.space.resolutions}
        self.statistics = {} if in_training_mode else {r: evaluator.statistics(arch) for r, arch in self.archs.items()}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        resolution = images.shape[-1]
        arch = self.archs[resolution]
        if not self.statistics:
            return self.net.run(images, arch, by_batch)
        return self.net(images, arch, self.statistics[resolution])


def train_step(
    learner: Learner,
    phase: Phase,
    images: Tensor,
    labels: Tensor,
    teacher: Teacher | None,
    lr: float,
    rng: random.Random,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws this worker's sub-networks and makes one update; the mean loss over them."""
    archs = phase.draw(rng)
    device = learner.net.device
    images, labels = resize(images.to(device), archs[0].resolution), labels.to(device)
    said = teacher(images) if teacher is not None and phase.distil else None
    return learner.step(
        images, labels, archs, lr, teacher=said, distil=phase.distil, in_place=phase.sandwich, generator=generator
    )
