"""A store in memory, to add as a scheme of its own: what a further kind of store has to do, and no more."""

from __future__ import annotations

import io

import pytest

from cluster import store
from cluster.stores.errors import MissingObject

SPACES: dict[str, dict[str, bytes]] = {}  # objects by URL and key


class MemoryStore:
    """Objects in a dictionary, which all stores of one URL in this process share."""

    def __init__(self, url: str) -> None:
        self.url, self.objects = url, SPACES.setdefault(url, {})

    def read(self, key):
        if key not in self.objects:
            raise MissingObject(f"{self.url}: there is no {key}")
        return self.objects[key]

    def open(self, key):
        return io.BytesIO(self.read(key))

    def write(self, key, data):
        self.objects[key] = data

    def publish(self, key, path):
        self.write(key, path.read_bytes())

    def create(self, key, data):
        return self.objects.setdefault(key, data) is data  # atomic in CPython

    def keys(self, prefix=""):
        return sorted(key for key in list(self.objects) if key.startswith(prefix))

    def delete(self, key):
        self.objects.pop(key, None)

    def leftovers(self, prefix=""):
        return []

    def discard(self, leftover):
        raise AssertionError("there are none")


def add_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds `memory://name` for one test; it starts empty."""
    monkeypatch.setitem(store.SCHEMES, "memory", store.Scheme(MemoryStore, "memory://name", SPACES.__contains__))
    SPACES.clear()
