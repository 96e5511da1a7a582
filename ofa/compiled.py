"""Loops compiled by Numba at their first use, for computations that array operations would do in too many passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The compiled function, which runs without the interpreter's lock; cached beside its file or in the user's cache.

    If neither directory is writable, every process compiles the function again.
    """
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:
        return numba.njit(function, nogil=True)
