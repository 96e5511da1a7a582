"""The objectives of searches: a quantity of `Measured` and its better direction; `OBJECTIVES` has all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as a_field
from functools import partial
from typing import Literal

import numpy as np

from ofa.record import Measured
from ofa.space import Space
from search.errors import ProblemError

Direction = Literal["minimize", "maximize"]
Column = Callable[[np.ndarray], np.ndarray]  # canonical genes [B, G] to one objective's unscaled values [B]


def plain(value: float) -> str:
    """A number with four digits."""
    return f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Objective:
    """A quantity of `Measured` and its better direction; two are equal if these and the device are.

    bound: a limit on the unscaled value, which the members of a front keep: at most, or at least if it is maximised.
    exact: of a cost that is a function of the arch, makes the function that computes it for the archs of a space.

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
    bound: float | None = a_field(default=None, compare=False)
    exact: Callable[[Space], Column] | None = a_field(default=None, compare=False)

    @property
    def key(self) -> str:
        """The name of the objective in settings, options and files."""
        return f"{self.field}.{self.device}" if self.device else self.field

    @property
    def name(self) -> str:
        """The name of the objective in messages."""
        return f"{self.field} on {self.device}" if self.device else self.field

    @property
    def title(self) -> str:
        """The title of a plot's axis: the label, and the unit where there is one."""
        return f"{self.words}, {self.unit}" if self.unit else self.words

    @property
    def words(self) -> str:
        """The label with the device, as in texts and plots."""
        label = self.label or self.field
        return f"{label} on {self.device}" if self.device else label

    def known(self, measured: Measured) -> float | None:
        """The unscaled value; None where it was not measured."""
        if not self.device:
            return measured.value(self.field)
        if not measured.latencies_ms:
            return measured.latency_ms if self.device == measured.device else None
        return dict(measured.latencies_ms).get(self.device)

    def of(self, measured: Measured) -> float:
        """The unscaled value; raises a `ProblemError` where it was not measured."""
        value = self.known(measured)
        if value is None:
            raise ProblemError(f"{measured.arch.key} has no {self.name}; its {self.name} was not measured")
        return value

    def beyond(self, values_B: np.ndarray) -> np.ndarray:
        """How far each unscaled value is beyond the bound, as a share of the bound: [B], 0 within it or without one."""
        if self.bound is None:
            return np.zeros(len(values_B))
        sign = 1.0 if self.direction == "minimize" else -1.0
        return np.maximum(sign * (values_B - self.bound), 0.0) / (abs(self.bound) or 1.0)


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


def mebibytes(value: float) -> str:
    """Bytes in MiB with three decimals."""
    return f"{value / 2**20:.3f} MiB"


TOP1 = Objective("top1", "maximize", label="top-1", unit="%", scale=100, text=percent, worst=0.0)  # on the selection split
MACS = Objective("macs", "minimize", label="MACs", text=count)  # exact multiply-accumulates of one image
PARAMS = Objective("params", "minimize", label="params", text=thousands)  # exact trainable values
LATENCY = Objective("latency_ms", "minimize", label="latency", unit="ms", text=milliseconds)  # for one image on a device
ACTIVATIONS = Objective(
    "activation_bytes", "minimize", label="peak activation memory", unit="MiB", scale=2**-20, text=mebibytes
)  # exact, for one image in float32
WEIGHTS = Objective("weight_bytes", "minimize", label="weights", unit="MiB", scale=2**-20, text=mebibytes)  # exact, float32
ENERGY = Objective("energy_mj", "minimize", label="energy", unit="mJ")  # for one image, by the processor's counters

# By the name in settings and options. `ofa.meters.METERS` has the quantities that an evaluator can measure.
OBJECTIVES: dict[str, Objective] = {
    objective.field: objective for objective in (TOP1, MACS, PARAMS, LATENCY, ACTIVATIONS, WEIGHTS, ENERGY)
}


def objective_named(name: str) -> Objective | None:
    """The objective of this `key` or `name`, such as `latency_ms.phone`; None if there is none.

    `latency_ms@phone` and `latency_ms on phone` are other spellings of `latency_ms.phone`.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    for separator in (".", "@", " on "):
        field, _, device = name.partition(separator)
        if field == LATENCY.field and device:
            return replace(LATENCY, device=device)
    return None


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


def violations(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """How far unscaled values are beyond the objectives' bounds: [N], summed over objectives, 0 within all of them."""
    beyond_N = np.zeros(len(values_NM))
    for objective, values_N in zip(objectives, np.asarray(values_NM).T, strict=True):
        beyond_N = beyond_N + objective.beyond(values_N)
    return beyond_N


def beyond_bounds(objectives: Sequence[Objective]) -> Callable[[np.ndarray], np.ndarray] | None:
    """`violations` of these objectives as a function of values alone; None if none of them has a bound."""
    return partial(violations, objectives) if any(o.bound is not None for o in objectives) else None


def minimised(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """Values as points to minimise; the only place where a direction becomes a sign."""
    return values_NM * np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
