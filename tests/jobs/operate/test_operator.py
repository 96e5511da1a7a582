"""The operator of the tests behaves as KubeRay 1.7 was seen to behave on a real apiserver."""

import time

import pytest
from helpers import TINY

from cluster.kube import runs as kuberay
from jobs.config import load
from jobs.operate.submit import rendered

STORE = "s3://bucket/prefix"


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.fixture
def start(api, server):
    """Submits a run with more settings, and waits until Ray runs it; the function that reads its status."""

    def submitted(*settings, running=True):
        there = rendered(load(str(TINY), list(settings)), STORE, {})
        kuberay.submit(api, there)

        def status():
            return server.get("rayjobs", "ofa", there.name).get("status", {})

        if running:
            wait_for(lambda: status().get("jobStatus") == "RUNNING")
        return there.name, status

    return submitted


def submitters(server, name):
    return [pod["status"]["phase"] for pod in server.list("pods", "ofa", f"job-name={name}")]


class TestTheHeadIsLost:
    def test_the_same_cluster_gets_a_new_head_and_the_same_job_is_submitted_again(self, server, operator, start):
        name, status = start("kube.attempts=3")
        before, [head] = status(), server.list("pods", "ofa", "ray.io/node-type=head")
        operator.backend.lose(before["rayClusterName"])
        wait_for(lambda: len(operator.backend.submitted) == 2)
        wait_for(lambda: sorted(submitters(server, name)) == ["Failed", "Running"])
        after, [new] = status(), server.list("pods", "ofa", "ray.io/node-type=head")
        assert [after[key] for key in ("rayClusterName", "jobId", "startTime", "failed")] == [
            before[key] for key in ("rayClusterName", "jobId", "startTime", "failed")
        ]
        assert (after["jobDeploymentStatus"], after["jobStatus"]) == ("Running", "RUNNING")
        assert new["metadata"]["uid"] != head["metadata"]["uid"]
        assert operator.backend.submitted[0] == operator.backend.submitted[1]
        operator.backend.say = "SUCCEEDED"
        wait_for(lambda: status()["jobDeploymentStatus"] == "Complete")

    def test_after_three_submitters_the_attempt_has_failed_and_is_retried(self, server, operator, start):
        name, status = start("kube.attempts=2")
        first = status()["rayClusterName"]
        for n in range(1, 4):
            wait_for(lambda: "Running" in submitters(server, name) and status().get("jobStatus") == "RUNNING")
            operator.backend.lose(first)
            wait_for(lambda n=n: submitters(server, name).count("Failed") == n or status()["rayClusterName"] != first)
        wait_for(lambda: status().get("rayClusterName", first) != first)
        assert status()["failed"] == 1
        seen = {doc.get("status", {}).get("reason") for _, _, kind, doc in server.history if kind == "rayjobs"}
        assert "SubmissionFailed" in seen

    def test_a_head_without_an_answer_is_given_up_without_a_retry(self, operator, start):
        _, status = start("kube.attempts=3")
        operator.check_timeout_s = 0.5
        operator.backend.say = ""
        assert wait_for(lambda: status().get("jobStatusCheckFailureStartTime"))
        wait_for(lambda: status()["jobDeploymentStatus"] == "Failed")
        assert (status()["reason"], status()["jobStatus"]) == ("JobStatusCheckTimeoutExceeded", "RUNNING")

    def test_a_head_that_crashes_is_recreated_with_normal_events_only(self, server, operator, start):
        operator.backend.crash = 1
        _, status = start(running=False)
        wait_for(lambda: len(operator.backend.started) > 3)
        assert status()["jobDeploymentStatus"] == "Initializing"
        events = [event for event in server.list("events", "ofa") if event["reason"] == "DeletedHeadPod"]
        assert {event["type"] for event in events} == {"Normal"}
        assert "Pod status: Failed" in events[0]["message"]
        assert events[0]["lastTimestamp"] is None and events[0]["eventTime"][-1] == "Z" and len(events[0]["eventTime"]) == 27


class TestEnds:
    @pytest.mark.parametrize("word", ["SUCCEEDED", "STOPPED", "FAILED"])
    def test_the_submitter_ends_well_whatever_the_end_is(self, server, operator, start, word):
        name, status = start()
        operator.backend.say = word
        wait_for(lambda: status()["jobDeploymentStatus"] in ("Complete", "Failed", "Retrying"))
        if word != "FAILED":
            wait_for(lambda: submitters(server, name) == ["Succeeded"])
        assert "failed" in status() and "succeeded" in status() and status()["message"]

    def test_a_busy_operator_calls_a_run_failed_that_has_succeeded(self, server, operator, start):
        name, status = start("kube.attempts=2")
        first = status()
        operator.submitter_grace_s = 0.2
        operator.frozen = True
        time.sleep(0.2)
        operator.backend.statuses[first["rayClusterName"]] = "SUCCEEDED"
        wait_for(lambda: submitters(server, name) == ["Succeeded"])
        time.sleep(0.5)
        operator.frozen = False
        wait_for(lambda: status().get("rayClusterName", first["rayClusterName"]) != first["rayClusterName"])
        assert status()["failed"] == 1

    def test_the_deadline_counts_for_each_cluster_and_ends_without_a_retry(self, operator, start):
        _, status = start("kube.attempts=3", "kube.deadline_s=2", running=False)
        wait_for(lambda: status().get("jobDeploymentStatus") == "Failed")
        assert (status()["reason"], status()["failed"]) == ("DeadlineExceeded", 1)

    def test_a_start_that_takes_too_long_is_retried(self, server, operator, start):
        operator.no_nodes = True
        _, status = start("kube.attempts=20", "kube.starting_s=1", running=False)
        wait_for(lambda: status().get("failed"))
        operator.no_nodes = False
        wait_for(lambda: status().get("jobStatus") == "RUNNING")

    def test_what_becomes_invalid_keeps_its_pods(self, server, operator, start):
        _, status = start()
        operator.invalid = "it is"
        wait_for(lambda: status()["jobDeploymentStatus"] == "ValidationFailed")
        time.sleep(0.2)
        assert {pod["status"]["phase"] for pod in server.list("pods", "ofa")} == {"Running"}


class TestPodsAndServices:
    def test_workers_come_with_the_head_and_wait(self, server, operator, start):
        operator.not_ready = True
        name, status = start("kube.train.min=2", "kube.train.max=2", running=False)
        wait_for(lambda: len(server.list("pods", "ofa", "ray.io/node-type=worker")) == 2)
        [worker, _] = wait_for(lambda: [
            pod for pod in server.list("pods", "ofa", "ray.io/node-type=worker") if "initContainerStatuses" in pod["status"]
        ][1:] and server.list("pods", "ofa", "ray.io/node-type=worker"))  # fmt: skip
        assert worker["status"]["initContainerStatuses"][0]["state"]["running"]
        services = {service["metadata"]["name"] for service in server.list("services", "ofa")}
        assert services == {f"{status()['rayClusterName']}-head-svc"}
        operator.not_ready = False
        wait_for(lambda: status().get("jobStatus") == "RUNNING")
        assert f"{name}-head-svc" in {service["metadata"]["name"] for service in server.list("services", "ofa")}

    def test_an_autoscaler_that_has_ended_leaves_the_head_running(self, server, operator, start):
        operator.autoscaler_exits = 2
        start()
        [head] = server.list("pods", "ofa", "ray.io/node-type=head")
        assert head["status"]["phase"] == "Running"
        assert head["status"]["containerStatuses"][1]["state"]["terminated"]["exitCode"] == 2

    def test_a_pause_is_said_at_once_and_pods_stay_a_while(self, api, server, operator, start):
        operator.grace_s = 3.0
        name, status = start()
        first = status()["startTime"]
        kuberay.pause(api, api.get("RayJob", name))
        wait_for(lambda: status()["jobDeploymentStatus"] == "Suspended")
        left = server.list("pods", "ofa", "ray.io/node-type=head")
        assert left and left[0]["metadata"]["deletionTimestamp"]
        wait_for(lambda: not server.list("pods", "ofa", "ray.io/node-type=head"))
        kuberay.resume(api, api.get("RayJob", name))
        wait_for(lambda: status().get("jobStatus") == "RUNNING")
        assert status()["startTime"] > first
