"""The latency tables that a run keeps."""

import json
from types import SimpleNamespace

import pytest
from helpers import TINY

from cluster.config import ConfigError, dump
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.run import Run
from jobs import costs
from jobs.config import load
from jobs.job import Job
from jobs.workers.parts import part_table
from ofa.record import Measured
from ofa.spaces import get_space
from search.errors import ProblemError

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


def test_this_machine_is_timed_once_also_where_the_step_is_stopped(job, monkeypatch, table):
    timed = []
    monkeypatch.setattr(costs, "_measured", lambda job: timed.append(1) or table)
    keep(job()).finish(1)
    for _ in range(2):
        again = job()
        step = again.run.begin("measure")
        costs.costs_of(again, step)
    step.finish(1)
    later = job()
    search = later.run.begin("search")
    costs.costs_of(later, search)
    assert timed == [1]
    assert {*search.inputs} == {"latency/phone.json", "latency/here.json"}


def test_a_step_before_this_machine_is_timed_names_the_step_that_times_it(job):
    keep(job()).finish(1)
    early = job()
    with pytest.raises(InputError, match=r"'latency/here.json' is not in .*; run `ofa measure` first"):
        costs.costs_of(early, early.run.begin("search"))


def test_a_table_without_a_part_of_the_space_is_refused_before_the_training(job, tmp_path, table):
    lacking = {key: value for key, value in table.items() if key != "24"}
    (tmp_path / "phone.json").write_text(json.dumps(lacking))
    with pytest.raises(ProblemError, match=r"phone.json: has no key .* which resolution 24 needs"):
        costs.given_tables(job())
    (tmp_path / "phone.json").unlink()
    with pytest.raises(ConfigError, match=r"search.latency_tables: phone: .*phone.json"):
        costs.given_tables(job())
