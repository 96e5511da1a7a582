"""The commands of a cluster's users: what they print, what they end with, and what they never print."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from helpers import TINY
from kube.apiserver import now
from typer.testing import CliRunner

from cluster.attempts import attempt_record
from cluster.errors import InputError
from cluster.kube import runs as kuberay
from cluster.kube.api import Api
from cluster.kube.runs import Seen
from cluster.kube.state import State
from cluster.kube.troubles import Trouble
from cluster.run import Run
from jobs import files, pipeline
from jobs.cli import main as cli
from jobs.cli.kube import state_printer
from jobs.config import load
from jobs.job import Job
from jobs.operate import doctor
from jobs.operate.outcome import state_in_store
from jobs.operate.submit import packed, rendered, ship

ROOT = Path(__file__).parent.parent.parent.parent
# a watch that the end of a test cuts off in its TLS handshake
pytestmark = pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
STORE = "s3://bucket/prefix"
RUN = load(str(TINY)).id


def ofa(*words):
    """A command in this process: exit code, and its output."""
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def events(done):
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def run(server, operator):
    kuberay.submit(Api.connect("ofa"), rendered(load(str(TINY)), STORE, {}))
    deadline = time.monotonic() + 20
    while server.get("rayjobs", "ofa", RUN).get("status", {}).get("jobStatus") != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return RUN


class TestSubmit:
    def test_a_dry_run_prints_what_would_be_sent_and_needs_no_cluster(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        done = ofa("submit", TINY, "--store", STORE, "--dry-run", "--output", "yaml")
        assert done.exit_code == 0, done.output
        assert list(yaml.safe_load_all(done.stdout)) == rendered(load(str(TINY)), STORE, {}).docs
        listed = json.loads(ofa("submit", TINY, "--store", STORE, "--dry-run", "--output", "json").stdout)
        assert [doc["kind"] for doc in listed["items"]] == ["ConfigMap", "RayJob"]

    def test_it_says_the_plan_creates_and_waits_until_the_run_runs(self, server, operator):
        done = ofa("submit", TINY, "--store", STORE)
        assert done.exit_code == 0, done.output
        assert "head + autoscaler" in done.stderr and "to start" in done.stderr
        assert f"run {RUN} created; results in {STORE}/{RUN}" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Running")
        again = ofa("submit", TINY, "--store", STORE, "--detach", "--json")
        assert [event["event"] for event in events(again)] == ["plan", "submitted"]
        assert events(again)[1]["what"] == "unchanged"

    @pytest.mark.parametrize(("word", "code"), [("SUCCEEDED", 0), ("STOPPED", 3)])
    def test_wait_ends_with_the_runs_end(self, operator, word, code):
        operator.backend.say = word
        assert ofa("submit", TINY, "--store", STORE, "--wait").exit_code == code

    def test_a_run_that_is_invalid_ends_it_with_4_and_the_reason(self, operator):
        operator.invalid = "no"
        done = ofa("submit", TINY, "--store", STORE)
        assert done.exit_code == 4
        assert "Invalid: no" in done.stderr

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--store", "./runs"], "pods cannot reach it; give s3://bucket/prefix"),
            (["--store", "s3://key:secret@bucket/x"], "credentials do not belong in the URL"),
            (["--store", "s3://bucket/$(id)"], "a shell would read it otherwise"),
            (["--store", STORE, "--set", "kube.search.min=9"], "kube.search: min is 9, more than max (4)"),
            (["--store", STORE, "--set", "ray.evaluators=99"], "groups have 10 CPUs at most, this run needs 99"),
            (["--store", STORE, "--set", "train.device=cuda"], "groups have 0 GPUs at most, this run needs 2"),
            (
                ["--store", STORE, "--set", "measure.device=cuda", "--set", "ray.evaluator_gpus=1"],
                "groups have 0 GPUs at most, this run needs 2",
            ),
            (
                ["--store", STORE, "--set", "kube.search.gpus=1", "--set", "kube.most_gpu_hours=9"],
                "a run without kube.deadline_s has no upper bound",
            ),
            (
                [
                    "--store",
                    STORE,
                    "--set",
                    "kube.search.gpus=1",
                    "--set",
                    "kube.most_gpu_hours=9",
                    "--set",
                    "kube.deadline_s=9000",
                ],
                "kube.most_gpu_hours is 9; this run may use 10.67: 4 GPUs for 2.667 hours",
            ),
            (["--store", STORE, "--set", "data.source=/images"], "which pods cannot reach"),
            (["--store", STORE, "--set", "data.source=file:///images"], "data.source is '/images', on this machine"),
            (["--store", STORE, "--set", "train.weights=./w.safetensors"], "train.weights is"),
            (
                ["--store", STORE, "--set", "train.weights=/a/w.safetensors"],
                "which pods cannot reach; copy it to the bucket",
            ),
            (["--store", STORE, "--set", "ray.address=127.0.0.1:6379"], "a run on Kubernetes has a cluster of its own"),
            (["--store", "file:///runs"], "pods cannot reach it"),
            (["--store", STORE, "--set", "kube.namespace=Bad_NS"], "kube: namespace is 'Bad_NS'"),
            (["--store", STORE, "--set", "kube.namespace="], "kube.namespace"),
            (["--store", STORE, "--set", "kube.image=a b"], "kube: image is 'a b'; expected [registry[:port]/]name"),
            (["--store", STORE, "--set", "kube.image=Ofa:1"], "image is 'Ofa:1'"),
            (["--store", STORE, "--set", "kube.queue=My Queue"], "queue is 'My Queue'; expected small letters"),
            (["--store", STORE, "--set", "kube.deadline_s=2147483648"], "kube.deadline_s"),
            (["--store", STORE, "--set", "kube.ttl_s=-1"], "kube.ttl_s"),
            (["--store", STORE, "--set", "kube.attempts=0"], "attempts is 0"),
            (["--store", STORE, "--set", "kube.colour=red"], "no setting 'colour'; here you may set namespace, image"),
            (["--store", STORE, "--wait", "--detach"], "exclude each other"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, words, says):
        done = ofa("submit", TINY, "--dry-run", *words)
        assert isinstance(done.exception, InputError)
        assert says in str(done.exception)
        assert "secret" not in str(done.exception)

    def test_where_it_runs_has_no_part_in_the_id(self):
        settings = ["kube.namespace=x", "kube.search.max=9", "kube.image=i", "kube.spot=true"]
        assert load(str(TINY), settings).id == RUN


class TestSecrets:
    def test_no_secret_of_this_machine_is_in_any_object(self, monkeypatch):
        planted = {"AWS_SECRET_ACCESS_KEY": "planted-1-wJalrXUtnFEMI", "AWS_SESSION_TOKEN": "planted-2-FwoGZXIvYXdzE",
                   "RAY_AUTH_TOKEN": "planted-3-token", "DB_PASSWORD": "planted-4-hunter2"}  # fmt: skip
        for name, value in planted.items():
            monkeypatch.setenv(name, value)
        text = ofa("submit", TINY, "--store", STORE, "--dry-run", "--output", "yaml")
        assert text.exit_code == 0
        for value in planted.values():
            assert value not in text.output
        for setting, place in ((f"data.source=s3://{planted['DB_PASSWORD']}/x", "data.run.toml"),
                               (f"kube.image={planted['RAY_AUTH_TOKEN']}", "data.run.toml")):  # fmt: skip
            done = ofa("submit", TINY, "--store", STORE, "--dry-run", "--set", setting)
            assert f"ConfigMap: {place}: holds the value of" in str(done.exception)
            assert not any(value in str(done.exception) + done.output for value in planted.values())


class TestWatching:
    @pytest.mark.parametrize("words", [["list"], ["status", "a"], ["cancel", "a"], ["scale", "a", "--evaluations", "9"]])
    def test_a_namespace_that_can_be_none_is_one_line(self, server, words):
        done = ofa(*words, "--namespace", "Bad NS")
        assert str(done.exception).startswith("namespace 'Bad NS': expected small letters")
        assert isinstance(done.exception, InputError)

    def test_status_and_list(self, run):
        done = ofa("status", run)
        assert done.stdout.startswith(f"{run}: Running\n")
        assert f"results in {STORE}/{run}" in done.stdout
        assert events(ofa("list", "--json"))[0]["state"] == "Running"
        assert run in ofa("list").stdout

    def test_wait_ends_with_2_when_time_is_up_and_with_4_for_what_is_not_there(self, run):
        assert ofa("wait", run, "--timeout", 3).exit_code == 2
        assert ofa("wait", "nosuch").exit_code == 4

    def test_wait_ends_with_3_for_a_run_that_was_stopped_and_1_for_one_that_failed(self, operator, server, run):
        operator.frozen = True
        time.sleep(0.2)
        for word, deployed, code in (("STOPPED", "Complete", 3), ("FAILED", "Failed", 1), ("SUCCEEDED", "Complete", 0)):
            status = {"jobStatus": word, "jobDeploymentStatus": deployed}
            server.merge("rayjobs", "ofa", run, {"status": status}, sub="status")
            assert ofa("wait", run).exit_code == code

    def test_a_count_that_grows_is_not_printed_again(self, capsys):
        show = state_printer(False)
        for number, state in enumerate(("Pending", "Pending", "Starting")):
            show(Seen(State(state), {}, (Trouble(f"it has ended {number} times", "crashes"), "another")))
        assert capsys.readouterr().err.splitlines() == ["Pending", "  it has ended 0 times", "  another", "Starting"]

    def test_status_watch_says_every_change(self, operator, run):
        timer = threading.Timer(0.3, lambda: setattr(operator.backend, "say", "SUCCEEDED"))
        timer.start()
        done = ofa("status", run, "--watch", "--json")
        assert [event["state"] for event in events(done)][-1] == "Succeeded"

    def test_logs_and_events(self, server, operator, run):
        deadline = time.monotonic() + 10
        while not any(server.logs.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ofa("logs", run).stdout.startswith("running ofa run /etc/ofa/run.toml")
        assert events(ofa("logs", run, "--json"))[0]["role"] == "submitter"
        server.event(server.get("rayjobs", "ofa", run), "Submitted", "it was", "Normal")
        assert "Submitted" in ofa("events", run).stdout
        assert "it was" in [event["message"] for event in events(ofa("events", run, "--json"))]


class TestLosingTheServer:
    """Exit code 5: the server was lost, the run may be healthy."""

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setattr("cluster.kube.outages.REPORTED_S", 0.1)

    def main(self, monkeypatch, capsys, *words):
        """The exit code, stdout and stderr of the whole program."""
        monkeypatch.setattr("sys.argv", ["ofa", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    @pytest.mark.parametrize(
        "words",
        [["list"], ["status", RUN], ["events", RUN], ["logs", RUN], ["cancel", RUN], ["pause", RUN], ["resume", RUN],
         ["retry", RUN], ["scale", RUN, "--evaluations", 9], ["wait", RUN, "--timeout", 0.5],
         ["submit", TINY, "--store", STORE]],
    )  # fmt: skip
    def test_it_is_the_end_of_every_command(self, server, run, monkeypatch, capsys, words):
        server.go_away()
        code, _, stderr = self.main(monkeypatch, capsys, *words)
        assert code == 5
        assert "no answer (NewConnectionError); check the cluster and the network" in stderr
        assert "Traceback" not in stderr and len(stderr.splitlines()) <= 12  # a plan, of `submit`

    def test_it_is_an_event_in_json(self, server, run, monkeypatch, capsys):
        server.go_away()
        for words in (["list"], ["wait", RUN, "--timeout", 1]):
            code, stdout, _ = self.main(monkeypatch, capsys, *words, "--json")
            last = json.loads(stdout.splitlines()[-1])
            assert (code, last["event"], last["exit"]) == (5, "error", 5)

    def test_an_outage_is_two_lines_and_no_failure(self, server, operator, run):
        def outage():
            time.sleep(1)
            server.go_away()
            time.sleep(2)
            operator.backend.say = "SUCCEEDED"
            server.come_back(starting=5)

        thread = threading.Thread(target=outage)
        thread.start()
        done = ofa("wait", run, "--timeout", 60)
        thread.join()
        assert done.exit_code == 0
        lines = [line for line in done.stderr.splitlines() if line.startswith("ofa: ")]
        assert len(lines) == 2
        assert "the run may be healthy; trying again until the timeout" in lines[0]
        assert "the API server answers again, after" in lines[1]

    def test_the_help_has_the_code(self):
        assert "5: the API server was lost" in " ".join(ofa("wait", "--help").stdout.split())
        assert "5: the API server was lost" in " ".join(ofa("--help").stdout.split())


class TestManyRuns:
    @pytest.fixture
    def many(self, server):
        job = server.create(rendered(load(str(TINY)), STORE, {}).job)
        with server.lock:
            for number in range(499):
                place = {**job["metadata"], "name": f"run-{number:03}"}
                server._put("ADDED", {**job, "metadata": place})

    def test_they_are_listed_in_few_requests(self, server, many):
        done = ofa("list", "--json")
        assert len(events(done)) == 500
        assert len(server.requests) == 2
        assert all("limit=" in path and "/rayjobs?" in path for _, path in server.requests)


class TestARetryOfAFinishedRun:
    """What KubeRay starts again although the run has finished: the driver ends at once."""

    def test_it_does_no_work_and_ends_with_0(self, monkeypatch, tmp_path):
        there = Run.open(str(tmp_path), RUN, "", "test")
        for step in files.STEPS:
            there.begin(step).finish(seed=1)
        worked = []
        monkeypatch.setattr(pipeline, "import_module", worked.append)
        monkeypatch.setattr(Job, "need_ray", lambda job, gpus=0: worked.append("ray"))
        monkeypatch.setattr("jobs.cli.runs.result", lambda job: {"run": job.run.id})
        done = ofa("run", TINY, "--store", tmp_path, "--in-cluster", "--json")
        assert (done.exit_code, worked) == (0, [])
        assert state_in_store(str(tmp_path), RUN).name == "Succeeded"
        assert json.loads(there.raw(attempt_record(1)))["exit"] == 0

    def test_the_steps_of_a_finished_run_are_those_of_the_pipeline(self):
        """The optional one comes before others, so a run with it is finished if they are."""
        assert tuple(step for step in pipeline.STEPS if step != "adapt") == files.STEPS
        assert tuple(pipeline.STEPS).index("adapt") < len(files.STEPS)


class TestRefusals:
    def test_a_quota_is_advised_as_one(self, server):
        server.quota = "requested: count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=2, limited: count/rayjobs.ray.io=2"
        error = str(ofa("submit", TINY, "--store", STORE).exception)
        assert "exceeded quota: ofa, requested" in error and "kubectl describe resourcequota -n ofa" in error
        assert "role" not in error

    def test_a_server_that_starts_is_waited_for(self, server, operator):
        server.starting = 2
        assert ofa("list").exit_code == 0
        server.starting = 2
        assert ofa("submit", TINY, "--store", STORE, "--detach").exit_code == 0

    def test_since_when_the_head_does_not_answer_is_in_the_status(self, operator, server, run):
        operator.backend.say = ""
        deadline = time.monotonic() + 10
        while "no answer from the head" not in (shown := ofa("status", run).stdout):
            assert time.monotonic() < deadline, shown
        since = server.get("rayjobs", "ofa", run)["status"]["jobStatusCheckFailureStartTime"]
        assert f"Running (no answer from the head)\n  KubeRay's operator gets no answer from the head since {since}" in shown
        assert "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS" in shown


class TestDoctor:
    @pytest.fixture
    def prepared(self, server):
        """What k8s/ and the installation of KubeRay make."""
        for name in doctor.ACCOUNTS:
            server.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "ofa"}})
        for name in doctor.PRIORITIES:
            where = {"name": name, "namespace": ""}
            server.create({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 7, "metadata": where})
        server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ofa", "namespace": ""}})
        labels = {"app.kubernetes.io/name": "kuberay-operator"}
        where = {"name": "kuberay-operator", "namespace": "ray-system", "labels": labels}
        made = server.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": where, "spec": {}})
        server.update({**made, "status": {"availableReplicas": 1}}, sub="status")
        return server

    def found(self, name):
        """The mark and the text of one check, and the exit code."""
        done = ofa("doctor", "--json")
        [check] = [check for check in events(done) if check["name"] == name]
        return check["ok"], check["found"], done.exit_code

    def test_all_is_well(self, prepared, mock_s3, monkeypatch):
        for name, value in mock_s3.items():
            monkeypatch.setenv(name, value)
        done = ofa("doctor", "--store", "s3://results/doctor")
        assert done.exit_code == 0, done.stdout
        assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
        assert "written, read and removed" in done.stdout
        assert "CRD rayjobs.ray.io v1, 1.6 or later" in done.stdout
        assert "Deployment ray-system/kuberay-operator has an available pod" in done.stdout

    def test_each_thing_that_is_missing_is_said_with_what_to_do(self, server):
        server.crd = False
        server.forbidden |= {("create", "rayjobs"), ("get", "pods/log")}
        done = ofa("doctor", "--store", "s3://", "--json")
        assert done.exit_code == 1
        missing = {check["name"]: check for check in events(done) if not check["ok"]}
        assert set(missing) == {"KubeRay", "operator", "right to rayjobs", "right to pods/log", "store", "namespace ofa",
                                "account ofa-head", "account ofa-worker", "account ofa-submitter",
                                "priority ofa-head", "priority ofa-worker"}  # fmt: skip
        assert all(check["ok"] is False for check in missing.values())
        assert missing["right to rayjobs"]["found"] == "may not create"
        assert all(check["advice"] for check in missing.values())

    @pytest.mark.parametrize(
        ("verb", "resource", "checks"),
        [
            ("get", "customresourcedefinitions", ["KubeRay"]),
            ("get", "serviceaccounts", [f"account {name}" for name in doctor.ACCOUNTS]),
            ("get", "priorityclasses", [f"priority {name}" for name in doctor.PRIORITIES]),
            ("create", "selfsubjectaccessreviews", [f"right to {r}{'/' * bool(s)}{s}" for _, r, s in doctor.NEEDS]),
        ],
    )
    def test_what_may_not_be_looked_at_is_unknown_and_no_failure(self, prepared, verb, resource, checks):
        prepared.forbidden.add((verb, resource))
        done = ofa("doctor", "--json")
        assert [check["name"] for check in events(done) if check["ok"] is None] == checks
        assert [check for check in events(done) if check["ok"] is False] == []
        assert done.exit_code == 0
        assert "unknown " in ofa("doctor").stdout

    def test_a_namespace_that_may_not_be_read_is_seen_by_a_dry_run(self, prepared):
        prepared.forbidden.add(("get", "namespaces"))
        assert self.found("namespace ofa") == (True, "there: the server would create an object in it", 0)
        prepared.forbidden.add(("create", "configmaps"))
        assert self.found("namespace ofa")[0] is None

    def test_a_namespace_that_is_being_deleted_is_missing(self, prepared):
        there = prepared.get("namespaces", "", "ofa")
        prepared.update({**there, "status": {"phase": "Terminating"}}, sub="status")
        assert self.found("namespace ofa") == (False, "is Terminating", 1)

    def test_an_operator_without_pods_is_missing(self, prepared):
        there = prepared.get("deployments", "ray-system", "kuberay-operator")
        prepared.update({**there, "status": {"availableReplicas": 0}}, sub="status")
        assert self.found("operator") == (False, "Deployment ray-system/kuberay-operator has no available pod", 1)

    def test_an_operator_that_may_be_read_by_name_alone_is_found(self, prepared):
        prepared.forbidden.add(("list", "deployments"))
        assert self.found("operator")[:2] == (True, "Deployment ray-system/kuberay-operator has an available pod")

    def test_an_operator_that_may_not_be_looked_at_is_known_by_what_it_writes(self, prepared):
        prepared.forbidden |= {("list", "deployments"), ("get", "deployments")}
        assert self.found("operator")[0] is None
        made = prepared.create({**rendered(load(str(TINY)), STORE, {}).job})
        assert self.found("operator")[0] is None  # it may need a moment
        prepared.update({**made, "status": {"startTime": "2026-01-01T00:00:00Z"}}, sub="status")
        assert self.found("operator")[0] is None
        fresh = prepared.get("rayjobs", "ofa", RUN)
        prepared.update({**fresh, "status": {"startTime": now()}}, sub="status")
        assert self.found("operator")[:2] == (True, "the latest status of a RayJob is 0 min old")

    def test_an_operator_that_looks_at_no_rayjob_is_missing(self, prepared, monkeypatch):
        monkeypatch.setattr(doctor, "ANSWERS_S", 0.0)
        prepared.create({**rendered(load(str(TINY)), STORE, {}).job})
        time.sleep(1.1)
        ok, found, code = self.found("operator")
        assert (ok, code) == (False, 1)
        assert found.startswith(f"RayJob {RUN} of ") and found.endswith("has no status: no operator has looked at it")

    def test_a_store_that_is_not_there_is_not_made(self, tmp_path):
        assert doctor.bucket(f"{tmp_path}/typo").found == f"{tmp_path}/typo: not there yet, a run can make it"
        (tmp_path / "file").write_text("")
        assert not doctor.bucket(f"{tmp_path}/file/typo").ok
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        (tmp_path / "store").mkdir()
        assert doctor.bucket(f"{tmp_path}/store/").found == f"{tmp_path}/store: written, read and removed"

    def test_no_cluster_is_one_of_the_things(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        done = ofa("doctor", "--json")
        assert done.exit_code == 1
        assert [check["name"] for check in events(done) if not check["ok"]] == ["cluster"]


class TestCode:
    def test_what_git_tracks_is_shipped_once_under_its_hash(self, tmp_path):
        folder = tmp_path / "code"
        (folder / "jobs").mkdir(parents=True)
        (folder / "jobs/__main__.py").write_text("print('run')\n")
        (folder / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted\n")
        for words in (["init", "-q"], ["add", "jobs"]):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
        planned, _ = packed(str(folder), str(tmp_path / "store"))  # a dry run
        assert not (tmp_path / "store").exists()
        first = ship(str(folder), str(tmp_path / "store"))
        assert first == planned
        assert first == ship(str(folder), str(tmp_path / "store"))
        assert b".env" not in Path(first).read_bytes()
        (folder / "jobs/__main__.py").write_text("print('another')\n")
        assert ship(str(folder), str(tmp_path / "store")) != first

    def test_a_run_of_shipped_code_starts_it_and_not_the_images(self):
        made = rendered(load(str(TINY)), STORE, {}, code_url=f"{STORE}/code/{'0' * 64}.zip")
        assert made.job["spec"]["entrypoint"].startswith("python -m jobs run /etc/ofa/run.toml --store ")
        assert yaml.safe_load(made.job["spec"]["runtimeEnvYAML"]) == {"working_dir": f"{STORE}/code/{'0' * 64}.zip"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl; see https://kubernetes.io/docs/tasks/tools")
class TestKubectl:
    """The real client against the server of the tests, with our objects."""

    def kubectl(self, *words, **settings):
        done = subprocess.run(["kubectl", *words], capture_output=True, text=True, check=False, timeout=60, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_it_creates_gets_watches_and_deletes_a_run(self, server, tmp_path):
        path = tmp_path / "run.yaml"
        path.write_text(ofa("submit", TINY, "--store", STORE, "--dry-run", "--output", "yaml").stdout)
        assert f"rayjob.ray.io/{RUN} created" in self.kubectl("create", "--validate=false", "-f", str(path))
        got = json.loads(self.kubectl("get", "rayjob", RUN, "-n", "ofa", "-o", "json"))
        assert got["spec"]["entrypoint"] == rendered(load(str(TINY)), STORE, {}).job["spec"]["entrypoint"]
        assert RUN in self.kubectl("get", "rayjobs", "-n", "ofa", "-l", "app.kubernetes.io/part-of=ofa-cluster")
        watching = subprocess.Popen(
            ["kubectl", "get", "rayjob", RUN, "-n", "ofa", "-w", "-o", "jsonpath={.status.jobStatus};"],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        deadline = time.monotonic() + 30
        while server.watches < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.merge("rayjobs", "ofa", RUN, {"status": {"jobStatus": "RUNNING"}}, sub="status")
        assert read_until(watching.stdout, "RUNNING")
        watching.kill()
        watching.communicate()
        assert "deleted" in self.kubectl("delete", "rayjob", RUN, "-n", "ofa")
        assert server.find("rayjobs", "ofa", RUN) is None

    def test_it_finds_what_ofa_submit_has_made(self, server, run):
        assert f"configmap/{run}-config" in self.kubectl("get", "configmaps", "-n", "ofa", "-o", "name")
        assert "ray-head" in self.kubectl("get", "pods", "-n", "ofa", "-l", "ray.io/node-type=head", "-o", "yaml")


def read_until(stream, text):
    read = ""
    while text not in read:
        read += (piece := stream.read(1))
        if not piece:
            return False
    return True
