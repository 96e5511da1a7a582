"""`adapt.json`: the progress of a search that adapts its supernet, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.arch import Arch
from ofa.documents import Document
from search.history import Axis
from search.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration(Document):
    """The archive at the end of an iteration; iteration 0 is the first archive, before any fine-tuning.

    evaluations and device_seconds are sums up to this iteration: sub-networks evaluated, and seconds of evaluators and
    training workers together. best: of the first objective that is a quality.
    """

    iteration: int
    evaluations: int
    device_seconds: float
    hypervolume: float
    best: float
    archive: int  # sub-networks in it
    front: int  # of them on the front


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation(Document):
    """All iterations; the hypervolumes have one reference point. tradeoffs: archs where one objective costs others most."""

    objectives: tuple[Axis, ...]
    iterations: tuple[Iteration, ...]
    tradeoffs: tuple[Arch, ...]

    @classmethod
    def of(
        cls,
        objectives: Sequence[Objective],
        reference: Sequence[float],
        rows: Sequence[Iteration],
        tradeoffs: Sequence[Arch],
    ) -> Adaptation:
        """The document of these iterations."""
        pairs = zip(objectives, reference, strict=True)
        axes = tuple(Axis(name=o.name, direction=o.direction, reference=worst) for o, worst in pairs)
        return cls(objectives=axes, iterations=tuple(rows), tradeoffs=tuple(tradeoffs))
