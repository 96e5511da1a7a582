"""An old attempt's late writer is refused, and an attempt's words are kept without secrets."""

import json
import signal
import threading
from datetime import UTC, datetime

import pytest
from uses import REAL_SERVER

from cluster import driver
from cluster.attempts import Superseded, attempt_record, attempts, claim_attempt, driver_log, first_start
from cluster.checkpoint import Checkpoints, Progress
from cluster.errors import StepError
from cluster.run import File, Run
from cluster.store import open_store


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.server)])
def store_url(request, tmp_path, monkeypatch):
    if request.param == "directory":
        return str(tmp_path / "store")
    for name, value in request.getfixturevalue("mock_s3").items():
        monkeypatch.setenv(name, value)
    return f"s3://results/{tmp_path.name}"


# moto looks, then writes: two may both be told they were first
@pytest.mark.parametrize("where", ["directory", pytest.param("radosgw", marks=REAL_SERVER)])
def test_of_many_that_claim_at_once_each_gets_its_own_number(where, request, tmp_path, monkeypatch):
    if where == "radosgw":
        for name, value in request.getfixturevalue("radosgw").environment.items():
            monkeypatch.setenv(name, value)
    store, claimed = open_store(str(tmp_path) if where == "directory" else "s3://results/attempts"), []
    threads = [threading.Thread(target=lambda: claimed.append(claim_attempt(store, "r"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == attempts(store, "r") == list(range(1, 9))


def test_an_attempt_writes_until_a_later_one_begins(store_url):
    def opened():
        attempt = claim_attempt(open_store(store_url), "r")
        return Run.open(store_url, "r", "title = 1\n", "test", attempt)

    old = opened()
    step = old.begin("train")
    step.write(File("a", "one"), b"old")
    Checkpoints(old, "supernet").save(b"state", Progress(step=1), "largest")
    new = opened()
    late = [
        lambda: step.write(File("a", "one"), b"late"),
        lambda: step.finish(seed=1),
        lambda: step.ledger.append([{"late": True}]),
        lambda: Checkpoints(old, "supernet").save(b"late", Progress(step=2), "largest"),
        lambda: old.store.delete("r/a"),
    ]
    for write in late:
        with pytest.raises(Superseded, match="attempt 2 has begun, this is 1"):
            write()
    assert new.raw("a") == b"old" == old.raw("a")
    assert Checkpoints(new, "supernet").latest() == (b"state", Progress(step=1))
    new.begin("train").finish(seed=1)
    assert new.finished("train")


def test_a_run_without_attempts_asks_nobody(tmp_path):
    claim_attempt(open_store(str(tmp_path)), "r")
    Run.open(str(tmp_path), "r", "", "test").begin("train").finish(seed=1)


def test_what_an_attempt_leaves_does_not_spoil_the_run(tmp_path):
    with driver.attempt_at(str(tmp_path), "r") as attempt:
        run = Run.open(str(tmp_path), "r", "title = 1\n", "test", attempt)
        step = run.begin("train")
        step.write(File("a", "one"), b"1")
        step.finish(seed=1)
        print("trained")
    assert list(run.problems()) == []
    assert run.raw(driver_log(1)) == b"trained\n"
    record = json.loads(run.raw(attempt_record(1)))
    assert (record["attempt"], record["exit"]) == (1, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StepError("no space"), 1),
        (Superseded("attempt 9"), 2),
        (KeyboardInterrupt(), 130),
        (SystemExit(signal.SIGTERM), 130),
    ],
)
def test_how_an_attempt_ended_is_noted_with_its_last_words(tmp_path, error, code):
    ends = KeyboardInterrupt if code == 130 else type(error)
    with pytest.raises(ends), driver.attempt_at(str(tmp_path), "r"):
        raise error
    store = open_store(str(tmp_path))
    assert json.loads(store.read(f"r/{attempt_record(1)}"))["exit"] == code
    assert ("stopped" if code == 130 else str(error)).encode() in store.read(f"r/{driver_log(1)}")


class TestDeadline:
    """`kube.deadline_s` counts from the first start of the run, over all its clusters."""

    def records(self, store, began, number=1):
        store.write(f"r/{attempt_record(number)}", json.dumps({"attempt": number, "began": began}).encode())

    def test_at_the_deadline_the_body_is_interrupted_and_the_record_says_why(self, tmp_path):
        says = r"kube.deadline_s has passed: the run may take 1 s .*`ofa cancel r --now`"
        with (
            pytest.raises(driver.DeadlinePassed, match=says),
            driver.attempt_at(str(tmp_path), "r", deadline_s=1),
        ):
            threading.Event().wait(20)
        store = open_store(str(tmp_path))
        record = json.loads(store.read(f"r/{attempt_record(1)}"))
        assert (record["exit"], record["reason"]) == (1, "DeadlineExceeded")
        assert b"ofa: kube.deadline_s has passed" in store.read(f"r/{driver_log(1)}")

    def test_a_retry_after_it_ends_at_once(self, tmp_path):
        store, ran = open_store(str(tmp_path)), []
        self.records(store, "2026-01-01T00:00:00+00:00")
        says = "first started at 2026-01-01T00:00:00"
        with pytest.raises(driver.DeadlinePassed, match=says), driver.attempt_at(str(tmp_path), "r", deadline_s=3600):
            ran.append(True)
        assert ran == []
        assert json.loads(store.read(f"r/{attempt_record(2)}"))["reason"] == "DeadlineExceeded"

    def test_it_counts_from_the_first_start_that_is_known(self, tmp_path):
        store = open_store(str(tmp_path))
        for number, began in ((1, "nonsense"), (2, "2026-01-01T00:00:00+00:00"), (3, "2026-06-01T00:00:00+00:00")):
            self.records(store, began, number)
        store.write(f"r/{attempt_record(4)}", b"{")
        assert first_start(store, "r") == datetime(2026, 1, 1, tzinfo=UTC)

    def test_a_run_that_has_finished_may_still_say_so(self, tmp_path):
        store = open_store(str(tmp_path))
        self.records(store, "2026-01-01T00:00:00+00:00")
        store.write("r/export.done.json", b"{}")
        with driver.attempt_at(str(tmp_path), "r", deadline_s=3600, last="export.done.json") as attempt:
            assert attempt == 2

    def test_before_it_nothing_happens_and_a_stop_is_a_stop(self, tmp_path):
        with driver.attempt_at(str(tmp_path), "r", deadline_s=3600):
            pass
        with pytest.raises(KeyboardInterrupt), driver.attempt_at(str(tmp_path), "r", deadline_s=3600):
            signal.raise_signal(signal.SIGTERM)
        assert json.loads(open_store(str(tmp_path)).read(f"r/{attempt_record(2)}"))["exit"] == 130


def test_values_of_secrets_are_stars_in_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-token-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id-is-none")
    with driver.attempt_at(str(tmp_path), "r"):
        print("key planted-secret-1, token planted-token-2, id an-id-is-none")
    log = open_store(str(tmp_path)).read(f"r/{driver_log(1)}").decode()
    assert log == "key ***, token ***, id an-id-is-none\n"


def test_the_log_is_uploaded_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "UPLOAD_S", 0.05)
    store = open_store(str(tmp_path))
    with driver.attempt_at(str(tmp_path), "r"):
        print("first")
        deadline = threading.Event()
        for _ in range(100):
            if store.keys("r/logs/"):
                break
            deadline.wait(0.05)
        assert store.read(f"r/{driver_log(1)}") == b"first\n"
