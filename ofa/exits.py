"""Weights of a network's exits: for training several exits together, for a teacher of several, for exit ensembles.

Shape letters in this file: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)  # arrays or tensors, which can be added and multiplied by a number


def _ascending(count: int) -> list[float]:
    return [7 * i - 1 for i in range(1, count + 1)]  # of five exits: the published .06, .13, .20, .27, .34


# For a number of exits the weight of each, up to a factor. Source: OFAv2, arXiv:2302.01888; AEP's released code.
WEIGHTS: dict[str, Callable[[int], list[float]]] = {
    "ascending": _ascending,
    "descending": lambda count: _ascending(count)[::-1],
    "uniform": lambda count: [1.0] * count,
    "last": lambda count: [0.0] * (count - 1) + [1.0],
    "rising": lambda count: [float(i) for i in range(1, count + 1)],  # i / (1 + .. + n), of the released code of NATv2
    "falling": lambda count: [float(i) for i in range(count, 0, -1)],
}

# Exits that are trained together and predict together: names in `WEIGHTS` of their losses and of their logits.
# Source: AEP, arXiv:2301.12168; NATv2, arXiv:2307.00960.
SCHEMES: dict[str, tuple[str, str]] = {
    "UNIF": ("uniform", "uniform"),
    "ASC": ("rising", "rising"),
    "DESC": ("falling", "falling"),
    "MIX": ("falling", "rising"),
}


def joint(kind: str, last: int) -> tuple[int, ...]:
    """The exits that count by the weights `kind`, of a network whose last exit is `last`; () for the last one alone."""
    return () if kind == "last" else tuple(range(1, last + 1))


def exit_weights(kind: str, count: int) -> tuple[float, ...]:
    """The weights of `count` exits, the earliest first; they sum to 1. kind: a name in `WEIGHTS`."""
    found = WEIGHTS[kind](count)
    return tuple(weight / sum(found) for weight in found)


def combined(logits: Sequence[T], weights: Sequence[float]) -> T:
    """The weighted sum [N, C] of the logits [N, C] of several exits."""
    total: T = logits[0] * weights[0]
    for one, weight in zip(logits[1:], weights[1:], strict=True):
        total = total + one * weight
    return total
