"""The teacher of a phase: a frozen copy of the largest network with the weights of earlier training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ofa.evaluate import Evaluator
from ofa.exits import combined, exit_weights, joint
from ofa.norms import by_batch
from ofa.phases import Phase
from ofa.supernet import Supernet

State = Mapping[str, Tensor]  # `Supernet.state_dict()`

GIVEN = -1  # the number of the teacher with the weights that training starts from; other teachers have a phase's


class Teacher:
    """The largest network of the evaluator's supernet, frozen, with batch-norm statistics for every resolution.

    norm: "own" normalises by statistics from the calibration images, "batch" by those of each batch, as the published code.
    exits: a name in `ofa.exits.WEIGHTS`, the weights of its exits' logits, which are added up (ENS-KD of OFAv2,
    arXiv:2302.01888); "last" takes the last one's.
    """

    def __init__(self, evaluator: Evaluator, norm: Literal["own", "batch"] = "own", exits: str = "last") -> None:
        self.net = evaluator.net.eval().requires_grad_(False)
        largest = self.net.space.largest()
        self.archs = {r: replace(largest, resolution=r) for r in self.net.space.resolutions}
        self.exits = joint(exits, largest.exit)
        self.weights = exit_weights(exits, len(self.exits)) if self.exits else (1.0,)
        own = norm == "own"
        self.statistics = {r: evaluator.statistics(arch, self.exits) for r, arch in self.archs.items()} if own else {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [N, classes] for images [N, 3, R, R], where R is one of the space's resolutions."""
        resolution = images.shape[-1]
        arch = self.archs[resolution]
        if self.statistics:
            found = self.net(images, arch, self.statistics[resolution], exits=self.exits)
        else:
            found = self.net.run(images, arch, by_batch, exits=self.exits)
        return combined(found, self.weights) if self.exits else found


class Teachers:
    """The teacher of every phase that distils; each is made when its weights exist and freed when no later phase needs it.

    make: returns a teacher with a copy of the given weights. given: the weights that training starts from, or None.
    stored: the weights at the end of a phase, for a training that resumes after that phase.
    """

    def __init__(
        self,
        phases: tuple[Phase, ...],
        make: Callable[[State], Teacher],
        given: State | None,
        stored: Callable[[Phase], State],
    ) -> None:
        self.phases, self.make, self.given, self.stored = phases, make, given, stored
        self.known: dict[int, Teacher] = {}
        self.entered = GIVEN  # the last phase that this process entered

    def enter(self, number: int, net: Supernet) -> Teacher | None:
        """The teacher of phase `number`, or None; must be called for every phase before the phase changes `net`."""
        needed = {self.source(n) for n in range(number, len(self.phases)) if self.phases[n].has_teacher}
        self.known = {source: teacher for source, teacher in self.known.items() if source in needed}
        for source in sorted(needed - set(self.known)):
            if source == GIVEN:
                assert self.given is not None, "the first phase distils, but there are no weights to start from"
                self.known[source] = self.make(self.given)
            elif source == number - 1 == self.entered:
                self.known[source] = self.make(net.state_dict())
            elif source < number:
                self.known[source] = self.make(self.stored(self.phases[source]))
        self.entered = number
        return self.known[self.source(number)] if self.phases[number].has_teacher else None

    def source(self, number: int) -> int:
        """The number of the phase whose weights teach phase `number`, or `GIVEN`."""
        if self.phases[number].teacher == "previous":
            return number - 1
        return GIVEN if self.given is not None else 0
