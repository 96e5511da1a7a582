"""Passes on how long operations on stores take, and which requests are repeated, to one observer of this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Observer(Protocol):
    """Is called on the thread of the operation, also if that fails."""

    def took(self, operation: str, seconds: float) -> None:
        """An operation, such as read, has ended; with all repetitions of its requests."""
        ...

    def repeated(self) -> None:
        """A request is repeated, because it was not answered, or with an error of the server's own."""
        ...


_observers: list[Observer] = []


def observe_by(observer: Observer) -> None:
    """Sets the observer, in place of an earlier one."""
    _observers[:] = [observer]


def repeated() -> None:
    """A request is repeated."""
    for observer in _observers:
        observer.repeated()


def timed(operation: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method of a store whose time is observed under its own name."""

    @wraps(operation)
    def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.monotonic()
        try:
            return operation(store, *args, **kwargs)
        finally:
            for observer in _observers:
                observer.took(operation.__name__, time.monotonic() - began)

    return call
