"""The latencies of a run's sub-networks by its latency tables, which are objects of the run.

The tables that the settings name are copied into the run when its training begins; that of this machine (`latency_ms.here`)
is measured once, by the first step that needs it. Later steps read only the copies, so one seed gives one front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from cluster.config import ConfigError
from cluster.errors import InputError
from cluster.reading import decoded, parse_json_or_yaml, shortened
from cluster.run import File, Step
from cluster.runtime.tasks import ray_map
from cluster.store import read_object
from cluster.stores.errors import StoreError
from jobs import files
from jobs.config import HERE, LatencyTableConfig
from jobs.job import Job
from jobs.workers.parts import part_table
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable, TableCost
from search.objective import Objective

_EXPECTED = "a latency table"


def costs_of(job: Job, step: Step) -> DeviceCosts:
    """The run's latencies; its tables are recorded as inputs of `step`, or as its outputs if it makes them."""
    if job.costs is None:
        space, classes = job.config.search_space, job.data.classes
        tables = {device: _table(job, step, device) for device in job.config.devices}
        job.costs = DeviceCosts(space, classes, tables)
    for device in job.config.devices:
        file = table_file(job, device)
        if file.key not in (*step.inputs, *step.outputs):
            step.read(file)
    return job.costs


def objectives_of(job: Job, step: Step) -> tuple[Objective, ...]:
    """The objectives of the run's searches, with the functions that compute those by latency tables."""
    costs = costs_of(job, step)
    return tuple(map(costs.computed, job.config.objectives))


def table_file(job: Job, device: str) -> File:
    """The object that is a device's latency table."""
    step = "train" if device != HERE else "adapt" if job.config.adapt.iterations else "measure"
    return files.latency_table(device, step)


def given_tables(job: Job) -> dict[str, object]:
    """The documents of the settings' tables that the run does not keep yet, by device.

    Raises an `InputError` or a `ProblemError` for one that cannot be read, or lacks a part of the run's space.
    """
    found, space = {}, job.config.search_space
    for given in job.config.search.latency_tables:
        if not job.run.keys(table_file(job, given.name).key):
            found[given.name] = doc = read_table(given)
            table = LatencyTable.parse(doc, given.file)
            TableCost.of(table, space, job.data.classes)(space)  # looks up every part
    return found


def keep_tables(job: Job, step: Step, tables: Mapping[str, object]) -> None:
    """Writes these tables into the run, and records those that an earlier attempt of the step has written."""
    for given in job.config.search.latency_tables:
        file = table_file(job, given.name)
        if given.name in tables:
            step.write_json(file, tables[given.name])
        else:
            step.adopt(file)


def read_table(given: LatencyTableConfig) -> object:
    """The document in the file of a latency table; a `ConfigError` if it cannot be read."""
    where = shortened(given.file)
    try:
        return parse_json_or_yaml(decoded(read_object(given.file), where, _EXPECTED), where, _EXPECTED)
    except (InputError, StoreError) as error:
        raise ConfigError(f"search.latency_tables: {given.name}: {error}; give {_EXPECTED}") from None


def _table(job: Job, step: Step, device: str) -> LatencyTable:
    """A device's table; this machine's is measured by the step that makes it, unless an earlier attempt has measured it."""
    file = table_file(job, device)
    if device == HERE and step.name == file.step:
        if not job.run.keys(file.key):
            step.write_json(file, _measured(job))
        step.adopt(file)
        data = job.run.raw(file.key)
    else:
        data = step.read(file)
    return LatencyTable.parse(json.loads(data), f"{job.run.url}/{file.key}")


def _measured(job: Job) -> object:
    """The table of the parts of the run's space on the machine that measures."""
    space, setting = job.config.search_space, job.config.measure
    job.reporter.say(f"{HERE}: timing the parts of {space.name}, {setting.latency_threads} thread")
    job.need_ray()
    clock = partial(
        part_table, classes=job.data.classes, resolutions=space.resolutions, runs=setting.latency_runs,
        threads=setting.latency_threads, device=setting.device,
    )  # fmt: skip
    [table] = ray_map(clock, [space], gpus=job.config.ray.evaluator_gpus)
    return table
