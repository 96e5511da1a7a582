"""What keeps the pods of a run from running: what the pods and events of a cluster become, line by line."""

from datetime import UTC, datetime, timedelta

import pytest

from cluster.errors import InputError
from cluster.kube import troubles as module
from cluster.kube.troubles import Trouble, event_time, events, troubles

RUN = "digits-1a2b3c4d"
CLUSTER = f"{RUN}-q7wxz"
JOB = {"metadata": {"name": RUN}, "spec": {},
       "status": {"rayClusterName": CLUSTER, "jobDeploymentStatus": "Initializing"}}  # fmt: skip


NOW = datetime.now(UTC)


class Clock(datetime):
    """A clock that has stopped."""

    @classmethod
    def now(cls, tz=None):
        return NOW


@pytest.fixture(autouse=True)
def stopped(monkeypatch):
    monkeypatch.setattr(module, "datetime", Clock)


def ago(seconds):
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


AT = "at 2026-11-27T10:00:00Z"


class Cluster:
    """Pods, events and logs, as the API client lists them."""

    def __init__(self, *pods, events=(), logs=None):
        self.all, self.logs, self.read = {"Pod": list(pods), "Event": list(events)}, logs or {}, []

    def list(self, kind, labels=""):
        if kind == "Pod":
            submitters = labels.startswith("job-name")
            return [p for p in self.all["Pod"] if ("ray.io/node-type" not in p["metadata"]["labels"]) == submitters]
        return self.all[kind]

    def path(self, kind, name, under):
        return name

    def lines(self, path, container, **asked):
        self.read.append((path, container))
        if path not in self.logs:
            raise InputError("not allowed")
        return iter(line.encode() for line in self.logs[path])


def pod(role="head", end="aaaaa", *, phase="Running", containers=(), init=(), created=0, **status):
    labels = {} if role == "submitter" else {"ray.io/node-type": role}
    name = f"{RUN}-{end}" if role == "submitter" else f"{CLUSTER}-{role}-{end}"
    states = {"containerStatuses": list(containers), "initContainerStatuses": list(init)}
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": ago(created)},
            "status": {"phase": phase, "startTime": ago(created), **states, **status}}  # fmt: skip


def container(name="ray-head", ready=False, **states):
    return {"name": name, "image": "an-image", "ready": ready, "state": {}, **states}


def terminated(code=1, reason="Error", **more):
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-11-27T10:00:00Z", **more}}


def running(seconds=0):
    return {"running": {"startedAt": ago(seconds)}}


def event(reason, message="", of=CLUSTER, kind="Warning", **times):
    times = times or {"eventTime": ago(5).replace("Z", ".123456Z"), "lastTimestamp": None}
    return {"reason": reason, "message": message, "type": kind, "involvedObject": {"name": of}, "metadata": {}, **times}


class TestPods:
    @pytest.mark.parametrize(
        ("there", "line"),
        [
            (pod(containers=[container(state=terminated(1, message="a\nValueError: no\n"))], phase="Failed"),
             "head pod {cluster}-head-aaaaa: container ray-head ended with exit code 1 (Error) at 2026-11-27T10:00:00Z: "
             "a | ValueError: no"),
            (pod(containers=[container("ray-head", True, state=running()), container("autoscaler", state=terminated(2))]),
             "head pod {cluster}-head-aaaaa: container autoscaler ended with exit code 2 (Error) at 2026-11-27T10:00:00Z"),
            (pod(containers=[container(state=terminated(0, "Completed"))], phase="Succeeded"),
             "head pod {cluster}-head-aaaaa: container ray-head ended with exit code 0 (Completed) at 2026-11-27T10:00:00Z"),
            (pod(containers=[container(state=terminated(137, "OOMKilled"))], phase="Failed"),
             "head pod {cluster}-head-aaaaa: OOMKilled: container ray-head needs more memory; raise its memory_gib"),
            (pod("worker", init=[container("wait-gcs-ready", state=terminated(7))],
                 containers=[container("ray-worker", state={"waiting": {"reason": "PodInitializing"}})], phase="Pending"),
             "worker pod {cluster}-worker-aaaaa: container wait-gcs-ready ended with exit code 7 (Error) at "
             "2026-11-27T10:00:00Z"),
            (pod("submitter", containers=[container("ray-job-submitter", state=terminated(1))], phase="Failed"),
             "submitter pod {run}-aaaaa: container ray-job-submitter ended with exit code 1 (Error) " + AT),
            (pod("worker", containers=[container("istio", True, state=running(), restartCount=4, lastState=terminated(3))]),
             "worker pod {cluster}-worker-aaaaa: container istio ended with exit code 3 (Error) at 2026-11-27T10:00:00Z; "
             "it was started again 4 times"),
            (pod(containers=[container(state=terminated(255, "StartError", message="exec: no such file"))], phase="Failed"),
             "head pod {cluster}-head-aaaaa: container ray-head ended with exit code 255 (StartError) at "
             "2026-11-27T10:00:00Z: exec: no such file"),
            (pod(containers=[container(state=running(400))]),
             "head pod {cluster}-head-aaaaa: container ray-head: runs, and is not ready for 6 min"),
            (pod(containers=[container("ray-head", True), container("autoscaler", state=running(4000))]),
             "head pod {cluster}-head-aaaaa: container autoscaler: runs, and is not ready for 1 h 6 min"),
            (pod(containers=[container(state={"waiting": {"reason": "ContainerCreating"}})], phase="Pending", created=300),
             "head pod {cluster}-head-aaaaa: container ray-head: ContainerCreating for 5 min"),
            (pod("worker", init=[container("wait-gcs-ready", state=running(200))], phase="Pending", created=200),
             "worker pod {cluster}-worker-aaaaa: container wait-gcs-ready: waits for the head for 3 min"),
            (pod(phase="Unknown", message="Node x was unresponsive"),
             "head pod {cluster}-head-aaaaa: its node does not answer: Node x was unresponsive"),
            ({**pod(), "metadata": {**pod()["metadata"], "deletionTimestamp": ago(400)}},
             "head pod {cluster}-head-aaaaa: has not ended 6 min after it should have; its node may be lost"),
            (pod(phase="Pending", created=300),
             "head pod {cluster}-head-aaaaa: Pending for 5 min, and no scheduler has looked at it"),
            (pod(containers=[container(state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}})]),
             "head pod {cluster}-head-aaaaa: ImagePullBackOff: Back-off"),
            (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
             "head pod {cluster}-head-aaaaa: Evicted: The node was low on resource: memory."),
            (pod(containers=[container("ray-head", True, state=running())],
                 conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                              "message": "m"}]),
             "head pod {cluster}-head-aaaaa: PreemptionByScheduler: m"),
        ],
    )  # fmt: skip
    def test_a_container_that_has_ended_or_does_not_get_ready_is_a_line(self, there, line):
        assert troubles(Cluster(there), JOB) == [line.format(cluster=CLUSTER, run=RUN)]

    @pytest.mark.parametrize(
        "there",
        [
            pod(containers=[container("ray-head", True, state=running(9999))]),
            pod(containers=[container(state=running(30))]),
            pod("worker", init=[container("wait-gcs-ready", True, state=terminated(0, "Completed"))],
                containers=[container("ray-worker", True, state=running(500))]),
            pod("submitter", containers=[container("ray-job-submitter", state=terminated(0))], phase="Succeeded"),
            {**pod(containers=[container(state=terminated(1))]),
             "metadata": {"name": "x", "labels": {"ray.io/node-type": "head"}, "deletionTimestamp": ago(3)}},
            pod(phase="Pending", created=20),
        ],
    )  # fmt: skip
    def test_what_goes_as_it_should_is_none(self, there):
        assert troubles(Cluster(there), JOB) == []

    def test_a_run_that_has_succeeded_has_no_troubles(self):
        ended = pod(containers=[container(state=terminated(1))])
        assert troubles(Cluster(ended), {**JOB, "status": {"jobStatus": "SUCCEEDED", "rayClusterName": CLUSTER}}) == []

    def test_the_log_is_read_where_the_status_has_no_last_lines_and_the_role_may(self):
        ended = pod(containers=[container(state=terminated(1))], phase="Failed")
        name = ended["metadata"]["name"]
        [line] = troubles(Cluster(ended, logs={name: ["one", "", "two", "three", "four"]}), JOB)
        assert line.endswith(": two | three | four")
        [line] = troubles(Cluster(ended), JOB)
        assert line.endswith("2026-11-27T10:00:00Z")

    def test_equal_lines_of_several_pods_are_one_with_their_number(self):
        pull = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        there = [pod("worker", f"{n}aaaa", containers=[container("ray-worker", state=pull)], created=n) for n in range(5)]
        [line] = troubles(Cluster(*there), JOB)
        assert line == f"worker pod {CLUSTER}-worker-0aaaa: ErrImagePull: no such image (5 pods like this)"
        [fewer] = troubles(Cluster(*there[1:3]), JOB)
        assert fewer == line and str(fewer) != str(line)  # no change that is worth a new line

    def test_logs_are_read_once_for_equal_pods(self):
        there = [pod("worker", f"{n}aaaa", containers=[container("ray-worker", state=terminated(1))]) for n in range(5)]
        cluster = Cluster(*there, logs={f"{CLUSTER}-worker-{n}aaaa": ["its end"] for n in range(5)})
        [line] = troubles(cluster, JOB)
        assert line.endswith(": its end (5 pods like this)")
        assert len(cluster.read) == 1


class TestEvents:
    def deleted(self, seconds, code=1, end="aaaaa"):
        go = f"&ContainerStateTerminated{{ExitCode:{code},Signal:0,Reason:Error,Message:ValueError: no\n,StartedAt:2026,}}"
        words = f"Deleted head Pod ofa/{CLUSTER}-head-{end}; Pod status: Failed; Ray container terminated status: {go}"
        return event("DeletedHeadPod", words, kind="Normal", eventTime=ago(seconds).replace("Z", ".5Z"), lastTimestamp=None)

    def test_a_head_that_is_created_again_and_again_is_one_line_though_its_events_are_normal(self):
        there = [self.deleted(60 - n, end=f"{n:05}") for n in range(40)]
        [line] = troubles(Cluster(events=there), JOB)
        assert line.startswith("head pods have ended and were created again 40 times since ")
        assert line.endswith("the last time with exit code 1 (Error): ValueError: no")
        [earlier] = troubles(Cluster(events=there[:7]), JOB)
        assert earlier == line

    def test_a_pod_that_comes_and_goes_in_such_a_loop_adds_no_line(self):
        ended = pod(containers=[container(state=terminated(1))], phase="Failed")
        assert len(troubles(Cluster(ended, events=[self.deleted(9), self.deleted(8)]), JOB)) == 1

    def test_the_series_of_an_event_counts(self):
        there = self.deleted(60) | {"series": {"count": 12, "lastObservedTime": ago(1).replace("Z", ".000001Z")}}
        [line] = troubles(Cluster(events=[there]), JOB)
        assert "12 times since" in line

    def test_workers_that_the_autoscaler_removes_are_no_trouble(self):
        there = event("DeletedWorkerPod", f"Deleted pod ofa/{CLUSTER}-search-worker-aaaaa", kind="Normal")
        assert troubles(Cluster(events=[there]), JOB) == []

    def test_warnings_that_differ_in_random_names_and_numbers_are_one_line(self):
        words = 'Failed to create head Pod: pods "{}-head-{}" is forbidden: exceeded quota: ofa, used: requests.cpu={}'
        there = [
            event("FailedToCreateHeadPod", words.format(CLUSTER, end, n))
            for n, end in enumerate(("ab1cd", "zzzzz", "12345"))
        ]
        [line] = troubles(Cluster(events=there), JOB)
        assert line.startswith(f"FailedToCreateHeadPod: {words.format(CLUSTER, '12345', 2)} (3 times since 2")

    def test_other_warnings_stay_apart(self):
        there = [event("FailedMount", 'configmap "a" not found'), event("FailedMount", 'secret "b" not found')]
        assert len(troubles(Cluster(events=there), JOB)) == 2

    def test_warnings_about_a_pod_that_is_not_ready_are_shown(self):
        waits = pod(containers=[container(state={"waiting": {"reason": "ContainerCreating"}})], phase="Pending")
        there = event("FailedMount", 'configmap "x-config" not found', of=waits["metadata"]["name"])
        assert troubles(Cluster(waits, events=[there]), JOB) == ['FailedMount: configmap "x-config" not found']

    def test_what_was_before_the_run_was_started_again_is_over(self):
        job = {**JOB, "status": {**JOB["status"], "startTime": ago(2)}}
        assert troubles(Cluster(events=[event("FailedToCreateHeadPod", "x")]), job) == []

    def test_events_of_both_apis_are_in_the_order_of_their_times(self):
        there = [event("third", eventTime="2026-11-27T10:00:00.200000Z", lastTimestamp=None),
                 event("first", lastTimestamp="2026-11-27T10:00:00Z"),
                 event("second", eventTime="2026-11-27T10:00:00.100000Z", lastTimestamp=None)]  # fmt: skip
        assert [e["reason"] for e in events(Cluster(events=there), JOB)] == ["first", "second", "third"]
        assert event_time(there[0]) == "2026-11-27T10:00:00.200000Z"


def test_troubles_are_equal_by_their_kind():
    assert Trouble("a, 3 times", "a") == Trouble("a, 4 times", "a")
    assert len({Trouble("a, 3 times", "a"), Trouble("a, 4 times", "a")}) == 1
    assert Trouble("a", "a") != Trouble("a", "b")
    assert Trouble("a", "a") == "a"
