"""Libraries that a bench compares ours with, each of which may be absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any


def present(names: Sequence[str], peers: Mapping[str, tuple[str, Any]], advice: str) -> list[str]:
    """The names without a peer and those whose library is installed; prints a line with the advice for each other one.

    peers: by name the library that a peer needs, and what makes it.
    """
    found = []
    for name in names:
        if name in peers and find_spec(peers[name][0]) is None:
            print(f"{name} is left out: {peers[name][0]} is not installed; {advice}")
        else:
            found.append(name)
    return found
