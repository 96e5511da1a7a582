"""One run in a store: its steps, and the records that prove them complete.

A step reads objects of earlier steps, writes objects of its own, and is finished by its done record, which is written
last and lists the sha256 of every object it read and wrote.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from cluster.address import shown
from cluster.attempts import Fenced, Lease, exit_code, this_process
from cluster.errors import InputError, StepError
from cluster.records import Done, RecordError, document
from cluster.store import Store, canonical, check_output, exists, open_known, open_store
from cluster.stores.errors import MissingObject
from cluster.texts import json_lines, jsonl, machine, sha256

CONFIG = "config.toml"
DONE = ".done.json"  # the end of a done record's key
_PARTIAL = "partial"
PART_S = 1.0  # least seconds between two parts of a ledger that collects rows
_PART_BYTES = 8 * 2**20  # of an object that are in memory at once while its sha256 is computed
_WEIGHTS = "/weights.safetensors"  # the end of the keys of a training's weights, <folder>/<phase>/weights.safetensors


@dataclass(frozen=True, slots=True)
class File:
    """An object of a run: its key, and the step that writes it."""

    key: str
    step: str

    def __str__(self) -> str:
        return self.key


class DamagedObject(InputError):
    """An object whose content differs from its recorded sha256."""


def must_exist(store_url: str) -> None:
    """Raises an `InputError` where there is no store to read, with the directories whose names are near."""
    if exists(store_url):
        return
    path = Path(canonical(store_url))
    there = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    near = ", ".join(shown(str(path.parent / name)) for name in difflib.get_close_matches(path.name, there, 3))
    advice = f"nearest: {near}" if near else "give the --store of a run"
    raise InputError(f"{shown(store_url)}: there is no such directory; {advice}")


def run_keys(store: Store) -> dict[str, list[str]]:
    """The keys of every run in a store, relative to the run, by its id; an `InputError` where no runs can be."""
    keys, found = store.keys(), dict[str, list[str]]()
    if CONFIG in keys:
        raise InputError(f"{store.url}: is a run, not a store; leave out the last part, which is the run's id")
    if not keys and "://" in store.url:  # a prefix of a bucket is there if it has objects
        raise InputError(f"{store.url}: there is no object; check the bucket's name and the prefix")
    for key in keys:
        run_id, _, rest = key.partition("/")
        found.setdefault(run_id, []).append(rest)
    return {run_id: there for run_id, there in found.items() if CONFIG in there}


@dataclass(frozen=True)
class Run:
    """The run of one config, at `<store>/<id>/`."""

    store: Store
    id: str
    code: str  # version of the code, for the done records
    config_toml: str = ""  # is written when a step begins; "" where the run is only looked at

    @classmethod
    def open(cls, store_url: str, run_id: str, config_toml: str, code: str, attempt: int = 0) -> Run:
        """The run, new or begun earlier. Nothing is written before its first step begins; the first config is kept.

        Raises a `StoreError` for a new run where it is known that nothing can be written.
        """
        run = replace(cls.at(store_url, run_id, code, attempt), config_toml=config_toml)
        if not run.keys(CONFIG):
            check_output(store_url)
        return run

    @classmethod
    def at(cls, store_url: str, run_id: str, code: str, attempt: int = 0, *, known: bool = False) -> Run:
        """The run, which another process opened; an attempt's writes are refused once there is a later attempt.

        known: that process belongs to this command, so a store that does not answer is waited for (`open_known`).
        """
        store = open_known(store_url) if known else open_store(store_url)
        return cls(Fenced(store, run_id, attempt) if attempt else store, run_id, code)

    @classmethod
    def existing(cls, store_url: str, run_id: str, code: str, attempt: int = 0) -> Run:
        """The run, which has begun; otherwise an `InputError` with the runs there whose ids are nearest."""
        must_exist(store_url)
        run = cls.at(store_url, run_id, code, attempt)
        if "/" not in run_id and run_id and (run.keys(CONFIG) or run.keys()):
            return run
        there = [*run_keys(run.store)]
        if not there:
            raise InputError(f"{run.store.url}: there is no run; `ofa run` makes one, run `ofa train` first")
        near = difflib.get_close_matches(run_id, there, 3, 0) if len(there) > 3 else there
        which = f"the nearest of {len(there)}" if len(near) < len(there) else "there is"
        raise InputError(
            f"{run.store.url}: has no run {shown(run_id)!r}; {which}: {', '.join(near)}; for a new one run `ofa train` first"
        )

    @contextmanager
    def exclusive(
        self, notify: Callable[[str], None], progress: Callable[[], dict[str, Any] | None] = lambda: None
    ) -> Iterator[Run]:
        """The run; from its first `begin` on to the end of the block this process alone writes its steps.

        notify, progress: see `Lease`; `begin` raises `Held` if another process works on the run.
        """
        lease, error = Lease(self.store, self.id, this_process(), notify, progress), None
        try:
            yield replace(self, store=Fenced(self.store, self.id, lease))
        except BaseException as raised:
            error = raised
            raise
        finally:
            with suppress(InputError, StepError):  # a process that has ended holds nothing either
                lease.end(exit_code(error))

    @property
    def attempt(self) -> int:
        """The number of the attempt that may write; 0 for a run that nobody has claimed here."""
        return self.store.attempt if isinstance(self.store, Fenced) else 0

    @property
    def url(self) -> str:
        """The URL of the run's folder."""
        return f"{self.store.url.rstrip('/')}/{self.id}"

    def raw(self, key: str) -> bytes:
        """The content of an object, unchecked."""
        return self.store.read(f"{self.id}/{key}")

    def digest(self, key: str, into: IO[bytes] | None = None) -> tuple[str, int]:
        """The sha256 and the size in bytes of an object, which may be larger than memory.

        into: a file to which it is copied.
        """
        found, size = hashlib.sha256(), 0
        with self.store.open(f"{self.id}/{key}") as file:
            while part := file.read(_PART_BYTES):
                found.update(part)
                size += len(part)
                if into is not None:
                    into.write(part)
        return found.hexdigest(), size

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of the run's objects that start with `prefix`, relative to the run."""
        return [key.removeprefix(f"{self.id}/") for key in self.store.keys(f"{self.id}/{prefix}")]

    def done(self, step: str) -> dict[str, Any] | None:
        """The done record of a step, or None."""
        try:
            record = document(self.raw(step + DONE), Done)
            if record["step"] != step:
                raise RecordError(f"is of the step {record['step']!r}")
        except MissingObject:
            return None
        except RecordError as error:
            raise DamagedObject(
                f"{self.url}/{step}{DONE}: is no done record: {error}; delete it and run the same command again"
            ) from None
        return record

    def steps(self, keys: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """The done records of all finished steps, in the order they finished. keys: of the run, where they are known."""
        keys = self.keys() if keys is None else keys
        names = [key.removesuffix(DONE) for key in keys if "/" not in key and key.endswith(DONE)]
        records = {name: record for name in names if (record := self.done(name)) is not None}
        return dict(sorted(records.items(), key=lambda item: item[1]["finished"]))

    def config(self) -> dict[str, Any]:
        """The settings in the run's config.toml; a `DamagedObject` if it is missing or cannot be read."""
        found, reason = dict[str, Any](), "is empty"
        try:
            data = self.raw(CONFIG)
        except MissingObject:
            data, reason = b"", "is missing"
        try:
            found = tomllib.loads(data.decode())
        except ValueError:
            reason = "is not TOML"
        if not found:
            raise DamagedObject(f"{self.url}/{CONFIG}: {reason}; copy the config file of the run to it")
        return found

    def recorded(self) -> dict[str, tuple[str, str]]:
        """The step and the sha256 of every object that a finished step wrote."""
        return {key: (step, out["sha256"]) for step, rec in self.steps().items() for key, out in rec["outputs"].items()}

    def finished(self, step: str) -> bool:
        """Whether a step is done, and every object it read is unchanged."""
        record = self.done(step)
        if record is None:
            return False
        now = self.recorded()
        return all(key not in now or now[key][1] == digest for key, digest in record["inputs"].items())

    def read(self, file: File) -> bytes:
        """The content of an object of a finished step, checked against its sha256.

        Raises an `InputError` if no step has written it, a `DamagedObject` if its content differs.
        """
        recorded, key = self.recorded(), file.key
        if key not in recorded:
            raise InputError(f"{key!r} is not in {self.url}; run `ofa {file.step}` first")
        step, digest = recorded[key]
        try:
            data = self.raw(key)
        except MissingObject:
            data = None
        if data is None or sha256(data) != digest:
            what = "is missing" if data is None else f"has sha256 {sha256(data)[:12]}, {step} wrote {digest[:12]}"
            raise DamagedObject(
                f"{self.url}/{key}: {what}: it is damaged; delete {step}{DONE} there and run the same command again"
            )
        return data

    def check_free(self) -> None:
        """Raises `Held`, before any work, if another process of this machine works on an `exclusive` run."""
        if isinstance(self.store, Fenced):
            self.store.check()

    def begin(self, step: str) -> Step:
        """Starts or resumes a step that is not finished; the first one of a run writes the config.

        In an `exclusive` run the first one also claims the run; a `Step` made without `begin` works beside the others'.
        """
        if isinstance(self.store, Fenced):
            self.store.hold()
        if self.config_toml:
            self.store.create(f"{self.id}/{CONFIG}", self.config_toml.encode())
        return Step(self, step)

    def sweep(self, step: str) -> None:
        """Removes the unfinished parts and checkpoints of a finished step (a kill may have prevented `finish` from it)."""
        for key in self.unfinished_of(step):
            self.store.delete(f"{self.id}/{key}")

    def unfinished_of(self, step: str) -> list[str]:
        """The keys of a finished step's unfinished parts and checkpoints, which nothing reads any more."""
        keys, record = self.keys(f"{_PARTIAL}/{step}/"), self.done(step)
        written = record["outputs"] if record else ()
        for folder in {key.rsplit("/", 2)[0] for key in written if key.endswith(_WEIGHTS) and key.count("/") > 1}:
            keys += [key for key in self.keys(f"{folder}/") if "/checkpoint" in key]
        return keys

    def problems(self, unfinished: tuple[str, ...] = ()) -> Iterator[str]:
        """The defects of the objects of finished steps: one line for each that is missing, damaged or unrecorded.

        unfinished: folders in which a step that is not finished may have left objects.
        """
        try:
            self.config()
        except DamagedObject as error:
            yield str(error).removeprefix(f"{self.url}/")
        expected, now = {CONFIG}, self.recorded()
        for step, record in self.steps().items():
            expected.add(step + DONE)
            for key, output in record["outputs"].items():
                expected.add(key)
                try:
                    digest, _ = self.digest(key)
                except MissingObject:
                    yield f"{key}: missing, {step} wrote it"
                    continue
                if digest != output["sha256"]:
                    yield f"{key}: damaged, sha256 is {digest[:12]}, {step} wrote {output['sha256'][:12]}"
            for key, digest in record["inputs"].items():
                if key in now and now[key][1] != digest:
                    yield f"{step}{DONE}: stale, it read another {key} than {now[key][0]} wrote"
        if not self.steps():
            yield "no step has finished"
            return
        for key in self.keys():
            if key not in expected and not key.startswith((f"{_PARTIAL}/", "logs/", *unfinished)):
                yield f"{key}: no finished step wrote it"


@dataclass
class Step:
    """A running step: reads are checked and recorded, writes are recorded, `finish` publishes the record."""

    run: Run
    name: str
    started: float = field(default_factory=time.monotonic)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, file: File) -> bytes:
        """An object of an earlier step, checked (see `Run.read`) and recorded as an input."""
        data = self.run.read(file)
        self.inputs[file.key] = sha256(data)
        return data

    def read_json(self, file: File) -> Any:
        """The JSON document in an object of an earlier step."""
        return json.loads(self.read(file))

    def write(self, file: File, data: bytes) -> None:
        """Publishes an object and records it as an output."""
        self.run.store.write(f"{self.run.id}/{file.key}", data)
        self.outputs[file.key] = {"sha256": sha256(data), "bytes": len(data)}

    def publish(self, file: File, path: Path) -> None:
        """Writes the content of `path`, which may be larger than memory, as an object."""
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self.run.store.publish(f"{self.run.id}/{file.key}", path)
        self.outputs[file.key] = {"sha256": digest, "bytes": path.stat().st_size}

    def adopt(self, file: File) -> None:
        """Records an object that another process of this step wrote."""
        digest, size = self.run.digest(file.key)
        self.outputs[file.key] = {"sha256": digest, "bytes": size}

    def write_json(self, file: File, doc: Any) -> None:
        """Publishes a JSON document; a `StepError` for one with a number that is not finite."""
        self.write(file, json_lines(doc, file.key).encode())

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger in which the step keeps finished parts of its work until it is complete."""
        return Ledger(self.run, self.name)

    def finish(self, seed: int, **facts: object) -> None:
        """Publishes the done record, which makes the step complete, and removes its unfinished parts."""
        record = {
            "step": self.name,
            "code": self.run.code,
            "seed": seed,
            "seconds": round(time.monotonic() - self.started, 3),
            "machine": machine(),
            "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **facts,
            "inputs": self.inputs,
            "outputs": self.outputs,
        }
        self.run.store.write(f"{self.run.id}/{self.name}{DONE}", json_lines(record).encode())
        self.run.sweep(self.name)


class Ledger:
    """Rows of an unfinished step, kept in numbered parts that are never rewritten.

    `append` publishes rows at once; `collecting` those of a second as one part, so that the rate of requests to the store
    does not grow with that of rows. Both return when the store has them: nothing is queued for a slow one.
    """

    def __init__(self, run: Run, step: str) -> None:
        self.run = run
        self.prefix = f"{_PARTIAL}/{step}/"
        self.parts = max((int(number) for number in self._numbers()), default=0)
        self.collected: list[Any] = []
        self.published = time.monotonic()

    def rows(self) -> list[Any]:
        """All appended rows, in order; a `DamagedObject` for a part that is not as it was written."""
        found: list[Any] = []
        for key in (f"{self.prefix}{number}.jsonl" for number in self._numbers()):
            data = self.run.raw(key)
            try:
                found += [json.loads(line) for line in data.splitlines()]
            except ValueError:
                raise DamagedObject(
                    f"{self.run.url}/{key}: is not JSON, or is cut short; delete {self.run.url}/{self.prefix} "
                    "and run the same command again, which repeats the step"
                ) from None
        return found

    def _numbers(self) -> list[str]:
        """The numbers of the parts, as in their keys; other objects beside them are no parts."""
        names = [key.removeprefix(self.prefix).removesuffix(".jsonl") for key in self.run.keys(self.prefix)]
        return [name for name in names if name.isdecimal()]

    @contextmanager
    def collecting(self) -> Iterator[Callable[[Any], None]]:
        """A function that adds a row to the next part; what is left is published at the end, of an error too.

        A part is published once `PART_S` seconds have passed since the last.
        """

        def collect(row: Any) -> None:
            self.collected.append(row)
            if time.monotonic() - self.published >= PART_S:
                publish()

        def publish() -> None:
            rows, self.collected = self.collected, []
            self.append(rows)
            self.published = time.monotonic()

        try:
            yield collect
        finally:
            publish()

    def append(self, rows: Sequence[Any]) -> None:
        """Publishes rows as one part; raises an `InputError` if another process runs the same step."""
        if not rows:
            return
        self.parts += 1
        key = f"{self.run.id}/{self.prefix}{self.parts:06d}.jsonl"
        if not self.run.store.create(key, jsonl(rows)):
            raise InputError(
                f"{self.run.url}: another process works on this run and wrote {self.prefix}{self.parts:06d}.jsonl; "
                "stop it, or give this run another --store"
            )
