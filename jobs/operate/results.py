"""What stands in a store: list runs, show one, pull it, verify it, compare two.

ofa results list --store s3://bucket/prefix
ofa results pull digits-1a2b3c4d --store s3://bucket/prefix --to ./results
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.address import shown
from cluster.errors import InputError, NoSpace, StepError
from cluster.progress import Reporter
from cluster.reading import parse_json
from cluster.run import CONFIG, DONE, DamagedObject, Run, must_exist, run_keys
from cluster.store import Store, open_store
from cluster.stores.errors import MissingObject
from cluster.texts import sha256
from ensemble.document import Ensembles
from jobs import files
from ofa.arch import ArchError
from search.front import Front

# Folders in which a step that is not finished may have left objects.
UNFINISHED = (f"{files.SUPERNET}/", f"{files.ADAPTED}/", f"{files.FINETUNED}/", f"{files.TUNING}/")
MOST_LISTED = 20  # ids in a message
LARGE_BYTES = 64 * 2**20  # an object that is larger is copied in parts


def runs(store_url: str) -> dict[str, list[str]]:
    """The keys of every run in a store, relative to the run, by its id; an `InputError` where no store can be."""
    must_exist(store_url)
    return run_keys(open_store(store_url))


def the_run(store_url: str, run_id: str | None) -> Run:
    """The run of that id, or the only one there is."""
    if run_id is not None:
        return Run.existing(store_url, run_id, code="")
    there = [*runs(store_url)]
    if not there:
        raise InputError(f"{shown(store_url)}: there is no run; `ofa run` makes one")
    if len(there) > 1:
        raise InputError(f"{shown(store_url)} has {len(there)} runs; give the id of one: {', '.join(there[:MOST_LISTED])}")
    return Run.existing(store_url, there[0], code="")


def listing(store_url: str) -> Iterator[dict[str, Any]]:
    """One row a run: its id, its finished steps and when the last one finished.

    Raises the `DamagedObject` of a run whose records cannot be read, after the rows of all others.
    """
    there, store, damaged = runs(store_url), open_store(store_url), list[DamagedObject]()
    for run_id, keys in there.items():
        try:
            steps = Run(store, run_id, code="").steps(keys)
        except DamagedObject as error:
            damaged.append(error)
            continue
        yield {"run": run_id, "steps": list(steps), "last": max((s["finished"] for s in steps.values()), default="")}
    if damaged:
        raise DamagedObject(str(damaged[0]) + (f" (and {len(damaged) - 1} more runs)" if damaged[1:] else ""))


def verify(run: Run) -> list[str]:
    """What is wrong with a run, a line each; empty if every object is whole."""
    return list(run.problems(unfinished=UNFINISHED))


def pull(run: Run, to: str, reporter: Reporter) -> None:
    """Copies a run, objects in parallel, each checked; objects that an earlier pull copied whole are not fetched again.

    Raises a `StepError` for everything that `verify` reports of the run or of the copy. Objects that are damaged, missing or
    of no step are not copied; the records of steps are copied last, and only if all that they list is.
    """
    target = open_store(to)
    if target.url == run.store.url:
        raise InputError(f"--to {shown(to)}: is the run's own store; give another directory")
    copy = Run(target, run.id, code="")
    digests = {key: digest for key, (_, digest) in run.recorded().items()}
    sizes = {key: out["bytes"] for record in run.steps().values() for key, out in record["outputs"].items()}
    there = [key for key in run.keys() if not key.startswith("partial/")]
    records = [key for key in there if key.endswith(DONE)]
    known = {CONFIG, *digests, *records}
    strange = [key for key in there if key not in known and not key.startswith(("logs/", *UNFINISHED))]
    wanted = [key for key in there if key not in (*records, *strange)]
    problems = [f"{key}: missing" for key in sorted(set(digests) - set(there))]

    def fetch(key: str) -> str | None:
        """Copies an object; returns the problem that prevents it."""
        if key in digests:
            with suppress(MissingObject):
                if copy.digest(key)[0] == digests[key]:
                    return None
        try:
            if sizes.get(key, 0) > LARGE_BYTES:
                return None if copy_large(run, key, digests[key], target) else f"{key}: damaged"
            data = run.raw(key)
        except MissingObject:  # deleted since the listing, as logs and checkpoints may be
            return f"{key}: missing" if key in digests else None
        if key in digests and sha256(data) != digests[key]:
            return f"{key}: damaged"
        target.write(f"{run.id}/{key}", data)
        return None

    with reporter.track("pull", len(wanted) + len(records), "objects") as tracker, ThreadPoolExecutor(8) as threads:
        for problem in threads.map(fetch, wanted):
            problems += [problem] if problem else []
            tracker.advance()
        for key in [] if problems else records:
            fetch(key)
            tracker.advance()
    problems += [f"{key}: no finished step wrote it, so it is not copied" for key in strange]
    if problems:
        more = f" and {len(problems) - 1} more" if problems[1:] else ""
        raise StepError(f"{run.url}/{problems[0]}{more}; `ofa results verify` lists all, the same command continues")
    if found := verify(copy):
        more = f" and {len(found) - 1} more" if found[1:] else ""
        raise StepError(f"the copy {copy.url}: {found[0]}{more}; `ofa results verify --store {target.url}` lists all")
    reporter.say(f"pulled {len(wanted) + len(records)} objects to {copy.url}")


def copy_large(run: Run, key: str, digest: str, target: Store) -> bool:
    """Copies an object that may be larger than memory, by a file in TMPDIR; False, and no copy, if it is damaged."""
    try:
        with tempfile.NamedTemporaryFile() as file:
            if run.digest(key, into=file)[0] != digest:
                return False
            file.flush()
            target.publish(f"{run.id}/{key}", Path(file.name))
    except OSError as error:
        raise NoSpace(
            f"{run.url}/{key}: cannot be copied by {tempfile.gettempdir()}: {error.strerror}; set TMPDIR"
        ) from None
    return True


def compare(one: Run, other: Run) -> list[dict[str, Any]]:
    """What differs between two runs, a row each: settings, and then what they found; None is what is not there."""
    rows = []
    for left, right in ((settings(one), settings(other)), (found(one), found(other))):
        names = [*left, *(name for name in right if name not in left)]
        rows += [{"what": name, "one": left.get(name), "other": right.get(name)} for name in names]
    return [row for row in rows if row["one"] != row["other"]]


def settings(run: Run) -> dict[str, Any]:
    """The run's settings by name: `search.evaluations` and so on."""

    def flat(doc: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in doc.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(flat(run.config(), ""))


def front_of(run: Run) -> Front:
    """The front of a run; a `DamagedObject` if the search wrote something else."""
    where = f"{run.url}/{files.FRONT.key}"
    try:
        return Front.from_json(parse_json(run.read(files.FRONT).decode(), where, "a front"))
    except (ArchError, UnicodeDecodeError) as error:
        raise DamagedObject(f"{where}: {error}; delete search{DONE} there and run the same command again") from None


def found(run: Run) -> dict[str, Any]:
    """The run's numbers, as far as it is."""
    steps, numbers = run.steps(), {}
    for name, record in steps.items():
        numbers[f"{name}: seconds"] = record["seconds"]
    if "search" in steps:
        members = front_of(run).members
        numbers["front: members"] = len(members)
        numbers["front: best top-1"] = max((member.top1 for member in members), default=None)
        numbers["front: least MACs"] = min((member.macs for member in members), default=None)
        numbers["search: evaluations"] = steps["search"].get("evaluations")
    if "ensemble" in steps:
        best = Ensembles.from_bytes(run.read(files.ENSEMBLES), f"{run.url}/{files.ENSEMBLES.key}").best
        numbers["best ensemble: members"] = len(best.members)
        numbers["best ensemble: top-1 on selection"] = best.top1
        numbers["best ensemble: top-1 on test"] = best.test_top1
    return numbers
