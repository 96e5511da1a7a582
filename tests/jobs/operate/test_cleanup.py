"""`ofa results gc`: what it lists and deletes, and what it never does."""

import json
import os
import sys
import time

import pytest

from cluster.attempts import attempt_record, this_process
from cluster.checkpoint import Checkpoints, Progress
from cluster.run import File, Run
from cluster.store import open_store
from jobs import files
from jobs.cli.main import main
from jobs.operate import cleanup
from jobs.operate.results import verify

WEIGHTS = files.supernet("width")
OLD = time.time() - 2 * cleanup.YOUNG_S


def attempt(store, number, run="one", **facts):
    record = {"attempt": number, "began": "2026-01-01T00:00:00+00:00", **facts}
    store.write(f"{run}/{attempt_record(number)}", json.dumps(record).encode())


@pytest.fixture
def url(tmp_path):
    """A store with a finished run, `one`, and one that was killed in its training, `two`; both have leftovers."""
    url = str(tmp_path / "store")
    store = open_store(url)
    run = Run.open(url, "one", "title = 1\n", "test")
    for step_name in ("train", "export"):
        step = run.begin(step_name)
        if step_name == "train":
            step.write(WEIGHTS, b"weights")
        step.finish(seed=1)
    store.write("one/partial/train/000001.jsonl", b"{}\n")
    store.write("one/supernet/width/checkpoint-1.safetensors", b"state")
    for number in (1, 2, 3):
        attempt(store, number, **this_process(), ended="2026-01-01T00:00:00+00:00", exit=1)
    two = Run.open(url, "two", "title = 1\n", "test")
    two.begin("train")
    checkpoints = Checkpoints(two, "supernet")
    checkpoints.save(b"old", Progress(step=1), "width")
    store.write("two/supernet/width/checkpoint-0000.safetensors", b"replaced")
    store.write("two/partial/train/000001.jsonl", b"{}\n")
    return url


GARBAGE = {
    "one/partial/attempts/000001.json",
    "one/partial/attempts/000002.json",
    "one/partial/train/000001.jsonl",
    "one/supernet/width/checkpoint-1.safetensors",
    "two/supernet/width/checkpoint-0000.safetensors",
}


def keys_of(found):
    return {item.key for item in found}


def test_only_what_no_result_needs_is_listed_and_deleted(url):
    store = open_store(url)
    before = store.keys()
    found, busy = cleanup.garbage(url, None)
    assert (keys_of(found), busy) == (GARBAGE, [])
    assert {item.bytes for item in found if item.key.startswith("two/")} == {len(b"replaced")}
    assert store.keys() == before
    cleanup.delete(url, found)
    assert set(store.keys()) == set(before) - GARBAGE
    assert verify(Run.existing(url, "one", "test")) == []
    assert Checkpoints(Run.existing(url, "two", "test"), "supernet").latest() == (b"old", Progress(step=1))
    assert cleanup.garbage(url, None) == ([], [])


def test_what_a_done_record_names_is_kept_wherever_it_is(url):
    store = open_store(url)
    step = Run.existing(url, "one", "test").begin("measure")
    step.write(File("supernet/width/checkpoint-1.safetensors", "measure"), b"state")
    step.finish(seed=1)
    found, _ = cleanup.garbage(url, "one")
    assert keys_of(found) == {key for key in GARBAGE if key.startswith("one/") and "checkpoint" not in key}
    assert store.read("one/supernet/width/checkpoint-1.safetensors") == b"state"


@pytest.mark.parametrize(
    ("facts", "busy"),
    [
        ({**this_process()}, True),
        ({**this_process(), "started": 1}, False),
        ({"host": "pod", "renewed": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}, True),
        ({"host": "pod"}, False),  # it began long ago, and has renewed nothing since
        ({"host": "pod", "began": None}, True),  # who knows
    ],
)
def test_a_run_on_which_a_driver_may_work_is_left_alone(url, facts, busy):
    attempt(open_store(url), 1, run="two", **facts)
    found, left = cleanup.garbage(url, None)
    assert left == (["two"] if busy else [])
    assert any(item.key.startswith("two/") for item in found) is not busy


def test_files_of_killed_writers_are_found_and_those_of_writers_that_may_live_are_not(url, tmp_path):
    host, folder = os.uname().nodename, tmp_path / "store" / ".tmp"
    names = {f"{host}-{os.getpid()}-lives": False, f"{host}-999999999-dead": True, "far-1-young": False, "far-1-old": True}
    for name in names:
        (folder / name).write_bytes(b"half")
        if name.endswith("-old"):
            os.utime(folder / name, (OLD, OLD))
    found, _ = cleanup.garbage(url, None)
    assert {item.key.removeprefix(".tmp/") for item in found if item.leftover} == {n for n, dead in names.items() if dead}
    assert cleanup.garbage(url, "one")[0] != []
    assert all(item.leftover is None for item in cleanup.garbage(url, "one")[0])
    cleanup.delete(url, found)
    assert {path.name for path in folder.iterdir()} == {name for name, dead in names.items() if not dead}


@pytest.mark.server
def test_uploads_in_parts_that_were_not_finished_are_found_in_a_bucket(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    url = "s3://results/gc"
    store = open_store(url)
    Run.open(url, "one", "title = 1\n", "test").begin("train")
    begun = store.client.create_multipart_upload(Bucket="results", Key="gc/one/big.npz")
    part = {
        "Bucket": "results",
        "Key": "gc/one/big.npz",
        "UploadId": begun["UploadId"],
        "PartNumber": 1,
        "Body": bytes(1000),
    }
    store.client.upload_part(**part)
    monkeypatch.setattr(cleanup, "YOUNG_S", 1e12)
    assert cleanup.garbage(url, "one") == ([], [])  # it may still go on
    monkeypatch.undo()  # the mock's uploads are all from 2010
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    found, _ = cleanup.garbage(url, "one")
    assert [(item.run, item.key, item.bytes, item.why) for item in found] == [
        ("one", "one/big.npz", 1000, "an unfinished write")
    ]
    cleanup.delete(url, found)
    cleanup.delete(url, found)
    assert cleanup.garbage(url, None) == ([], [])


class TestTheCommand:
    def ofa(self, monkeypatch, capsys, *arguments):
        monkeypatch.setattr(sys, "argv", ["ofa", "results", "gc", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    def test_it_lists_and_deletes_only_when_told(self, url, monkeypatch, capsys):
        store = open_store(url)
        before = store.keys()
        code, out, _ = self.ofa(monkeypatch, capsys, "--store", url)
        assert code == 0
        assert out.splitlines()[-1] == "5 objects, 0.0 MiB; nothing was deleted; --yes deletes them"
        assert store.keys() == before
        code, out, _ = self.ofa(monkeypatch, capsys, "--store", url, "--yes", "--json")
        rows = [json.loads(line) for line in out.splitlines()]
        assert {row["key"] for row in rows} == GARBAGE and all(row["deleted"] for row in rows)
        assert set(store.keys()) == set(before) - GARBAGE

    def test_a_run_that_is_worked_on_is_named(self, url, monkeypatch, capsys):
        attempt(open_store(url), 4, **this_process())
        code, out, err = self.ofa(monkeypatch, capsys, "one", "--store", url, "--yes")
        assert (code, out) == (0, "0 objects, 0.0 MiB; deleted\n")
        assert "run one is left alone: a driver works on it" in err
