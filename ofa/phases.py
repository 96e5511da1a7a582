"""A phase of training is data: which choices are open, for how long, at which rate."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ofa.arch import Arch
from ofa.space import Space


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of progressive shrinking (Once-for-All, arXiv:1908.09791, sec. 3.3 and app. B).

    `space` is what sub-networks are drawn from, `subnets` how many a step, and with `largest` every step also
    trains the largest network. `distil` weighs the largest network's soft labels, as the first phase left it, against
    the true ones; 0 is without a teacher. With `sandwich` every step trains the largest, the smallest and `subnets`
    others, and all but the largest learn from what it says in this step alone (BigNAS's rule with in-place
    distillation, arXiv:2003.11142, sec. 3.1; AlphaNet, arXiv:2102.07954, trains so too). `archs`, where given, are all
    that is drawn. The rate of large batches is `lr_scale` times `lr`, warmed up from `lr` itself (arXiv:1706.02677).
    """

    name: str
    space: Space
    epochs: int
    warmup_epochs: float
    lr: float
    subnets: int
    largest: bool
    distil: float
    sandwich: bool = False
    archs: tuple[Arch, ...] = ()
    lr_scale: float = 1.0

    def draw(self, rng: random.Random) -> list[Arch]:
        """The sub-networks of one step: one resolution for all, everything else each on its own."""
        if self.archs:
            return [rng.choice(self.archs)]
        here = self.space.only(resolutions=[rng.choice(self.space.resolutions)])
        sampled = [here.sample(rng) for _ in range(self.subnets)]
        if self.sandwich:
            return [here.largest(), here.smallest(), *sampled]
        return [here.largest(), *sampled] if self.largest else sampled

    @property
    def extremes(self) -> tuple[Arch, Arch]:
        """The largest and the smallest network that this phase trains."""
        if self.archs:
            return self.archs[-1], self.archs[0]
        return self.space.largest(), self.space.smallest()

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Linear warm-up from `lr`, or a hundredth of an unscaled rate; then a cosine down to 0 at the phase's end."""
        total, warmup = self.epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch
        peak = self.lr * self.lr_scale
        if step < warmup and self.lr_scale > 1:
            return self.lr + (peak - self.lr) * step / warmup
        if step < warmup:
            return peak * max(0.01, step / warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
