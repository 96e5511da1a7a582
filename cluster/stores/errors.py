"""The errors of stores."""

from __future__ import annotations

from cluster.errors import InputError


class StoreError(InputError):
    """A store that cannot be reached or used."""


class Unreachable(StoreError):
    """No store has answered at an address so far: it may be wrong, or the server is away."""


class MissingObject(StoreError):
    """There is no object of that key."""


class UnreadableObject(StoreError):
    """There is an object of that key that this user cannot read; `reason` has no key."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
