"""The status of a run that no cluster was given for, by its store."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cluster import attempts
from cluster.attempts import claim_attempt, this_process
from cluster.errors import InputError
from cluster.run import Run
from jobs import files
from jobs.cli.main import app
from jobs.operate import standing

ELSEWHERE = {"host": "another", "machine": "another boot", "pid": 7, "started": 9, "began": "2026-01-31T12:00:00+00:00"}


@pytest.fixture
def run(tmp_path):
    """A run whose training has finished; nobody has claimed it."""
    made = Run.open(str(tmp_path), "digits-1", "title = 1\n", "test")
    made.begin("train").finish(1)
    return made


def state(run, **record):
    claim_attempt(run.store, run.id, **record)
    return standing.status(run)["state"]


def test_a_driver_that_works_is_running_with_its_step_and_its_progress(run, monkeypatch):
    monkeypatch.setattr(attempts, "RENEW_S", 0.01)
    progress = {"step": "measure", "title": "measure", "done": 3, "total": 24, "unit": "archs", "note": "best 0.5"}
    with run.exclusive(lambda _: None, lambda: progress) as mine:
        step = mine.begin("measure")
        step.ledger.append([1, 2, 3])
        while (found := standing.status(run))["progress"] is None:
            pass
    assert (found["state"], found["step"], found["parts"], found["progress"]) == ("Running", "measure", 1, progress)
    assert [row["step"] for row in found["steps"]] == ["train"]
    assert "  measure    measure: 3/24 archs, best 0.5, 1 parts of it are stored" in standing.lines(found)
    assert standing.status(run)["state"] == "Stopped"
    run.begin("measure").finish(1)
    assert standing.status(run)["progress"] is None  # that is of a step before


class TestHowADriverIsKnown:
    def test_one_that_has_ended_without_a_record_was_killed(self, run):
        code = "from cluster.attempts import this_process; import json; print(json.dumps(this_process()))"
        dead = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        assert state(run, **dead) == "Killed"

    def test_one_on_another_machine_is_unknown_and_its_last_renewal_is_shown(self, run):
        assert state(run, **ELSEWHERE, renewed="2026-01-31T12:30:00+00:00") == "Unknown"
        assert "renewed its record at 2026-01-31T12:30:00+00:00 by its clock" in standing.status(run)["message"]

    @pytest.mark.parametrize(("code", "expected"), [(0, "Stopped"), (130, "Stopped"), (1, "Failed"), (2, "Failed")])
    def test_the_exit_code_tells_a_stop_from_a_failure(self, run, code, expected):
        assert state(run, **ELSEWHERE, ended="2026-01-31T13:00:00+00:00", exit=code) == expected

    def test_a_run_whose_steps_have_all_finished_has_succeeded(self, run):
        for step in files.STEPS[1:]:
            run.begin(step).finish(1)
        assert state(run, **ELSEWHERE, ended="2026-01-31T13:00:00+00:00", exit=0) == "Succeeded"
        assert standing.status(run)["step"] == ""

    def test_a_run_of_a_cluster_is_left_to_the_cluster(self, run):
        claim_attempt(run.store, run.id, host="a-pod", submission="x")
        assert standing.found_in(run.store.url, run.id) is None


class TestTheCommand:
    def test_it_needs_no_cluster(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        claim_attempt(run.store, run.id, **ELSEWHERE, ended="2026-01-31T13:00:00+00:00", exit=1)
        done = CliRunner().invoke(app, ["status", run.id, "--store", str(tmp_path), "--watch"])
        assert done.exit_code == 0
        assert done.stdout.startswith("digits-1: Failed\n")
        found = json.loads(CliRunner().invoke(app, ["status", run.id, "--store", str(tmp_path), "--json"]).stdout)
        assert (found["state"], found["step"], found["results"]) == ("Failed", "measure", run.url)

    def test_a_run_that_is_not_in_a_directory_is_refused_with_those_that_are(self, run, tmp_path):
        done = CliRunner().invoke(app, ["status", "digits-2", "--store", str(tmp_path)])
        assert "has no run 'digits-2'; there is: digits-1" in str(done.exception)


def test_this_process_lives(run):
    assert state(run, **this_process()) == "Running"

    def test_a_bucket_that_cannot_be_read_is_named_where_there_is_no_cluster(self, tmp_path, monkeypatch):
        for name in ("KUBECONFIG", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        done = CliRunner().invoke(app, ["status", "digits-1", "--store", "s3://results/runs"])
        assert isinstance(done.exception, InputError) and "s3://results/runs" in str(done.exception)
        assert "credentials" in str(done.exception)
