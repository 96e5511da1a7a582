"""One state of a run, derived from the statuses of KubeRay and of Ray.

`jobDeploymentStatus` is KubeRay's status of cluster and submission, `jobStatus` Ray's of the job. Neither suffices alone:
`Complete` also follows a stopped job, `RUNNING` remains where the cluster is lost, `ValidationFailed` never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Name = Literal[
    "Queued", "Pending", "Starting", "Running", "Retrying", "Succeeded", "Failed", "Stopped", "Paused", "Invalid", "Gone"
]

QUEUE = "kueue.x-k8s.io/queue-name"
EXIT = {"Succeeded": 0, "Failed": 1, "Stopped": 3, "Gone": 3, "Invalid": 4}
TIMED_OUT = 2
LOST = 5  # the API server gave no answer; the run may be healthy


@dataclass(frozen=True, slots=True)
class State:
    """The state of a run, its reason, and the cluster's own message."""

    name: Name
    reason: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether the state is final until a user acts."""
        return self.name in EXIT

    @property
    def exit_code(self) -> int:
        """The exit code of `ofa wait`."""
        return EXIT[self.name]

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


DEADLINE = "kube.deadline_s has passed"  # in the last line of a driver that ends for it, which Ray puts into the message
GIVE_UP = "after 300 s, or what RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS of KubeRay's operator is"


def unanswered(since: str) -> str:
    """What it means that the operator gets no answer since that time."""
    return (
        f"KubeRay's operator gets no answer from the head since {since}, which may be restarting; "
        f"{GIVE_UP}, it gives up without a retry"
    )


GONE = State("Gone", message="there is no such RayJob in the cluster")


def state_of(job: Mapping[str, Any]) -> State:
    """The state of a RayJob as the API server returns it."""
    spec, status = job.get("spec", {}), job.get("status") or {}
    ray, deployed = status.get("jobStatus", ""), status.get("jobDeploymentStatus", "")
    reason, message = status.get("reason", ""), status.get("message", "")
    failed, retries = status.get("failed", 0), spec.get("backoffLimit", 0)
    retrying = State("Retrying", f"{max(1, failed)}/{retries}", message)

    if deployed == "ValidationFailed":
        return State("Invalid", reason if reason != "ValidationFailed" else "", message)
    if ray == "SUCCEEDED":  # also where KubeRay lags behind, or reached its deadline during clean-up
        return State("Succeeded", "", "")
    if ray == "STOPPED" and deployed not in ("Suspending", "Suspended", "Retrying"):
        return State("Stopped", "", message)
    if deployed == "Failed":  # whatever Ray said last
        if reason == "AppFailed" and (line := next((line for line in message.splitlines() if DEADLINE in line), "")):
            reason, message = "DeadlineExceeded", line
        if reason == "JobStatusCheckTimeoutExceeded":
            name = job.get("metadata", {}).get("name", "RUN")
            message = f"the head did not answer {GIVE_UP}: KubeRay does not retry that; `ofa retry {name}` continues the run"
        return State("Failed", reason or "Failed", message)
    if deployed in ("Suspending", "Suspended") or (spec.get("suspend") and deployed in ("", "Initializing", "Waiting")):
        queued = QUEUE in job.get("metadata", {}).get("labels", {})
        return State("Queued" if queued else "Paused", "" if deployed != "Suspending" else "stopping", message)
    if job.get("metadata", {}).get("deletionTimestamp"):
        return State("Stopped", "being deleted", message)
    if deployed == "Complete":  # ended, but Ray's word is missing or from before
        if ray == "FAILED":
            return State("Failed", reason or "AppFailed", message)
        return State("Failed", "NoJobStatus", f"KubeRay says Complete, Ray's last word is {ray or 'nothing'}")
    if deployed == "Retrying":
        return retrying
    if ray == "FAILED":  # KubeRay has not decided yet
        return retrying if failed < retries else State("Failed", reason or "AppFailed", message)
    if deployed == "Running":
        if since := status.get("jobStatusCheckFailureStartTime"):
            reason, message = "no answer from the head", unanswered(since)
        return State("Running" if ray == "RUNNING" else "Starting", reason, message)
    cluster = status.get("rayClusterStatus") or {}
    ready = any(c.get("type") == "HeadPodReady" and c.get("status") == "True" for c in cluster.get("conditions", []))
    if failed and deployed in ("", "Initializing", "Waiting"):
        return retrying
    return State("Starting" if ready or deployed == "Waiting" else "Pending", reason, message)
