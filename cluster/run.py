"""One run in a store: its keys, its steps, and what proves that they are whole.

No other file builds a key. A step reads what earlier steps left, writes objects of its own, and is finished by
its done record, which is written last and lists the sha256 of everything it read and wrote.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from cluster.errors import InputError
from cluster.store import MissingObject, Store, open_store

CONFIG = "config.toml"
MEASURED = "measured.jsonl"
LATENCY = "latency.json"
PREDICTOR = "predictor/accuracy.npz"
LATENCY_PREDICTOR = "predictor/latency.npz"
PREDICTOR_QUALITY = "predictor/quality.json"
SEARCHED = "search.jsonl"
FRONT = "front.json"
VALIDATED = "validated.json"
ENSEMBLES = "ensembles.json"
REPORT = "report.html"
SCALE = "partial/scale.json"  # evaluators and evaluations that a search under way shall have; `ofa scale` writes it

CHECKPOINT = "supernet/checkpoint.json"

_DONE = ".done.json"
_PARTIAL = "partial"
PREDICTION_PARTS = f"{_PARTIAL}/predict/"


def supernet(phase: str) -> str:
    """The weights at the end of a phase."""
    return f"supernet/{phase}/weights.safetensors"


def supernet_meta(phase: str) -> str:
    """What a phase was and how training went."""
    return f"supernet/{phase}/meta.json"


def supernet_checkpoint(phase: str, digest: str) -> str:
    """The state with this sha256 of a phase under way; `CHECKPOINT` says which is the latest."""
    return f"supernet/{phase}/checkpoint-{digest[:16]}.safetensors"


def predictions(split: str) -> str:
    """The prediction table of the front's members on a split."""
    return f"predictions/{split}.npz"


def prediction_part(split: str, digest: str, start: int) -> str:
    """A part of a prediction table under way: whose it is, as a digest, and its first image."""
    return f"{PREDICTION_PARTS}{split}-{digest[:16]}-{start:08d}.npz"


def subnet(name: str, suffix: str) -> str:
    """A file of an exported network."""
    return f"subnets/{name}{suffix}"


def driver_log(attempt: int) -> str:
    """What the driver of an attempt on a cluster said."""
    return f"logs/driver-{attempt:06d}.log"


def attempt_record(attempt: int) -> str:
    """When an attempt on a cluster began, and how it ended."""
    return f"{_PARTIAL}/attempts/{attempt:06d}.json"


class DamagedObject(InputError):
    """An object whose content is not what was recorded."""


class Superseded(InputError):
    """A later attempt at the same run has begun: this one must not write any more."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Run:
    """What one config asked for, at `<store>/<id>/`."""

    store: Store
    id: str
    code: str  # version of the code, for the done records
    attempt: int = 0  # of those on clusters; 0 is outside of them, and nobody supersedes it

    @classmethod
    def open(cls, store_url: str, run_id: str, config_toml: str, code: str, attempt: int = 0) -> Run:
        """The run, new or begun earlier; the config that first opened it is kept."""
        run = cls.at(store_url, run_id, code, attempt)
        run.store.create(f"{run_id}/{CONFIG}", config_toml.encode())
        return run

    @classmethod
    def at(cls, store_url: str, run_id: str, code: str, attempt: int = 0) -> Run:
        """The run, for one that another process opened; what an attempt writes is refused once there is a later one."""
        store = open_store(store_url)
        return cls(Fenced(store, run_id, attempt) if attempt else store, run_id, code, attempt)

    @property
    def url(self) -> str:
        return f"{self.store.url.rstrip('/')}/{self.id}"

    def raw(self, key: str) -> bytes:
        """An object as it is, unchecked."""
        return self.store.read(f"{self.id}/{key}")

    def keys(self, prefix: str = "") -> list[str]:
        return [key.removeprefix(f"{self.id}/") for key in self.store.keys(f"{self.id}/{prefix}")]

    def done(self, step: str) -> dict[str, Any] | None:
        """The done record of a step, or None."""
        try:
            record: dict[str, Any] = json.loads(self.raw(step + _DONE))
        except MissingObject:
            return None
        except ValueError:
            record = {}
        if not isinstance(record, dict) or not {"finished", "inputs", "outputs"} <= set(record):
            raise DamagedObject(f"{self.url}/{step}{_DONE}: is no done record; delete it and run the same command again")
        return record

    def steps(self) -> dict[str, dict[str, Any]]:
        """The done records of all finished steps, in the order they finished."""
        names = [key.removesuffix(_DONE) for key in self.keys() if "/" not in key and key.endswith(_DONE)]
        records = {name: record for name in names if (record := self.done(name)) is not None}
        return dict(sorted(records.items(), key=lambda item: item[1]["finished"]))

    def recorded(self) -> dict[str, tuple[str, str]]:
        """Of every object that a finished step wrote: which step, and its sha256."""
        return {key: (step, out["sha256"]) for step, rec in self.steps().items() for key, out in rec["outputs"].items()}

    def finished(self, step: str) -> bool:
        """Whether a step is done, and everything it read is still what it read."""
        record = self.done(step)
        if record is None:
            return False
        now = self.recorded()
        return all(key not in now or now[key][1] == digest for key, digest in record["inputs"].items())

    def read(self, key: str, *, made_by: str) -> bytes:
        """An object that a finished step wrote, checked against its sha256; `made_by` is the command that makes it."""
        recorded = self.recorded()
        if key not in recorded:
            raise InputError(f"{key!r} is not in {self.url}; run `ofa {made_by}` first")
        step, digest = recorded[key]
        try:
            data = self.raw(key)
        except MissingObject:
            data = None
        if data is None or sha256(data) != digest:
            what = "is missing" if data is None else f"has sha256 {sha256(data)[:12]}, {step} wrote {digest[:12]}"
            raise DamagedObject(
                f"{self.url}/{key}: {what}: it is damaged; delete {step}{_DONE} there and run the same command again"
            )
        return data

    def begin(self, step: str) -> Step:
        """Starts, or takes up again, a step that is not finished."""
        return Step(self, step)

    def sweep(self, step: str) -> None:
        """Removes the unfinished parts of a finished step (a kill may have come before `finish` could)."""
        keys = self.keys(f"{_PARTIAL}/{step}/")
        if step == "train":
            keys += [key for key in self.keys("supernet/") if "/checkpoint" in key]
        for key in keys:
            self.store.delete(f"{self.id}/{key}")

    def problems(self) -> Iterator[str]:
        """What is wrong with the objects of finished steps: one line for each that is missing, damaged or unrecorded."""
        expected, now = {CONFIG}, self.recorded()
        for step, record in self.steps().items():
            expected.add(step + _DONE)
            for key, output in record["outputs"].items():
                expected.add(key)
                try:
                    data = self.raw(key)
                except MissingObject:
                    yield f"{key}: missing, {step} wrote it"
                    continue
                if sha256(data) != output["sha256"]:
                    yield f"{key}: damaged, sha256 is {sha256(data)[:12]}, {step} wrote {output['sha256'][:12]}"
            for key, digest in record["inputs"].items():
                if key in now and now[key][1] != digest:
                    yield f"{step}{_DONE}: stale, it read another {key} than {now[key][0]} wrote"
        if not self.steps():
            yield "no step has finished"
            return
        for key in self.keys():
            if key not in expected and not key.startswith((f"{_PARTIAL}/", "supernet/", "logs/")):
                yield f"{key}: no finished step wrote it"


@dataclass
class Step:
    """A step under way: reads are checked and recorded, writes are recorded, `finish` publishes the record."""

    run: Run
    name: str
    started: float = field(default_factory=time.monotonic)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, key: str, *, made_by: str) -> bytes:
        data = self.run.read(key, made_by=made_by)
        self.inputs[key] = sha256(data)
        return data

    def read_json(self, key: str, *, made_by: str) -> Any:
        return json.loads(self.read(key, made_by=made_by))

    def write(self, key: str, data: bytes) -> None:
        self.run.store.write(f"{self.run.id}/{key}", data)
        self.outputs[key] = {"sha256": sha256(data), "bytes": len(data)}

    def publish(self, key: str, path: Path) -> None:
        """Writes the file at `path`, which may be larger than memory, as an object."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.run.store.publish(f"{self.run.id}/{key}", path)
        self.outputs[key] = {"sha256": digest, "bytes": path.stat().st_size}

    def adopt(self, key: str) -> None:
        """Records an object that another process of this step wrote."""
        data = self.run.raw(key)
        self.outputs[key] = {"sha256": sha256(data), "bytes": len(data)}

    def write_json(self, key: str, doc: Any) -> None:
        self.write(key, json_lines(doc).encode())

    @cached_property
    def ledger(self) -> Ledger:
        """Where the step keeps finished parts of its work until it is whole."""
        return Ledger(self.run, self.name)

    def finish(self, seed: int, **facts: object) -> None:
        """Publishes the done record, which makes the step whole, and removes its unfinished parts."""
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
        self.run.store.write(f"{self.run.id}/{self.name}{_DONE}", json_lines(record).encode())
        self.run.sweep(self.name)


class Ledger:
    """Rows of an unfinished step, kept in numbered parts that are never rewritten."""

    def __init__(self, run: Run, step: str) -> None:
        self.run = run
        self.prefix = f"{_PARTIAL}/{step}/"
        self.parts = len(run.keys(self.prefix))

    def rows(self) -> list[Any]:
        """Everything appended so far, in order."""
        return [json.loads(line) for key in self.run.keys(self.prefix) for line in self.run.raw(key).splitlines()]

    def append(self, rows: Sequence[Any]) -> None:
        """Publishes rows as one part; another process at the same step is an `InputError`."""
        if not rows:
            return
        self.parts += 1
        key = f"{self.run.id}/{self.prefix}{self.parts:06d}.jsonl"
        if not self.run.store.create(key, jsonl(rows)):
            raise InputError(
                f"{self.run.url}: another process works on this run and wrote {self.prefix}{self.parts:06d}.jsonl; "
                "stop it, or give this run another --store"
            )


def attempts(store: Store, run_id: str) -> list[int]:
    """The numbers of the attempts on clusters so far."""
    prefix = f"{run_id}/{_PARTIAL}/attempts/"
    return sorted(int(key.removeprefix(prefix).removesuffix(".json")) for key in store.keys(prefix))


def claim_attempt(store: Store, run_id: str, **facts: object) -> int:
    """The number of a new attempt, higher than all before; of several that claim at once each gets its own."""
    number = max(attempts(store, run_id), default=0)
    created = False
    while not created:
        number += 1
        created = store.create(f"{run_id}/{attempt_record(number)}", json_lines({"attempt": number, **facts}).encode())
    return number


class Fenced:
    """A store for one attempt at a run: reads as the store, writes only while no later attempt has begun.

    KubeRay may start a new cluster while pods of the old one still live. A writer that was paused between looking and
    writing could slip through; objects that matter have their sha256 recorded elsewhere, so this is found out then.
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


def json_lines(doc: Any) -> str:
    """JSON for people: whatever fits in one line stands in one line."""
    return _json_lines(doc, "") + "\n"


def _json_lines(doc: Any, indent: str) -> str:
    flat = json.dumps(doc)
    if len(flat) + len(indent) <= 160 or not isinstance(doc, dict | list) or not doc:
        return flat
    deeper = indent + " "
    if isinstance(doc, dict):
        parts = [f"{deeper}{json.dumps(key)}: {_json_lines(value, deeper)}" for key, value in doc.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if all(isinstance(item, int | float) for item in doc):
        return flat
    return "[\n" + ",\n".join(deeper + _json_lines(item, deeper) for item in doc) + f"\n{indent}]"


def jsonl(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def machine() -> str:
    """The machine in words, for records and for the device of a latency."""
    return f"{platform.system()} {platform.machine()}, {_processor()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{len(names)} x {names[0]}"
    except (OSError, IndexError):
        return platform.processor() or "unknown processor"
