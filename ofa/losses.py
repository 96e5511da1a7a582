"""The loss of a lesson, which is one sub-network of a training step with its target.

Shape letters in this file: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ofa.draws import Lesson

# Losses between a student's logits and a teacher's, both [N, C]: soft cross-entropy, or the squared error of the logits.
DISTIL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": lambda logits_NC, teacher_NC: F.cross_entropy(logits_NC, teacher_NC.softmax(1)),
    "mse": F.mse_loss,
}


def joint_loss(lesson: Lesson, logits: Sequence[Tensor], labels_N: Tensor, **settings: Any) -> Tensor:
    """The loss of a lesson with one exit, or the weighted sum of the losses of its exits; settings: those of `loss_of`.

    Every exit has the same targets (OFAv2, arXiv:2302.01888). logits: [N, C] of each exit.
    """
    if not lesson.exits:
        [alone] = logits
        return loss_of(lesson, alone, labels_N, **settings)
    losses = [
        loss_of(lesson, one, labels_N, **settings) * weight for one, weight in zip(logits, lesson.weights, strict=True)
    ]
    return torch.stack(losses).sum()


def loss_of(
    lesson: Lesson,
    logits_NC: Tensor,
    labels_N: Tensor,
    *,
    teacher_NC: Tensor | None,
    first_NC: Tensor | None,
    distil_loss: str,
    label_smoothing: float,
) -> Tensor:
    """The mean loss of one lesson over the images of a step.

    teacher_NC, first_NC: logits of the teacher and of the step's first lesson, needed by lessons that learn from them.
    """
    soft_loss = DISTIL_LOSSES[distil_loss]
    if lesson.learns_from == "first":
        assert first_NC is not None, f"{lesson.arch.key} learns from the first lesson, but is the first"
        return soft_loss(logits_NC, first_NC)
    loss = F.cross_entropy(logits_NC, labels_N, label_smoothing=label_smoothing)
    if lesson.learns_from == "teacher":
        assert teacher_NC is not None, f"{lesson.arch.key} learns from a teacher, but there is none"
        loss = loss + lesson.distil * soft_loss(logits_NC, teacher_NC)
    return loss
