"""What a search optimises: a quantity of `Measured`, and which direction is better; `OBJECTIVES` has all there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as a_field
from typing import Literal

import numpy as np

from ofa.record import Measured
from search.errors import ProblemError

Direction = Literal["minimize", "maximize"]


def plain(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Objective:
    """A quantity of `Measured` and its better direction; two are equal if these and the device are.

    field: a field of `Measured`, or a name in its `extra`. device: which, where latencies of several are known.
    label: what texts and plots call it. unit: of the value times `scale`, as plots show it. text: a value with its unit.
    worst: a value that nothing is worse than, if there is one: a hypervolume's reference point needs one.
    """

    field: str
    direction: Direction
    device: str = ""
    label: str = a_field(default="", compare=False)
    unit: str = a_field(default="", compare=False)
    scale: float = a_field(default=1.0, compare=False)
    text: Callable[[float], str] = a_field(default=plain, compare=False)
    worst: float | None = a_field(default=None, compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.field} on {self.device}" if self.device else self.field

    @property
    def title(self) -> str:
        """What an axis is called: its label, and the unit where there is one."""
        label = self.label or self.name
        return f"{label}, {self.unit}" if self.unit else label

    def known(self, measured: Measured) -> float | None:
        """Its value, as it is; None where it was not measured."""
        known = dict(measured.latencies_ms) if self.device else {}
        if self.device in known:
            return known[self.device]
        return measured.value(self.field)

    def of(self, measured: Measured) -> float:
        """Its value, as it is; a `ProblemError` where it was not measured."""
        value = self.known(measured)
        if value is None:
            raise ProblemError(f"{measured.arch.key} has no {self.name}; its {self.name} was not measured")
        return value


def percent(value: float) -> str:
    """A fraction as per cent."""
    return f"{value * 100:.2f} %"


def count(value: float) -> str:
    """Thousands below ten million, millions from there on."""
    return f"{value / 1e6:.1f} M" if value >= 1e7 else f"{value / 1e3:.0f} k"


def thousands(value: float) -> str:
    """Thousands with one decimal."""
    return f"{value / 1e3:.1f} k"


def milliseconds(value: float) -> str:
    """Milliseconds with two decimals."""
    return f"{value:.2f} ms"


TOP1 = Objective("top1", "maximize", label="top-1", unit="%", scale=100, text=percent, worst=0.0)  # of the selection split
MACS = Objective("macs", "minimize", label="MACs", text=count)  # exact multiply-accumulates of one image
PARAMS = Objective("params", "minimize", label="params", text=thousands)  # exact trainable values
LATENCY = Objective("latency_ms", "minimize", label="latency", unit="ms", text=milliseconds)  # of one image on a device

# By the name that settings and options have for it. What an evaluator can measure is in `ofa.meters.METERS`.
OBJECTIVES: dict[str, Objective] = {objective.field: objective for objective in (TOP1, MACS, PARAMS, LATENCY)}


def first_cost(objectives: Sequence[Objective]) -> Objective:
    """The first objective of which less is better, else the last: fronts are sorted and drawn along it."""
    return next((o for o in objectives if o.direction == "minimize"), objectives[-1])


def first_quality(objectives: Sequence[Objective]) -> Objective:
    """The first objective of which more is better, else top-1: fronts are drawn over it."""
    return next((o for o in objectives if o.direction == "maximize"), TOP1)


def values(objectives: Sequence[Objective], measured: Sequence[Measured]) -> np.ndarray:
    """What was measured, as it is: float64 [N, M]. A value that was not measured is a `ProblemError`."""
    return np.array([[o.of(m) for o in objectives] for m in measured], dtype=np.float64).reshape(
        len(measured), len(objectives)
    )


def minimised(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """Values as points of which less is better; the only place where a direction becomes a sign."""
    return values_NM * np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
