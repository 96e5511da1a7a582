"""Loops compiled by Numba at their first use, where array operations would pass over the data too often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function compiled, and free of the interpreter's lock; kept beside its file or else in the user's cache.

    Where neither can be written every process compiles anew.
    """
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:
        return numba.njit(function, nogil=True)
