"""What stands in a store: list runs, show one, pull it, verify it, compare two.

ofa results list --store s3://bucket/prefix
ofa results pull digits-1a2b3c4d --store s3://bucket/prefix --to ./results
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.errors import InputError, StepError
from cluster.progress import Reporter
from cluster.run import CONFIG, Run
from cluster.store import exists, open_store
from cluster.stores.errors import MissingObject
from cluster.texts import sha256
from ensemble.document import Ensembles
from jobs import files


def runs(store_url: str) -> list[str]:
    """The ids of all runs in a store; a store that is not there, or is itself a run, is an `InputError`."""
    if not exists(store_url):
        raise InputError(f"{store_url}: there is no such directory; give the --store of a run")
    keys = open_store(store_url).keys()
    if CONFIG in keys:
        raise InputError(f"{store_url}: is a run, not a store; leave out the last part, which is the run's id")
    found = [key.removesuffix(f"/{CONFIG}") for key in keys if key.endswith(f"/{CONFIG}")]
    return [run for run in found if "/" not in run]


def the_run(store_url: str, run_id: str | None) -> Run:
    """The run of that id, or the only one there is."""
    there = runs(store_url)
    if run_id is None and len(there) == 1:
        run_id = there[0]
    if run_id is None or run_id not in there:
        if not there:
            raise InputError(f"{store_url}: there is no run; `ofa run` makes one")
        what = f"has no run {run_id!r}" if run_id else f"has {len(there)} runs, say which"
        raise InputError(f"{store_url} {what}; there are: {', '.join(there)}")
    return Run.at(store_url, run_id, code="")


def listing(store_url: str) -> Iterator[dict[str, Any]]:
    """One row a run: its id, its finished steps and when the last one finished."""
    for run_id in runs(store_url):
        steps = Run.at(store_url, run_id, code="").steps()
        yield {"run": run_id, "steps": list(steps), "last": max((s["finished"] for s in steps.values()), default="")}


def verify(run: Run) -> list[str]:
    """What is wrong with a run, a line each; empty if every object is whole."""
    return list(run.problems(unfinished=(f"{files.SUPERNET}/",)))


def pull(run: Run, to: str, reporter: Reporter) -> None:
    """Copies a run, objects in parallel, each checked; objects that an earlier pull copied whole are not fetched again.

    Raises a `StepError` if an object that a step recorded is damaged or missing; the records of steps are then not copied.
    """
    target = open_store(to)
    digests = {key: digest for key, (_, digest) in run.recorded().items()}
    wanted = [key for key in run.keys() if not key.startswith("partial/")]
    records = [key for key in wanted if key.endswith(".done.json")]

    def fetch(key: str) -> None:
        name = f"{run.id}/{key}"
        if key in digests:
            try:
                if sha256(target.read(name)) == digests[key]:
                    return
            except MissingObject:
                pass
        data = run.raw(key)
        if key in digests and sha256(data) != digests[key]:
            raise StepError(f"{run.url}/{key}: damaged there, not pulled; `ofa results verify` says what else is")
        target.write(name, data)

    with reporter.track("pull", len(wanted), "objects") as tracker, ThreadPoolExecutor(8) as threads:
        for group in ([key for key in wanted if key not in records], records):  # records last: they say it is whole
            if group is records and (lost := sorted(set(digests) - set(wanted))):
                raise StepError(f"{run.url}/{lost[0]}: missing there; `ofa results verify` says what else is")
            for _ in threads.map(fetch, group):
                tracker.advance()
    reporter.say(f"pulled {len(wanted)} objects to {to}/{run.id}")


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

    return dict(flat(tomllib.loads(run.raw(CONFIG).decode()), ""))


def found(run: Run) -> dict[str, Any]:
    """The run's numbers, as far as it is."""
    steps, numbers = run.steps(), {}
    for name, record in steps.items():
        numbers[f"{name}: seconds"] = record["seconds"]
    if "search" in steps:
        members = json.loads(run.read(files.FRONT))["members"]
        numbers["front: members"] = len(members)
        numbers["front: best top-1"] = max(member["top1"] for member in members)
        numbers["front: least MACs"] = min(member["macs"] for member in members)
        numbers["search: evaluations"] = steps["search"].get("evaluations")
    if "ensemble" in steps:
        best = Ensembles.from_bytes(run.read(files.ENSEMBLES), f"{run.url}/{files.ENSEMBLES.key}").best
        numbers["best ensemble: members"] = len(best.members)
        numbers["best ensemble: top-1 on selection"] = best.top1
        numbers["best ensemble: top-1 on test"] = best.test_top1
    return numbers
