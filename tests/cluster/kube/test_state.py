"""One state out of two words that may contradict each other."""

import pytest

from cluster.kube.state import DEADLINE, QUEUE, state_of


def job(ray="", deployed="", *, retries=2, suspend=False, queue=False, deleted=False, **status):
    metadata = {"name": "r", "labels": {QUEUE: "ofa"} if queue else {}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    words = {"jobStatus": ray, "jobDeploymentStatus": deployed, **status}
    return {"metadata": metadata, "spec": {"backoffLimit": retries, "suspend": suspend}, "status": words}


HEAD_READY = {"rayClusterStatus": {"conditions": [{"type": "HeadPodReady", "status": "True"}]}}
CASES = [
    (job(), "Pending"),
    ({"metadata": {}, "spec": {}}, "Pending"),
    (job("", "Initializing"), "Pending"),
    (job("", "Initializing", **HEAD_READY), "Starting"),
    (job("", "Running"), "Starting"),
    (job("PENDING", "Running"), "Starting"),
    (job("RUNNING", "Running"), "Running"),
    (job("SUCCEEDED", "Running"), "Succeeded"),
    (job("SUCCEEDED", "Complete"), "Succeeded"),
    (job("SUCCEEDED", "Failed", reason="DeadlineExceeded"), "Succeeded"),  # it had succeeded before
    (job("STOPPED", "Complete"), "Stopped"),  # Complete is no success
    (job("STOPPED", "Running"), "Stopped"),
    (job("RUNNING", "Failed", reason="JobStatusCheckTimeoutExceeded"), "Failed (JobStatusCheckTimeoutExceeded)"),
    (job("RUNNING", "Failed"), "Failed (Failed)"),
    (job("", "Failed", reason="PreRunningDeadlineExceeded"), "Failed (PreRunningDeadlineExceeded)"),
    (job("FAILED", "Failed", reason="AppFailed", failed=3), "Failed (AppFailed)"),
    (
        job("FAILED", "Failed", reason="AppFailed", message=f"logs:\nofa: {DEADLINE}: the run may"),
        "Failed (DeadlineExceeded)",
    ),
    (job("FAILED", "Complete"), "Failed (AppFailed)"),
    (job("RUNNING", "Complete"), "Failed (NoJobStatus)"),
    (job("", "Complete"), "Failed (NoJobStatus)"),
    (job("FAILED", "Running"), "Retrying (1/2)"),  # KubeRay has not counted it yet
    (job("FAILED", "Running", retries=0), "Failed (AppFailed)"),
    (job("FAILED", "Running", failed=2), "Failed (AppFailed)"),
    (job("FAILED", "Retrying", failed=1), "Retrying (1/2)"),
    (job("", "Retrying", failed=2), "Retrying (2/2)"),
    (job("", "Initializing", failed=2), "Retrying (2/2)"),
    (job("", "", failed=1), "Retrying (1/2)"),
    (job("RUNNING", "Running", failed=1), "Running"),  # the second cluster works
    (job("", "Suspended", suspend=True), "Paused"),
    (job("STOPPED", "Suspending", suspend=True), "Paused (stopping)"),
    (job("STOPPED", "Suspended", suspend=True), "Paused"),
    (job("", "", suspend=True, queue=True), "Queued"),
    (job("", "Suspended", suspend=True, queue=True), "Queued"),
    (job("", "ValidationFailed", message="no"), "Invalid"),
    (job("RUNNING", "ValidationFailed", message="no"), "Invalid"),
    (job("RUNNING", "Running", deleted=True), "Stopped (being deleted)"),
    (job("SUCCEEDED", "Complete", deleted=True), "Succeeded"),
]


@pytest.mark.parametrize(("said", "state"), CASES)
def test_the_state_is(said, state):
    assert str(state_of(said)) == state


def test_no_pair_of_words_is_a_success_but_rays_own():
    """Every pair, also those that make no sense."""
    rays = ("", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
    deployments = ("", "Initializing", "Waiting", "Running", "Retrying", "Suspending", "Suspended", "Complete", "Failed",
                   "ValidationFailed")  # fmt: skip
    for ray in rays:
        for deployed in deployments:
            state = state_of(job(ray, deployed))
            assert (state.name == "Succeeded") == (ray == "SUCCEEDED" and deployed != "ValidationFailed"), (ray, deployed)
            if deployed in ("Complete", "Failed", "ValidationFailed"):
                assert state.ended, (ray, deployed)  # nobody waits forever


def test_exit_codes_are_those_of_the_command_line():
    ends = (("SUCCEEDED", "Complete"), ("FAILED", "Failed"), ("STOPPED", "Complete"), ("", "ValidationFailed"))
    states = [state_of(job(*words)) for words in ends]
    assert {s.name: s.exit_code for s in states} == {"Succeeded": 0, "Failed": 1, "Stopped": 3, "Invalid": 4}


class TestAHeadThatDoesNotAnswer:
    SINCE = "2026-11-27T16:02:11Z"

    @pytest.mark.parametrize(("ray", "name"), [("RUNNING", "Running"), ("PENDING", "Starting"), ("", "Starting")])
    def test_the_state_has_since_when_and_until_when(self, ray, name):
        state = state_of(job(ray, "Running", jobStatusCheckFailureStartTime=self.SINCE, message="Job is currently running."))
        assert str(state) == f"{name} (no answer from the head)"
        assert f"since {self.SINCE}" in state.message
        assert "after 300 s, or what RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS" in state.message

    def test_it_does_not_outlast_the_run(self):
        assert state_of(job("SUCCEEDED", "Complete", jobStatusCheckFailureStartTime=self.SINCE)).message == ""

    def test_giving_up_is_explained_with_what_to_do(self):
        state = state_of(job("RUNNING", "Failed", reason="JobStatusCheckTimeoutExceeded", message="head gone"))
        assert state.reason == "JobStatusCheckTimeoutExceeded"
        assert "`ofa retry r` continues the run" in state.message
        assert "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS" in state.message
