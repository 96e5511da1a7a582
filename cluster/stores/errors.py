"""What a store cannot do."""

from __future__ import annotations

from cluster.errors import InputError


class StoreError(InputError):
    """A store that cannot be reached or used as asked."""


class MissingObject(StoreError):
    """There is no object of that key."""
