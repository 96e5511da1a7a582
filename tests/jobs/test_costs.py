"""The latency tables that a run keeps."""

import json
from types import SimpleNamespace

import pytest
from helpers import TINY

from cluster.config import dump
from cluster.progress import Reporter
from cluster.run import Run
from jobs import costs
from jobs.config import load
from jobs.job import Job
from jobs.workers.parts import part_table
from ofa.record import Measured
from ofa.spaces import get_space

SPACE = get_space("digits")


@pytest.fixture(scope="module")
def table():
    return part_table(SPACE, 10, SPACE.resolutions, runs=4, threads=1)


@pytest.fixture
def job(tmp_path, table):
    """A job on a run with the tables of two devices, one of them that of this machine."""
    (tmp_path / "phone.json").write_text(json.dumps(table))
    tables = f'search.latency_tables=[{{name="phone",file="{tmp_path / "phone.json"}"}}]'
    config = load(str(TINY), [tables, 'search.objectives=["top1","latency_ms.phone","latency_ms.here"]'])

    def made():
        run = Run.open(str(tmp_path / "store"), config.id, dump(config), "test")
        found = Job(config, run, Reporter(), "")
        found.__dict__["data"] = SimpleNamespace(classes=10)
        return found

    return made


def keep(job):
    tables = costs.given_tables(job)
    step = job.run.begin("train")
    costs.keep_tables(job, step, tables)
    return step


def test_given_tables_are_copied_when_the_training_begins_and_only_the_copies_are_read(job, tmp_path, monkeypatch, table):
    keep(job()).finish(1)
    (tmp_path / "phone.json").unlink()
    assert costs.given_tables(job()) == {}
    monkeypatch.setattr(costs, "_measured", lambda job: table)
    here = job()
    step = here.run.begin("measure")
    [m] = costs.costs_of(here, step).completed([Measured(SPACE.largest(), 0.5, 1, 2)])
    assert [*dict(m.latencies_ms)] == ["phone", "here"]
    assert [*step.inputs] == ["latency/phone.json"] and [*step.outputs] == ["latency/here.json"]
    assert [o.exact is None for o in costs.objectives_of(here, step)] == [True, False, False]


def test_a_training_that_was_stopped_keeps_the_tables_that_it_began_with(job, tmp_path):
    keep(job())
    (tmp_path / "phone.json").write_text("{}")
    assert [*keep(job()).outputs] == ["latency/phone.json"]
