"""A user's day without a cluster: submit, lose the head, scale, logs, pull, verify; all but Kubernetes is real."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import OFA
from kube.local_ray import TOKEN, LocalRay
from kube.operator import Operator

from cluster.attempts import driver_log
from cluster.store import open_store
from jobs.config import load

ROOT = Path(__file__).parent.parent.parent.parent
STORE = "s3://results/kube"
SHORT = [
    "train.batch=128", "train.validate_every=10", "train.checkpoint_s=1",
    'train.phases=[{name="largest",epochs=2,lr=0.1,depths=[3],kernels=[7],expands=[4]},{name="all",epochs=2,lr=0.05}]',
    "measure.archs=20", "measure.calibration_images=64", "measure.latency_archs=5", "measure.latency_runs=5",
    "search.evaluations=60", "search.population=16", "search.predicted_evaluations=400", "search.predicted_members=4",
    "data.selection=0.15", "data.test=0.15", "kube.ttl_s=1", "kube.attempts=3",
]  # fmt: skip
BACKGROUND = []  # commands that a test has started
SECRETS = {"AWS_SECRET_ACCESS_KEY": "testsecret", "PLANTED_PASSWORD": "planted-password-42", "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def day(server, radosgw, monkeypatch):
    """A cluster whose pods are Ray nodes of this machine, and a bucket."""
    for name, value in {**radosgw.environment, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    operator = Operator(server, LocalRay(radosgw.environment), every_s=0.3)
    yield operator
    while BACKGROUND:
        process, reader = BACKGROUND.pop()
        process.kill()
        reader.join(timeout=20)
        process.communicate()
    operator.close()


def ofa(*words, **settings):
    """An `ofa` command as a user types it."""
    return subprocess.run([str(OFA), *map(str, words)], capture_output=True, text=True, check=False, timeout=400,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, **settings)  # fmt: skip


def in_background(*words):
    """An `ofa` command under way, and its lines so far."""
    process = subprocess.Popen([str(OFA), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    BACKGROUND.append((process, reader))
    return process, lines


def wait_for(condition, what, timeout_s=900):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert "Traceback" not in what() and time.monotonic() < deadline, what()
        time.sleep(0.3)
    return found


@pytest.mark.cluster
@pytest.mark.whole_run
@pytest.mark.timeout(1500)  # on a busy machine; it takes its time there
def test_a_run_survives_the_loss_of_its_head_is_scaled_and_its_results_are_pulled(server, day, tmp_path):
    config, backend = load(str(ROOT / "configs/digits.toml"), SHORT), day.backend
    sets = [word for setting in SHORT for word in ("--set", setting)]
    store, run = open_store(STORE), config.id
    begun = time.monotonic()

    def told():
        return "\n".join([*submitted, *day.errors, *(line for pod in server.logs.values() for _, line in pod)])

    submit, submitted = in_background("submit", "configs/digits.toml", "--store", STORE, *sets, "--wait")

    # the first head trains, and is lost with its driver
    wait_for(lambda: f"{run}/train.done.json" in store.keys(f"{run}/"), told)
    job = server.get("rayjobs", "ofa", run)
    first = job["status"]
    trained = store.read(f"{run}/train.done.json")
    backend.lose(first["rayClusterName"])

    # the same cluster gets another head, and a second submitter the same job: it goes on from the store
    wait_for(lambda: f"{run}/partial/attempts/000002.json" in store.keys(f"{run}/partial/attempts/"), told)
    after = server.get("rayjobs", "ofa", run)["status"]
    assert [after[key] for key in ("rayClusterName", "jobId", "failed")] == [first["rayClusterName"], first["jobId"], 0]
    followed, said = in_background("logs", run, "--follow")
    server.conflicts = 2
    scaled = ofa("scale", run, "--group", "search", "--min", 1, "--max", 1, "--json")
    assert scaled.returncode == 0, scaled.stderr + told()
    assert json.loads(scaled.stdout)["evaluators"] == 4
    more = ofa("scale", run, "--evaluations", 70, "--json")
    assert json.loads(more.stdout)["evaluations"] == 70
    server.drop_watches()
    status = json.loads(ofa("status", run, "--json").stdout)
    assert status["state"] in ("Starting", "Running"), status

    assert submit.wait(timeout=900) == 0, told()
    assert ("search", 1) in backend.sizes
    assert backend.entrypoints == [f"ofa run /etc/ofa/run.toml --store {STORE} --in-cluster"] * 2
    assert followed.wait(timeout=60) == 0
    assert any("train: finished before, nothing to do" in line for line in said), said
    assert store.read(f"{run}/train.done.json") == trained
    search = json.loads(store.read(f"{run}/search.done.json"))
    assert search["evaluations"] == 70
    states = [line.split(" ")[0].split(":")[0].strip() for line in submitted]
    assert [name for name in ("Retrying", "Running", "Succeeded") if name in states] == ["Running", "Succeeded"]
    ends = [pod["status"]["phase"] for pod in server.list("pods", "ofa", f"job-name={run}")]
    assert sorted(ends) == ["Failed", "Succeeded"]

    # the cluster has gone, the results are there
    wait_for(lambda: not server.list("rayclusters", "ofa"), told)
    waited = ofa("wait", run, "--timeout", 20)
    assert waited.returncode == 0, waited.stderr
    log = ofa("logs", run)
    assert "export" in log.stdout, log.stderr
    server.delete("rayjobs", "ofa", run)
    wait_for(lambda: server.find("rayjobs", "ofa", run) is None, told)
    log = ofa("logs", run, "--store", STORE)
    assert "train: finished before, nothing to do" in log.stdout, log.stderr
    assert json.loads(ofa("status", run, "--store", STORE, "--json").stdout)["state"] == "Succeeded"
    pulled = ofa("results", "pull", run, "--store", STORE, "--to", tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert ofa("results", "verify", run, "--store", tmp_path).returncode == 0
    assert (tmp_path / run / "front.json").exists() and (tmp_path / run / "ensembles.json").exists()

    # nothing secret was in what was sent or in what is left
    kept = [key for key in store.keys(f"{run}/") if "supernet" not in key]
    everything = {
        "objects": json.dumps([doc for _, _, _, doc in server.history]) + "".join(server.bodies),
        "logs": told() + "".join(said) + pulled.stderr,
        "bucket": "".join(store.read(key).decode(errors="replace") for key in kept),
    }
    for place, text in everything.items():
        for name, value in SECRETS.items():
            assert value not in text, f"{name} is in the {place}"
    assert driver_log(2) in {key.removeprefix(f"{run}/") for key in store.keys(f"{run}/logs/")}
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
