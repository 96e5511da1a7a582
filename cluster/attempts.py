"""Attempts at a run: their numbers and records, and a store in which only the latest one writes.

Every driver that works on the steps of a run claims the next number by a conditional write, and renews its record while it
lives. A driver on a cluster takes the run from earlier ones; elsewhere, a driver whose predecessor lives refuses to begin.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cluster.errors import InputError, StepError
from cluster.records import Attempt, RecordError, document
from cluster.store import Store
from cluster.stores.errors import MissingObject
from cluster.stores.leftover import Leftover
from cluster.texts import json_lines

ATTEMPTS = "partial/attempts/"
RENEW_S = 10.0  # seconds between renewals of a record
LEASE_S = 45.0  # a driver elsewhere whose record has not changed for this long is taken for dead
_LOOK_S = 2.0  # seconds between looks at the record of a driver elsewhere


class Superseded(InputError):
    """A later attempt at the same run has begun: this one must not write any more."""


class Held(InputError):
    """Another driver works on the run."""


def driver_log(attempt: int) -> str:
    """The key of the uploaded output of an attempt's driver."""
    return f"logs/driver-{attempt:06d}.log"


def attempt_record(attempt: int) -> str:
    """The key of the record of when an attempt began, and how it ended."""
    return f"{ATTEMPTS}{attempt:06d}.json"


def attempts(store: Store, run_id: str) -> list[int]:
    """The numbers of the attempts so far."""
    prefix = f"{run_id}/{ATTEMPTS}"
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
        created = _claim(store, run_id, number, facts)
    return number


def _claim(store: Store, run_id: str, number: int, facts: dict[str, object]) -> bool:
    """Whether this is now the attempt of that number. No two records are equal, see `S3Store.create`."""
    record = {"attempt": number, **facts, "id": uuid.uuid4().hex}
    return store.create(f"{run_id}/{attempt_record(number)}", json_lines(record).encode())


def is_local(record: dict[str, Any]) -> bool:
    """Whether an attempt is a driver's that no cluster was given for, such as `ofa run` on a laptop."""
    return "pid" in record


def last_on_cluster(store: Store, run_id: str) -> tuple[int, dict[str, Any]] | None:
    """The number and the record of the last attempt on a cluster, or None."""
    for number in reversed(attempts(store, run_id)):
        if not is_local(record := read_attempt(store, run_id, number)):
            return number, record
    return None


def first_start(store: Store, run_id: str) -> datetime | None:
    """When the first attempt on a cluster began; None without a record that has a time."""
    began = []
    for number in attempts(store, run_id):
        with suppress(InputError):  # a record that is damaged
            record = read_attempt(store, run_id, number)
            start = datetime.fromisoformat(record["began"]) if record.get("began") and not is_local(record) else None
            if start is not None and start.tzinfo is not None:
                began.append(start)
    return min(began, default=None)


def now() -> str:
    """The time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def exit_code(error: BaseException | None) -> int:
    """The exit code of a command that ends with an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 0 if error is None else 2 if isinstance(error, InputError) else 1


def this_process() -> dict[str, object]:
    """What tells this process from all others: host, boot and process namespace, pid, and the time when it started."""
    return {"host": platform.node(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    """One boot of a machine, and one namespace of process ids on it; "" where the system does not show it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int:
    """When a process started, in ticks since the boot; 0 if there is none, or it has ended and is not reaped yet."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else int(fields[18])


def lives(record: dict[str, Any]) -> bool | None:
    """Whether the driver of an attempt lives; None if that cannot be known from here, since it is on another machine."""
    if "ended" in record:
        return False
    if not record.get("machine") or (record["machine"], record.get("host")) != (_machine(), platform.node()):
        return None
    return bool(record.get("started")) and _started(record["pid"]) == record["started"]


class Lease:
    """The right of one driver to work on a run: the record of its attempt, renewed until `end`.

    facts: of the driver, for its record. notify: is called with a line where the claim has to wait. progress: how far the
    work is, for the record, a `cluster.records.Progress`; None if it is not known.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        facts: dict[str, object],
        notify: Callable[[str], None] = lambda _: None,
        progress: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self.store, self.run_id, self.notify, self.progress = store, run_id, notify, progress
        self.facts = {"began": now(), **facts}
        self.attempt = 0  # until it is claimed
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> int:
        """Claims the run from whoever works on it; the number of the attempt."""
        return self._begin(claim_attempt(self.store, self.run_id, **self.facts))

    def hold(self) -> int:
        """Claims the run, at the first call; the number of the attempt. Raises `Held` while another driver works on it."""
        while not self.attempt:
            last = max(attempts(self.store, self.run_id), default=0)
            if last and (holder := self._holder(last)) is not None:
                raise Held(f"{self.store.url}/{self.run_id}: {_holder_text(holder)}")
            if _claim(self.store, self.run_id, last + 1, self.facts):
                self._begin(last + 1)
        return self.attempt

    def check(self) -> None:
        """Raises `Held` if a driver is known at once to work on the run: a living process of this machine."""
        last = 0 if self.attempt else max(attempts(self.store, self.run_id), default=0)
        record = self._read(last) if last else None
        if record is not None and lives(record):
            raise Held(f"{self.store.url}/{self.run_id}: {_holder_text(record)}")

    def end(self, code: int, **why: object) -> None:
        """Writes how the attempt ended into its record, if it was claimed."""
        if not self.attempt:
            return
        self._ended.set()
        self._renewing.join(timeout=30)
        self._write(ended=now(), exit=code, **why)

    def _begin(self, number: int) -> int:
        self.attempt = number
        self._renewing.start()
        return number

    def _holder(self, last: int) -> dict[str, Any] | None:
        """The record of the latest attempt if its driver lives. A driver elsewhere lives if it renews its record.

        No two clocks are compared, so the record is watched for the time of a lease.
        """
        record = self._read(last)
        alive = record is not None and lives(record)
        if alive is not None:
            return record if alive else None
        who = _driver_text(record or {})
        self.notify(f"run {self.run_id}: {who} did not end; waiting up to {LEASE_S:.0f} s to find whether it still works")
        unchanged_s = 0.0
        while unchanged_s < LEASE_S:
            began = time.monotonic()
            time.sleep(_LOOK_S)
            found = self._read(last)
            unchanged_s += min(time.monotonic() - began, 2 * _LOOK_S)  # the driver cannot renew while the store is away
            if found is None or "ended" in found:
                return None
            if found != record:
                return found
        return None

    def _read(self, attempt: int) -> dict[str, Any] | None:
        with suppress(MissingObject):
            return read_attempt(self.store, self.run_id, attempt)
        return None

    def _write(self, **more: object) -> None:
        progress = self.progress()
        record = {"attempt": self.attempt, **self.facts, **({"progress": progress} if progress else {}), **more}
        self.store.write(f"{self.run_id}/{attempt_record(self.attempt)}", json_lines(record).encode())

    def _renew(self) -> None:
        renewals = 0
        while not self._ended.wait(RENEW_S):
            renewals += 1
            with suppress(InputError, StepError):  # the run itself fails when it needs the store
                if max(attempts(self.store, self.run_id), default=0) > self.attempt:
                    return
                self._write(renewed=now(), renewals=renewals)


def _driver_text(record: dict[str, Any]) -> str:
    where = f"process {record['pid']} on {record.get('host') or 'a host'}" if is_local(record) else "a driver on a cluster"
    return f"{where}, which began {record.get('began') or 'at an unknown time'},"


def _holder_text(record: dict[str, Any]) -> str:
    since = record.get("began") or "an unknown time"
    if is_local(record):
        return (
            f"process {record['pid']} on {record.get('host')} works on this run since {since}; wait for it or stop it, "
            "or give this run another --store"
        )
    return (
        f"attempt {record['attempt']} on a cluster (host {record.get('host')}) works on this run since {since}; "
        "`ofa wait` follows it, `ofa cancel` stops it"
    )


class Fenced:
    """A store for one attempt at a run: it reads like the store, and writes only while no later attempt has begun.

    attempt: its number, or the lease of this process, which writes unchecked until it is held.

    KubeRay may start a new cluster while pods of the old one still live. A writer that was paused between check and
    write could still write; objects that matter have their sha256 recorded elsewhere, so such a write is detected then.
    """

    def __init__(self, store: Store, run_id: str, attempt: int | Lease) -> None:
        self.store, self.run_id, self.lease = store, run_id, attempt
        self.url = store.url

    @property
    def attempt(self) -> int:
        """The number of the attempt; 0 while the run is not held."""
        return self.lease.attempt if isinstance(self.lease, Lease) else self.lease

    def hold(self) -> None:
        """Claims the run for the lease, once; see `Lease.hold`."""
        if isinstance(self.lease, Lease):
            self.lease.hold()

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

    def check(self) -> None:
        """See `Lease.check`."""
        if isinstance(self.lease, Lease):
            self.lease.check()

    def leftovers(self, prefix: str = "") -> list[Leftover]:
        return self.store.leftovers(prefix)

    def discard(self, leftover: Leftover) -> None:
        self._check(leftover.name)
        self.store.discard(leftover)

    def _check(self, key: str) -> None:
        if not self.attempt:
            return
        latest = max(attempts(self.store, self.run_id), default=0)
        if latest > self.attempt:
            raise Superseded(
                f"{self.url}/{self.run_id}: attempt {latest} has begun, this is {self.attempt}; {key} is not written, "
                "another process continues this run"
            )
