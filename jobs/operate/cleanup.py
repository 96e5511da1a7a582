"""What can be deleted from a store without losing a result: leftovers of killed writers and of finished steps.

    ofa results gc --store s3://bucket/prefix          lists it
    ofa results gc --store s3://bucket/prefix --yes    deletes it

Nothing that a done record names is ever deleted, and nothing of a run on which a driver may be working.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.attempts import ATTEMPTS, attempt_record, attempts, lives, read_attempt
from cluster.checkpoint import Checkpoints
from cluster.run import DONE, Run
from cluster.store import Store, open_store
from cluster.stores.errors import MissingObject
from cluster.stores.leftover import Leftover
from jobs import files
from jobs.operate.results import runs, the_run

YOUNG_S = 3600.0  # a write, or the silence of a driver elsewhere, that is younger may still go on


@dataclass(frozen=True, slots=True)
class Garbage:
    """One object, or leftover of a write, that may be deleted."""

    run: str  # "" for what belongs to no run
    key: str  # relative to the store
    bytes: int
    why: str
    leftover: Leftover | None = None

    def to_json(self) -> dict[str, Any]:
        """The row of `--json`."""
        return {"run": self.run, "key": self.key, "bytes": self.bytes, "why": self.why}


def garbage(store_url: str, run_id: str | None) -> tuple[list[Garbage], list[str]]:
    """What may be deleted of one run, or of all and their store; and the ids of runs that a driver may be working on."""
    store = open_store(store_url)
    ids = [the_run(store_url, run_id).id] if run_id is not None else list(runs(store_url))
    found, busy = list[Garbage](), list[str]()
    for name in ids:
        run = Run(store, name, code="")
        if in_use(run):
            busy.append(name)
            continue
        found += [Garbage(name, f"{name}/{key}", size(store, f"{name}/{key}"), why) for key, why in unneeded(run)]
    prefix = "" if run_id is None else f"{ids[0]}/"
    for left in store.leftovers(prefix):
        owner = left.name.partition("/")[0]
        if left.age_s >= YOUNG_S and owner not in busy:
            found.append(Garbage(owner if owner in ids else "", left.name, left.bytes, "an unfinished write", left))
    return found, busy


def delete(store_url: str, found: Sequence[Garbage]) -> None:
    """Deletes what `garbage` found."""
    store = open_store(store_url)
    for item in found:
        if item.leftover is not None:
            store.discard(item.leftover)
        else:
            store.delete(item.key)


def in_use(run: Run) -> bool:
    """Whether a driver works on a run, or may: one elsewhere that has renewed its record within the last hour."""
    numbers = attempts(run.store, run.id)
    if not numbers:
        return False
    record = read_attempt(run.store, run.id, numbers[-1])
    alive = lives(record)
    if alive is not None:
        return alive
    last = record.get("renewed") or record.get("began")
    if last is None or (then := datetime.fromisoformat(last)).tzinfo is None:
        return True
    return (datetime.now(UTC) - then).total_seconds() < YOUNG_S


def unneeded(run: Run) -> Iterator[tuple[str, str]]:
    """The keys of a run, relative to it, that nothing needs any more, each with the reason."""
    keys, steps = run.keys(), run.steps()
    named = {key for record in steps.values() for what in ("inputs", "outputs") for key in record[what]}
    given = dict[str, str]()
    for step in steps:
        given |= dict.fromkeys(run.unfinished_of(step), f"of the unfinished step {step}, which has finished since")
    for pointer in [key for key in keys if key.endswith("/checkpoint.json") and not key.startswith(f"{files.FINETUNED}/")]:
        folder = pointer.rpartition("/")[0]
        given |= dict.fromkeys(Checkpoints(run, folder).replaced(keys), "a checkpoint that a later one has replaced")
    if files.STEPS[-1] in steps:
        last = max(attempts(run.store, run.id), default=0)
        records = [key for key in keys if key.startswith(ATTEMPTS) and key != attempt_record(last)]
        given |= dict.fromkeys(records, "the record of an attempt before the last, and the run has finished")
    for key, why in sorted(given.items()):
        if key not in named and not key.endswith(DONE):
            yield key, why


def size(store: Store, key: str) -> int:
    """The size of an object, 0 if it is not there any more."""
    try:
        with store.open(key) as file:
            return file.seek(0, os.SEEK_END)
    except MissingObject:
        return 0
