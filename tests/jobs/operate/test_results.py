"""Runs as an operator reads them, in a store of a scheme that the test adds."""

import memory
import pytest

from cluster.errors import InputError, StepError
from cluster.progress import Reporter
from cluster.run import File, Run
from cluster.store import open_store
from jobs.operate import results
from jobs.operate.results import compare, listing, pull, runs, the_run, verify

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


@pytest.mark.parametrize("damaged", [False, True])
def test_large_objects_are_pulled_in_parts(url, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(results, "LARGE_BYTES", 1)
    run = the_run(url, "tiny-1")
    monkeypatch.setattr(Run, "raw", lambda run, key, raw=Run.raw: raw(run, key) if key != "front.json" else pytest.fail(key))
    if damaged:
        open_store(url).write("tiny-1/front.json", b"[]")
        with pytest.raises(StepError, match=r"tiny-1/front\.json: damaged"):
            pull(run, str(tmp_path), Reporter("plain"))
        assert not (tmp_path / "tiny-1" / "front.json").exists()
    else:
        pull(run, str(tmp_path), Reporter("plain"))
        assert (tmp_path / "tiny-1" / "front.json").read_bytes() == b"{}\n"


def test_a_run_that_lacks_an_object_is_not_pulled_as_a_whole_one(url, tmp_path):
    open_store(url).delete("tiny-1/search.jsonl")
    with pytest.raises(StepError, match=r"tiny-1/search\.jsonl: missing; `ofa results verify` lists all"):
        pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))
    assert (tmp_path / "tiny-1" / "front.json").exists()
    assert not list((tmp_path / "tiny-1").glob("*.done.json"))


@pytest.mark.parametrize("missing", ["memory://nowhere", "/nowhere", "file:///nowhere"])
def test_a_store_that_is_not_there_gets_a_line(url, missing):
    with pytest.raises(InputError, match="there is no such directory"):
        runs(missing)


def test_a_run_is_not_a_store(tmp_path):
    Run.open(str(tmp_path), "tiny-1", "title = 1\n", code="test").begin("search")
    with pytest.raises(InputError, match="is a run, not a store; leave out the last part"):
        runs(str(tmp_path / "tiny-1"))


DAMAGE = {
    "changed": lambda store: store.write("tiny-1/search.jsonl", b"x"),
    "longer": lambda store: store.write("tiny-1/search.jsonl", b"\n\n"),
    "empty": lambda store: store.write("tiny-1/front.json", b""),
    "missing": lambda store: store.delete("tiny-1/front.json"),
    "of no step": lambda store: store.write("tiny-1/predictions/test.npz", b""),
    "no config": lambda store: store.delete("tiny-1/config.toml"),
    "a damaged config": lambda store: store.write("tiny-1/config.toml", b"\0"),
    "a stale step": lambda store: rerun(store),
}


def rerun(store):
    step = Run(store, "tiny-1", code="test").begin("search")
    step.write(FRONT, b"[]\n")
    step.write(SEARCHED, b"\n")
    step.finish(seed=2)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_verify_reports_is_not_pulled_as_a_whole_run(url, tmp_path, damage):
    DAMAGE[damage](open_store(url))
    run = the_run(url, "tiny-1")
    assert len(verify(run)) == 1
    for _ in range(2):  # also where an earlier pull copied the rest
        with pytest.raises(StepError):
            pull(run, str(tmp_path), Reporter("plain"))
    copy = Run.at(str(tmp_path), "tiny-1", code="")
    assert not copy.keys("predictions/")
    if damage not in ("of no step", "no config", "a damaged config", "a stale step"):
        assert copy.steps() == {}


def test_a_pull_continues_and_repairs_what_an_earlier_one_left(url, tmp_path):
    store, target = open_store(url), open_store(str(tmp_path))
    store.write("tiny-1/search.jsonl", b"x")
    with pytest.raises(StepError, match=r"search\.jsonl: damaged"):
        pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))
    assert target.keys("tiny-1/") == ["tiny-1/config.toml", "tiny-1/front.json", "tiny-1/report.html"]
    store.write("tiny-1/search.jsonl", b"\n")
    target.write("tiny-1/front.json", b"cut")
    pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))
    assert verify(Run.at(str(tmp_path), "tiny-1", code="")) == []


def test_what_else_lies_in_the_copy_is_reported(url, tmp_path):
    open_store(str(tmp_path)).write("tiny-1/old.json", b"")
    with pytest.raises(StepError, match=r"the copy .*/tiny-1: old\.json: no finished step wrote it"):
        pull(the_run(url, "tiny-1"), str(tmp_path), Reporter("plain"))


def test_a_run_is_not_pulled_onto_itself(tmp_path):
    Run.open(str(tmp_path / "a"), "tiny-1", "title = 1\n", code="test").begin("search")
    with pytest.raises(InputError, match="is the run's own store"):
        pull(the_run(str(tmp_path / "a"), "tiny-1"), f"{tmp_path}/b/../a/", Reporter("plain"))


def test_a_store_that_stops_answering_leaves_no_half_object_and_no_record(url, tmp_path, monkeypatch):
    run, reads = the_run(url, "tiny-1"), []
    whole = type(run.store).read

    def read(store, key):
        reads.append(key)
        if len(reads) > 4:
            raise StepError(f"{store.url}/{key}: the object store answered SlowDown")
        return whole(store, key)

    monkeypatch.setattr(type(run.store), "read", read)
    with pytest.raises(StepError, match="SlowDown"):
        pull(run, str(tmp_path), Reporter("plain"))
    monkeypatch.undo()
    copy = Run.at(str(tmp_path), "tiny-1", code="")
    assert copy.steps() == {}
    assert all(copy.raw(key) == run.raw(key) for key in copy.keys())


def test_a_run_with_damaged_records_does_not_hide_the_others(url):
    store = open_store(url)
    for name in ("tiny-2", "tiny-3"):
        for key in store.keys("tiny-1/"):
            store.write(key.replace("tiny-1", name), store.read(key))
    store.write("tiny-2/fit.done.json", b"{}")
    rows = []
    with pytest.raises(InputError, match=r"tiny-2/fit\.done\.json: is no done record"):
        rows += [rows.append(row["run"]) for row in listing(url)]
    assert rows == ["tiny-1", "tiny-3"]


def test_a_prefix_of_a_bucket_without_objects_gets_a_line(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    Run.open("s3://results/listed", "tiny-1", "title = 1\n", code="test").begin("search")
    assert [row["run"] for row in listing("s3://results/listed/")] == ["tiny-1"]
    with pytest.raises(InputError, match="s3://results/list: there is no object; check the bucket's name and the prefix"):
        runs("s3://results/list")
    with pytest.raises(InputError, match="there is no object"):
        the_run("s3://results/list", "tiny-1")


def test_an_empty_directory_lists_no_runs(tmp_path):
    assert list(listing(str(tmp_path))) == []


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"\xff", b"", b'{"space": "digits", "members": [{}]}', b'{"space": 1, "members": 1}']
)
def test_a_front_that_is_none_is_named_where_runs_are_compared(url, content):
    step = Run(open_store(url), "tiny-1", code="test").begin("search")
    step.write(FRONT, content)
    step.finish(seed=1)
    with pytest.raises(InputError, match=r"tiny-1/front\.json"):
        compare(the_run(url, "tiny-1"), the_run(url, "tiny-1"))


def test_settings_and_steps_of_two_runs_are_compared(url):
    step = Run.open(url, "tiny-2", "title = 2\nother = [1]\n", code="test").begin("fit")
    step.finish(seed=1)
    store = open_store(url)
    store.delete("tiny-1/search.done.json")
    rows = {row["what"]: (row["one"], row["other"]) for row in compare(the_run(url, "tiny-1"), the_run(url, "tiny-2"))}
    assert rows["title"] == (1, 2)
    assert rows["other"] == (None, [1])
    assert rows["fit: seconds"][0] is None
