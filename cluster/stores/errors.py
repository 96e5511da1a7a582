"""The errors of stores."""

from __future__ import annotations

from cluster.errors import InputError


class StoreError(InputError):
    """A store that cannot be reached or used."""


class MissingObject(StoreError):
    """There is no object of that key."""
