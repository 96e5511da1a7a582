"""The objectives of searches: a quantity of `Measured` and its better direction; `OBJECTIVES` has all of them."""

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
    label: the name in texts and plots. unit: of the value times `scale`, as in plots. text: formats a value with its unit.
    worst: a bound that no value exceeds, if there is one; it is used as a hypervolume's reference point.
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
        """The name of the objective in messages."""
        return f"{self.field} on {self.device}" if self.device else self.field

    @property
    def title(self) -> str:
        """The title of a plot's axis: the label, and the unit where there is one."""
        label = self.label or self.name
        return f"{label}, {self.unit}" if self.unit else label

    def known(self, measured: Measured) -> float | None:
        """The unscaled value; None where it was not measured."""
        known = dict(measured.latencies_ms) if self.device else {}
        if self.device in known:
            return known[self.device]
        return measured.value(self.field)

    def of(self, measured: Measured) -> float:
        """The unscaled value; raises a `ProblemError` where it was not measured."""
        value = self.known(measured)
        if value is None:
            raise ProblemError(f"{measured.arch.key} has no {self.name}; its {self.name} was not measured")
        return value


def percent(value: float) -> str:
    """A fraction in per cent."""
    return f"{value * 100:.2f} %"


def count(value: float) -> str:
    """A count in thousands below ten million, in millions from there on."""
    return f"{value / 1e6:.1f} M" if value >= 1e7 else f"{value / 1e3:.0f} k"


def thousands(value: float) -> str:
    """A count in thousands with one decimal."""
    return f"{value / 1e3:.1f} k"


def milliseconds(value: float) -> str:
    """Milliseconds with two decimals."""
    return f"{value:.2f} ms"


TOP1 = Objective("top1", "maximize", label="top-1", unit="%", scale=100, text=percent, worst=0.0)  # on the selection split
MACS = Objective("macs", "minimize", label="MACs", text=count)  # exact multiply-accumulates of one image
PARAMS = Objective("params", "minimize", label="params", text=thousands)  # exact trainable values
LATENCY = Objective("latency_ms", "minimize", label="latency", unit="ms", text=milliseconds)  # for one image on a device

# By the name in settings and options. `ofa.meters.METERS` has the quantities that an evaluator can measure.
OBJECTIVES: dict[str, Objective] = {objective.field: objective for objective in (TOP1, MACS, PARAMS, LATENCY)}


def first_cost(objectives: Sequence[Objective]) -> Objective:
    """The first objective that is minimised, else the last; fronts are sorted and drawn along it."""
    return next((o for o in objectives if o.direction == "minimize"), objectives[-1])


def first_quality(objectives: Sequence[Objective]) -> Objective:
    """The first objective that is maximised, else top-1; it is the vertical axis of fronts."""
    return next((o for o in objectives if o.direction == "maximize"), TOP1)


def values(objectives: Sequence[Objective], measured: Sequence[Measured]) -> np.ndarray:
    """The unscaled objective values: float64 [N, M]. Raises a `ProblemError` for one that was not measured."""
    return np.array([[o.of(m) for o in objectives] for m in measured], dtype=np.float64).reshape(
        len(measured), len(objectives)
    )


def minimised(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """Values as points to minimise; the only place where a direction becomes a sign."""
    return values_NM * np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
