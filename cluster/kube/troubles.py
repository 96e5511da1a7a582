"""The pods and events of a run, and what of them keeps the run from running."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from cluster.kube.api import Api

Doc = dict[str, Any]
Role = Literal["submitter", "head", "worker"]

BAD_WAITS = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
             "CreateContainerError", "CrashLoopBackOff", "RunContainerError")  # fmt: skip


def troubles(api: Api, job: Doc) -> list[str]:
    """What keeps the pods of a run from running, one line each: pods that cannot start, and warnings about other objects."""
    found = [line for pod in pods(api, job) for line in pod_troubles(pod)]
    cluster = (job.get("status") or {}).get("rayClusterName", "")
    names = {job["metadata"]["name"], cluster} - {""}
    warnings = [e for e in events(api, job) if e.get("type") == "Warning" and e["involvedObject"]["name"] in names]
    lines = [f"{e.get('reason', 'Warning')}: {' '.join(str(e.get('message', '')).split())}" for e in warnings[-5:]]
    return list(dict.fromkeys(found + lines))


def pod_troubles(pod: Doc) -> Iterator[str]:
    """Why this pod does not run."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"pod {name}: {condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in BAD_WAITS:
            yield f"pod {name}: {waiting['reason']}: {waiting.get('message') or container.get('image', '')}"
        for when in ("state", "lastState"):
            ended = (container.get(when) or {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                yield f"pod {name}: OOMKilled: container {container['name']} needs more memory; raise its memory_gib"


def pods(api: Api, job: Doc, role: Role | None = None) -> list[Doc]:
    """The pods of a run's current cluster, and its submitter."""
    cluster, name = (job.get("status") or {}).get("rayClusterName", ""), job["metadata"]["name"]
    found: list[Doc] = []
    if role in (None, "submitter"):
        found += api.list("Pod", labels=f"job-name={name}")
    if cluster and role != "submitter":
        kind = f",ray.io/node-type={role}" if role else ""
        found += api.list("Pod", labels=f"ray.io/cluster={cluster}{kind}")
    return found


def events(api: Api, job: Doc) -> list[Doc]:
    """The events of a run's objects, oldest first."""
    cluster, name = (job.get("status") or {}).get("rayClusterName", ""), job["metadata"]["name"]
    # KubeRay names everything of a run by the run: <run>-xxxxx is a cluster or the submitter's pod, <run>-xxxxx-... its pods
    ours = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{5}}(-.*)?)?" + (f"|{re.escape(cluster)}(-.*)?" if cluster else ""))
    found = [event for event in api.list("Event") if ours.fullmatch(event["involvedObject"].get("name", ""))]
    return sorted(found, key=event_time)


def event_time(event: Doc) -> str:
    """The time of an event as text."""
    time: str = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
    return time
