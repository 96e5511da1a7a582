"""Named random streams: every purpose samples from a stream of its own."""

from __future__ import annotations

import random


def stream(seed: int, *names: object) -> random.Random:
    """An independent generator for one purpose, equal on every worker and every rerun."""
    return random.Random("/".join(map(str, (seed, *names))))
