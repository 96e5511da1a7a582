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

MOST_IMPORTANCE = 5.0  # at which the importance weights of the alpha-divergence are clipped


def adaptive_alpha(logits_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """A loss whose gradient is that of the alpha-divergence of alpha -1 or 1, for each image the larger of both.

    With alpha 1, the Kullback-Leibler divergence, a student is penalised for missing what its teacher expects; with alpha
    -1 for expecting what its teacher does not. Importance weights (student over teacher) are clipped at 5.
    Source: AlphaNet, arXiv:2102.07954, sec. 4 and its released code.
    """
    log_q = logits_NC.log_softmax(1)
    log_p = teacher_NC.log_softmax(1)
    with torch.no_grad():
        q, p = log_q.exp(), log_p.exp()
        weights = (log_q - log_p).exp().clamp(max=MOST_IMPORTANCE)  # (p / q) ** alpha of alpha -1
        negative_N = (q * (weights - 1)).sum(1) / 2
        positive_N = (p * (log_p - log_q)).sum(1)
        factors = torch.where((negative_N > positive_N)[:, None], q * (weights - 0.5), -p)
    return (factors * log_q).sum(1).mean()


# Losses between a student's logits and a teacher's, both [N, C]: soft cross-entropy, the squared error of the logits, or
# the adaptive alpha-divergence.
DISTIL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": lambda logits_NC, teacher_NC: F.cross_entropy(logits_NC, teacher_NC.softmax(1)),
    "mse": F.mse_loss,
    "alpha": adaptive_alpha,
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
    if lesson.learns_from in ("teacher", "largest"):
        taught_NC = teacher_NC if lesson.learns_from == "teacher" else first_NC
        assert taught_NC is not None, f"{lesson.arch.key} learns from the {lesson.learns_from}, but there is none"
        loss = loss + lesson.distil * soft_loss(logits_NC, taught_NC)
    return loss
