"""Attempts at a run on clusters: their numbers and records, and a store in which only the latest one writes."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from cluster.errors import InputError
from cluster.records import Attempt, RecordError, document
from cluster.store import Store
from cluster.texts import json_lines

_RECORDS = "partial/attempts/"


class Superseded(InputError):
    """A later attempt at the same run has begun: this one must not write any more."""


def driver_log(attempt: int) -> str:
    """The key of the uploaded output of an attempt's driver."""
    return f"logs/driver-{attempt:06d}.log"


def attempt_record(attempt: int) -> str:
    """The key of the record of when an attempt began, and how it ended."""
    return f"{_RECORDS}{attempt:06d}.json"


def attempts(store: Store, run_id: str) -> list[int]:
    """The numbers of the attempts on clusters so far."""
    prefix = f"{run_id}/{_RECORDS}"
    names = [key.removeprefix(prefix).removesuffix(".json") for key in store.keys(prefix)]
    return sorted(int(name) for name in names if name.isdecimal())  # other objects there are no records


def read_attempt(store: Store, run_id: str, attempt: int) -> dict[str, Any]:
    """The record of an attempt: `attempt`, and as far as known `began`, `ended` and `exit`; an `InputError` if damaged."""
    key = f"{run_id}/{attempt_record(attempt)}"
    try:
        return document(store.read(key), Attempt)
    except RecordError as error:
        raise InputError(f"{store.url}/{key}: is no record of an attempt: {error}; delete it") from None


def claim_attempt(store: Store, run_id: str, **facts: object) -> int:
    """The number of a new attempt, higher than all before; concurrent claims get different numbers."""
    number = max(attempts(store, run_id), default=0)
    created = False
    while not created:
        number += 1
        created = store.create(f"{run_id}/{attempt_record(number)}", json_lines({"attempt": number, **facts}).encode())
    return number


def first_start(store: Store, run_id: str) -> datetime | None:
    """When the first attempt at a run began; None without a record that has a time."""
    began = []
    for number in attempts(store, run_id):
        with suppress(InputError):  # a record that is damaged
            time = read_attempt(store, run_id, number).get("began")
            if time and datetime.fromisoformat(time).tzinfo is not None:
                began.append(datetime.fromisoformat(time))
    return min(began, default=None)


class Fenced:
    """A store for one attempt at a run: it reads like the store, and writes only while no later attempt has begun.

    KubeRay may start a new cluster while pods of the old one still live. A writer that was paused between check and
    write could still write; objects that matter have their sha256 recorded elsewhere, so such a write is detected then.
    """

    def __init__(self, store: Store, run_id: str, attempt: int) -> None:
        self.store, self.run_id, self.attempt = store, run_id, attempt
        self.url = store.url

    def read(self, key: str) -> bytes:
        return self.store.read(key)

    def open(self, key: str) -> IO[bytes]:
        return self.store.open(key)

    def keys(self, prefix: str = "") -> list[str]:
        return self.store.keys(prefix)

    def write(self, key: str, data: bytes) -> None:
        self._check(key)
        self.store.write(key, data)

    def publish(self, key: str, path: Path) -> None:
        self._check(key)
        self.store.publish(key, path)

    def create(self, key: str, data: bytes) -> bool:
        self._check(key)
        return self.store.create(key, data)

    def delete(self, key: str) -> None:
        self._check(key)
        self.store.delete(key)

    def _check(self, key: str) -> None:
        latest = max(attempts(self.store, self.run_id), default=0)
        if latest > self.attempt:
            raise Superseded(
                f"{self.url}/{self.run_id}: attempt {latest} has begun, this is {self.attempt}; {key} is not written"
            )
