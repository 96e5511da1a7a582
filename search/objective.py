"""What a search wants: a field of `Measured`, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ofa.record import Measured

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One field of `Measured` and its better direction; `device` says which where latencies of several are known."""

    field: str
    direction: Direction
    device: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.field} on {self.device}" if self.device else self.field

    def of(self, measured: Measured) -> float:
        """Its value, as it is."""
        known = dict(measured.latencies_ms) if self.device else {}
        return known[self.device] if self.device in known else getattr(measured, self.field)


TOP1 = Objective("top1", "maximize")  # fraction of the selection split
MACS = Objective("macs", "minimize")  # exact multiply-accumulates of one image
PARAMS = Objective("params", "minimize")  # exact trainable values
LATENCY = Objective("latency_ms", "minimize")  # median of one image on Measured.device


def values(objectives: Sequence[Objective], measured: Sequence[Measured]) -> np.ndarray:
    """What was measured, as it is: float64 [N, M]."""
    return np.array([[o.of(m) for o in objectives] for m in measured], dtype=np.float64).reshape(
        len(measured), len(objectives)
    )


def minimised(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """Values as points of which less is better; the only place where a direction becomes a sign."""
    return values_NM * np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
