"""The measured quantities of a sub-network: `METERS` has a function for each, by the quantity's name in `Measured`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ofa.arch import Arch
from ofa.cost import cost
from ofa.graph import Cost, Graph
from ofa.memory import peak_bytes, weight_bytes
from ofa.record import NUMBERS, Measured
from ofa.space import Space

if TYPE_CHECKING:  # the names of meters must be available without torch
    from ofa.evaluate import Evaluator
    from ofa.images import Split


@dataclass(frozen=True)
class Subject:
    """The arguments of a meter: an arch, its space, the number of classes, the evaluator, and held-out images."""

    arch: Arch
    space: Space
    classes: int
    evaluator: Evaluator
    images: Split

    @cached_property
    def cost(self) -> Cost:
        """The exact MACs and parameter count of the arch."""
        return cost(self.space, self.arch, self.classes)

    @property
    def graph(self) -> Graph:
        """The nodes of the arch's network."""
        return self.space.graph(self.arch, (), self.classes)


Meter = Callable[[Subject], float]


def top1(subject: Subject) -> float:
    """The fraction of the images that are classified correctly."""
    return subject.evaluator.top1(subject.arch, subject.images)


def macs(subject: Subject) -> int:
    """The exact number of multiply-accumulates for one image."""
    return subject.cost.macs


def params(subject: Subject) -> int:
    """The exact number of trainable values."""
    return subject.cost.params


def activation_bytes(subject: Subject) -> int:
    """The exact peak of the activations' bytes for one image (`ofa.memory`)."""
    return peak_bytes(subject.graph, subject.arch.resolution)


def weights(subject: Subject) -> int:
    """The exact bytes of the weights and of the norms' running statistics."""
    return weight_bytes(subject.graph)


def energy(subject: Subject) -> float:
    """The energy of the extracted network for one image in millijoules, by the processor's counters (`ofa.energy`).

    It is no deterministic value: two runs of one seed may have different fronts.
    """
    import torch

    from ofa.energy import energy_mj
    from ofa.extract import extract

    net = extract(subject.evaluator.net, subject.arch, subject.evaluator.statistics(subject.arch))
    image = torch.zeros(1, 3, subject.arch.resolution, subject.arch.resolution)
    with torch.inference_mode():
        return energy_mj(lambda: net(image))


METERS: dict[str, Meter] = {
    "top1": top1,
    "macs": macs,
    "params": params,
    "activation_bytes": activation_bytes,
    "weight_bytes": weights,
    "energy_mj": energy,
}
ALWAYS = ("top1", "macs", "params")  # in every record


def measured(subject: Subject, meters: Mapping[str, Meter], split: str) -> Measured:
    """The record of a subject: the fields that every record has, and the quantities of further `meters` in `extra`."""
    always = {name: METERS[name](subject) for name in ALWAYS}
    extra = tuple((name, float(meter(subject))) for name, meter in meters.items() if name not in NUMBERS)
    return Measured(subject.arch, **always, split=split, extra=extra)  # type: ignore[arg-type]
