"""Runs as an operator reads them, in a store of a scheme that the test adds."""

import memory
import pytest

from cluster.errors import InputError, StepError
from cluster.progress import Reporter
from cluster.run import File, Run
from cluster.store import open_store
from jobs.operate.results import listing, pull, runs, the_run, verify

FRONT, SEARCHED = File("front.json", "search"), File("search.jsonl", "search")
REPORT = File("report.html", "report")


@pytest.fixture
def url(monkeypatch):
    """A store in memory with a run of two steps."""
    memory.add_scheme(monkeypatch)
    run = Run.open("memory://results", "tiny-1", "title = 1\n", code="test")
    step = run.begin("search")
    step.ledger.append([{"row": 1}])
    step.write(FRONT, b"{}\n")
    step.write(SEARCHED, b"\n")
    step.finish(seed=1)
    step = run.begin("report")
    assert step.read(FRONT) == b"{}\n"
    step.write(REPORT, b"<html>")
    step.finish(seed=1)
    return "memory://results"


def test_a_run_is_made_listed_and_verified_in_an_added_store(url):
    assert [sorted(row["steps"]) for row in listing(url)] == [["report", "search"]]
    run = the_run(url, None)
    assert verify(run) == []
    open_store(url).write("tiny-1/front.json", b"[]")
    assert ["front.json: damaged" in line for line in verify(run)] == [True]


def test_a_run_is_pulled_out_of_an_added_store(url, tmp_path):
    pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))
    copy = Run.at(str(tmp_path), "tiny-1", code="")
    assert verify(copy) == []
    assert copy.keys() == the_run(url, "tiny-1").keys()


def test_a_run_that_lacks_an_object_is_not_pulled_as_a_whole_one(url, tmp_path):
    open_store(url).delete("tiny-1/search.jsonl")
    with pytest.raises(StepError, match=r"search\.jsonl: missing there; `ofa results verify` says what else is"):
        pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))
    assert (tmp_path / "tiny-1" / "front.json").exists()
    assert not list((tmp_path / "tiny-1").glob("*.done.json"))


@pytest.mark.parametrize("missing", ["memory://nowhere", "/nowhere", "file:///nowhere"])
def test_a_store_that_is_not_there_gets_a_line(url, missing):
    with pytest.raises(InputError, match="there is no such directory"):
        runs(missing)


def test_a_run_is_not_a_store(tmp_path):
    Run.open(str(tmp_path), "tiny-1", "title = 1\n", code="test")
    with pytest.raises(InputError, match="is a run, not a store; leave out the last part"):
        runs(str(tmp_path / "tiny-1"))
