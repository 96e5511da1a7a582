"""What unfinished writes leave in a store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a writer that was killed has left: no object, but it takes up space.

    name: what it would be, or where it is. handle: the store's own name of it. bytes: its size. age_s: since it was begun.
    """

    name: str
    handle: str
    bytes: int
    age_s: float
