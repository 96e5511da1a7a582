"""An old attempt's late writer is refused, of two drivers one works, and an attempt's log has no secrets."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from uses import REAL_SERVER

from cluster import attempts as attempts_of
from cluster import driver
from cluster.attempts import Held, Superseded, attempt_record, attempts, claim_attempt, driver_log, first_start
from cluster.checkpoint import Checkpoints, Progress
from cluster.errors import InputError, StepError
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


def record_of(store, number=1):
    return json.loads(store.read(f"r/{attempt_record(number)}"))


def write_record(store, number=1, **facts):
    store.write(f"r/{attempt_record(number)}", json.dumps({"attempt": number, "began": BEGAN, **facts}).encode())


BEGAN = "2026-01-01T00:00:00+00:00"
HERE = attempts_of.this_process()
ELSEWHERE = {**HERE, "machine": "another boot", "host": "far"}
LIVES = {**HERE, "pid": os.getppid(), "started": attempts_of._started(os.getppid())}
GONE = {**HERE, "pid": os.getppid(), "started": 1}  # a process that has the number of another one that has ended


@contextmanager
def driver_of(url, said=None):
    """The run as a command that works on its steps has it."""
    with Run.open(url, "r", "title = 1\n", "test").exclusive((said if said is not None else []).append) as run:
        yield run


class TestLease:
    """Drivers outside of clusters: the second one on a run refuses to begin, unless the first one has ended."""

    def test_nothing_is_written_before_a_step_begins_and_the_end_is_recorded(self, store_url):
        store = open_store(store_url)
        with driver_of(store_url) as run:
            assert store.keys() == [] and run.attempt == 0
            run.begin("train").finish(seed=1)
            assert run.attempt == 1
            assert "ended" not in record_of(store)
            run.begin("measure")
            assert attempts(store, "r") == [1]
        assert record_of(store).items() >= {"attempt": 1, "exit": 0, "pid": os.getpid()}.items()
        with driver_of(store_url) as run:
            run.begin("measure")
            assert attempts(store, "r") == [1, 2]

    @pytest.mark.parametrize(
        ("error", "code"), [(InputError("x"), 2), (StepError("x"), 1), (KeyboardInterrupt(), 130), (ValueError(), 1)]
    )
    def test_a_driver_that_fails_holds_nothing(self, tmp_path, error, code):
        def fail():
            with driver_of(str(tmp_path)) as run:
                run.begin("train")
                raise error

        with pytest.raises(type(error)):
            fail()
        assert record_of(open_store(str(tmp_path)))["exit"] == code

    def test_the_second_driver_names_the_first_and_writes_nothing(self, store_url):
        store = open_store(store_url)
        write_record(store, **LIVES)
        says = (
            rf"/r: process {os.getppid()} on {HERE['host']} works on this run since {re.escape(BEGAN)}; wait for it or stop"
        )
        with pytest.raises(Held, match=says), driver_of(store_url) as run:
            run.begin("train")
        assert store.keys() == [f"r/{attempt_record(1)}"]

    def test_it_is_named_before_any_work_where_it_is_on_this_machine(self, tmp_path):
        store = open_store(str(tmp_path))
        with driver_of(str(tmp_path)) as run:
            run.check_free()
            write_record(store, **ELSEWHERE)
            run.check_free()  # which only watching can show
            write_record(store, **LIVES)
            with pytest.raises(Held, match="works on this run since"):
                run.check_free()
            write_record(store, **GONE)
            run.begin("train")
            run.check_free()

    @pytest.mark.parametrize(
        "before", [GONE, {**ELSEWHERE, "ended": BEGAN, "exit": 1}, {**LIVES, "ended": BEGAN, "exit": 0}]
    )
    def test_the_run_of_a_driver_that_has_ended_goes_on_at_once(self, store_url, before):
        store, said = open_store(store_url), []
        write_record(store, **before)
        with driver_of(store_url, said) as run:
            run.begin("train")
            assert run.attempt == 2
        assert said == []

    def test_a_driver_that_lost_its_lease_cannot_write(self, store_url):
        store = open_store(store_url)
        with driver_of(store_url) as old:
            step = old.begin("train")
            step.write(File("a", "one"), b"old")
            write_record(store, **GONE)
            with driver_of(store_url) as new:
                new.begin("train")
                for write in (lambda: step.write(File("a", "one"), b"late"), lambda: step.finish(seed=1)):
                    with pytest.raises(
                        Superseded, match=r"attempt 2 has begun, this is 1; .*another process continues this run"
                    ):
                        write()
                with pytest.raises(Superseded):
                    Run.at(store_url, "r", "test", old.attempt).store.write("r/b", b"of its worker")
            assert new.raw("a") == b"old"

    @pytest.mark.parametrize("facts", [ELSEWHERE, {"host": "far"}])
    def test_a_driver_elsewhere_is_watched_for_the_time_of_a_lease(self, store_url, monkeypatch, facts):
        monkeypatch.setattr(attempts_of, "LEASE_S", 0.3)
        monkeypatch.setattr(attempts_of, "_LOOK_S", 0.05)
        store, said = open_store(store_url), []
        write_record(store, **facts)
        with driver_of(store_url, said) as run:
            run.begin("train")
            assert run.attempt == 2
        assert len(said) == 1 and "did not end; waiting up to 0 s to find whether it still works" in said[0]

    @pytest.mark.parametrize(
        ("facts", "says"),
        [
            (ELSEWHERE, "on far works on this run since"),
            ({"host": "far"}, r"attempt 1 on a cluster \(host far\) works on this run since .*; `ofa wait` follows it"),
        ],
    )
    def test_a_driver_elsewhere_that_renews_its_record_holds_the_run(self, store_url, monkeypatch, facts, says):
        monkeypatch.setattr(attempts_of, "_LOOK_S", 0.05)
        store = open_store(store_url)
        write_record(store, **facts)

        class Renewed(list):
            def append(self, _):  # once the driver here begins to watch
                write_record(store, **facts, renewals=1)

        with pytest.raises(Held, match=says), driver_of(store_url, Renewed()) as run:
            run.begin("train")
        assert attempts(store, "r") == [1]

    def test_records_are_renewed_until_the_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(attempts_of, "RENEW_S", 0.02)
        store = open_store(str(tmp_path))
        with driver_of(str(tmp_path)) as run:
            run.begin("train")
            for _ in range(200):
                if record_of(store).get("renewals", 0) > 1:
                    break
                threading.Event().wait(0.02)
            assert record_of(store)["renewals"] > 1
        assert "renewals" not in record_of(store)

    @pytest.mark.parametrize("where", ["directory", pytest.param("radosgw", marks=REAL_SERVER)])
    def test_of_many_drivers_that_begin_at_once_one_works(self, where, request, tmp_path, monkeypatch):
        if where == "radosgw":
            for name, value in request.getfixturevalue("radosgw").environment.items():
                monkeypatch.setenv(name, value)
        store, held, refused = open_store(str(tmp_path) if where == "directory" else "s3://results/leases"), [], []
        leases = [attempts_of.Lease(store, "r", HERE) for _ in range(8)]

        def hold(lease):
            try:
                held.append(lease.hold())
            except Held:
                refused.append(lease)

        threads = [threading.Thread(target=hold, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for lease in leases:
            lease.end(0)
        assert (held, len(refused)) == ([1], 7)

    def test_a_run_taken_by_a_cluster_is_lost_for_a_driver_elsewhere(self, tmp_path):
        with driver_of(str(tmp_path)) as run:
            step = run.begin("train")
            with driver.attempt_at(str(tmp_path), "r") as attempt:
                assert attempt == 2
                with pytest.raises(Superseded):
                    step.finish(seed=1)

    def test_the_time_and_the_end_of_a_run_on_clusters_are_not_those_of_drivers_elsewhere(self, tmp_path):
        store = open_store(str(tmp_path))
        write_record(store, 1, **HERE)
        assert first_start(store, "r") is None
        assert attempts_of.last_on_cluster(store, "r") is None
        write_record(store, 2, host="pod", exit=1)
        write_record(store, 3, **HERE, exit=0)
        assert attempts_of.last_on_cluster(store, "r")[0] == 2
        assert first_start(store, "r") == datetime(2026, 1, 1, tzinfo=UTC)

    def test_a_killed_driver_of_this_machine_is_known_to_be_dead(self, tmp_path):
        code = (
            "import sys, time; from cluster.run import Run\n"
            "with Run.open(sys.argv[1], 'r', 'title = 1', 'test').exclusive(print) as run:\n"
            "    run.begin('train'); print('begun', flush=True); time.sleep(100)"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(Held, match=f"process {process.pid} on"), driver_of(str(tmp_path)) as run:
            run.begin("train")
        process.kill()  # and not reaped yet
        with process, driver_of(str(tmp_path)) as run:
            for _ in range(100):
                if attempts_of.lives(record_of(open_store(str(tmp_path)))) is False:
                    break
                threading.Event().wait(0.05)
            run.begin("train")
            assert run.attempt == 2
