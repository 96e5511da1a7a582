"""A phase of training is data: which choices are open, for how long, at which rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ofa.space import Space


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of progressive shrinking (Once-for-All, arXiv:1908.09791, sec. 3.3 and app. B).

    `space` is what sub-networks are drawn from, `subnets` how many a step, and with `largest` every step also
    trains the largest network (half of BigNAS's sandwich rule, arXiv:2003.11142, sec. 3.1). `distil` weighs the
    largest network's soft labels, as the first phase left it, against the true ones; 0 is without a teacher.
    """

    name: str
    space: Space
    epochs: int
    warmup_epochs: float
    lr: float
    subnets: int
    largest: bool
    distil: float

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Linear warm-up from a hundredth, then a cosine down to 0 at the end of the phase."""
        total, warmup = self.epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.lr * max(0.01, step / warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
