"""Checks of values that come from JSON; a value that fails one is None, and `shown` prints any value in a message."""

from __future__ import annotations

import math
from reprlib import Repr
from typing import Any

_REPR = Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 4, 4
_REPR.maxstring, _REPR.maxlong, _REPR.maxother = 80, 30, 60
LARGEST = 2**53  # whole numbers up to here are exact in JSON, whose numbers are floats to many readers


def shown(value: Any) -> str:
    """`value` in at most some 200 characters of one line."""
    text = _REPR.repr(value)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-40:]}"


def number(value: Any, least: float = -math.inf, most: float = math.inf) -> float | None:
    """`value` as a finite float; None if it is no number, not finite, or not between the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and least <= found <= most else None


def whole(value: Any, least: int = -LARGEST, most: int = LARGEST) -> int | None:
    """`value` as a whole number, such as 3 or 3.0; None if it is none, or not between the bounds."""
    found = number(value, least, most)
    return None if found is None or found != int(found) else int(value)
