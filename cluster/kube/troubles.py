"""The pods and events of a run, and what of them keeps the run from running.

KubeRay's own status hardly mentions pods: a head that exits at once is created again every second and leaves only events of
type Normal, and a container that has ended is never started again (restartPolicy Never), so its pod stays "Running".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.errors import InputError, StepError
from cluster.kube.api import Api
from cluster.kube.rayjob import RUN_LABEL
from cluster.kube.state import state_of

Doc = dict[str, Any]
Role = Literal["submitter", "head", "worker"]

SLOW_S = 120.0  # seconds in which a container becomes ready
RECENT_S = 600.0  # age up to which an event says something about a run in state Running
LAST_LINES = 3  # lines of the log of a container that has ended
USUAL_WAITS = ("ContainerCreating", "PodInitializing")
SHOWN_BY_PODS = ("FailedScheduling", "Failed", "BackOff", "ErrImagePull")  # events about what a pod's status shows


class Trouble(str):
    """One line about what keeps a run from running.

    Two are equal if they differ only in numbers, times and the random names of pods, so that a growing count is no news.
    """

    kind: tuple[object, ...]

    def __new__(cls, text: str, *kind: object) -> Trouble:
        """A line, and what it has in common with those that are equal."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made

    def __eq__(self, other: object) -> bool:
        return self.kind == other.kind if isinstance(other, Trouble) else str.__eq__(self, str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.kind)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one pod shows. kind: equal for pods that show the same; ended: its container, whose log may say more."""

    kind: tuple[object, ...]
    text: str
    pod: Doc
    ended: Doc | None = None


def troubles(api: Api, job: Doc) -> list[Trouble]:
    """What keeps the pods of a run from running, one line for each kind of trouble; nothing of a run that has succeeded."""
    if state_of(job).name == "Succeeded":
        return []
    there = pods(api, job)
    about = events(api, job)
    crashes = list(_crashes(job, about))
    grouped: dict[tuple[object, ...], list[_Finding]] = defaultdict(list)
    for pod in there:
        for finding in pod_findings(pod):
            grouped[finding.kind].append(finding)
    crashing = {trouble.kind[1] for trouble in crashes}
    found = []
    for kind, same in grouped.items():
        if kind[0] == "ended" and kind[1] in crashing:  # comes and goes with each pod
            continue
        latest = max(same, key=lambda f: str(f.pod["metadata"].get("creationTimestamp", "")))
        last = f": {words}" if latest.ended and (words := last_lines(api, latest.pod, latest.ended)) else ""
        more = f" ({len(same)} pods like this)" if len(same) > 1 else ""
        found.append(
            Trouble(f"{role_of(latest.pod)} pod {latest.pod['metadata']['name']}: {latest.text}{last}{more}", *kind)
        )
    return [*found, *crashes, *_warnings(job, about, there)]


def pod_findings(pod: Doc, now: datetime | None = None) -> Iterator[_Finding]:
    """Why this pod does not run, or not fully; of a pod that is being deleted, only that this takes long."""
    now = now or datetime.now(UTC)
    metadata, status, role = pod["metadata"], pod.get("status") or {}, role_of(pod)

    def finding(what: str, text: str, *kind: object, ended: Doc | None = None) -> _Finding:
        return _Finding((what, role, *kind), text, pod, ended)

    if metadata.get("deletionTimestamp"):  # at which its grace period is over
        over = moment(metadata["deletionTimestamp"])
        if over and (now - over).total_seconds() > SLOW_S:
            yield finding("deleted", f"has not ended {_long(now, over)} after it should have; its node may be lost")
        return
    conditions = {condition.get("type"): condition for condition in status.get("conditions") or []}
    placed, evicted = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    if placed.get("status") == "False":
        reason = placed.get("reason", "Unschedulable")
        yield finding("placed", f"{reason}: {placed.get('message', '')}", reason, _alike(placed.get("message", "")))
    if evicted.get("status") == "True":
        yield finding("evicted", f"{evicted.get('reason')}: {evicted.get('message', '')}", evicted.get("reason"))
    if status.get("phase") == "Unknown":
        yield finding(
            "unknown", f"its node does not answer{': ' if status.get('message') else ''}{status.get('message', '')}"
        )
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, NodeLost, UnexpectedAdmissionError, ...
        yield finding("failed", f"{status['reason']}: {status.get('message', '')}", status["reason"])
    first = status.get("initContainerStatuses") or []
    containers = [*first, *(status.get("containerStatuses") or [])]
    for container in containers:
        name, state = container["name"], container.get("state") or {}
        waiting, ended = state.get("waiting"), state.get("terminated")
        starts = container in first or role == "submitter"  # containers that end as they should
        if ended is not None and (ended.get("exitCode") or ended.get("signal") or not starts):
            yield finding("ended", _ending(name, ended), name, ended.get("exitCode"), ended.get("reason"), ended=container)
        elif before := (container.get("lastState") or {}).get("terminated"):
            again = f"; it was started again {container.get('restartCount', 1)} times"
            kind = (name, before.get("exitCode"), before.get("reason"))
            yield finding("ended", _ending(name, before) + again, *kind, ended=container)
        if waiting and waiting.get("reason") not in (None, *USUAL_WAITS):
            text = f"{waiting['reason']}: {waiting.get('message') or container.get('image', '')}"
            yield finding("waits", text, name, waiting["reason"])
    yield from _slow(pod, containers, now, finding)


def _slow(pod: Doc, containers: list[Doc], now: datetime, finding: Any) -> Iterator[_Finding]:
    """The first container of a pod that has not become ready for long."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    if status.get("phase") not in ("Pending", "Running"):
        return
    since = moment(status.get("startTime") or metadata.get("creationTimestamp"))
    if not containers:
        conditions = status.get("conditions") or []
        if not conditions and since and (now - since).total_seconds() > SLOW_S:
            yield finding("slow", f"Pending for {_long(now, since)}, and no scheduler has looked at it")
        return
    for container in containers:
        state = container.get("state") or {}
        if (waiting := state.get("waiting")) and waiting.get("reason", "ContainerCreating") in USUAL_WAITS:
            began, what = since, f"{waiting.get('reason', 'ContainerCreating')}"
        elif (running := state.get("running")) is not None and not container.get("ready"):
            waits = container["name"] == "wait-gcs-ready"  # the init container of KubeRay
            began = moment(running.get("startedAt")) or since
            what = "waits for the head" if waits else "runs, and is not ready"
        else:
            continue
        if began and (now - began).total_seconds() > SLOW_S:
            yield finding("slow", f"container {container['name']}: {what} for {_long(now, began)}", container["name"], what)
        return  # those after it wait for it, or are of the same age


def _ending(name: str, ended: Doc) -> str:
    reason = ended.get("reason") or "Error"
    if reason == "OOMKilled":
        return f"OOMKilled: container {name} needs more memory; raise its memory_gib"
    how = f"signal {ended['signal']}" if ended.get("signal") else f"exit code {ended.get('exitCode')}"
    when = f" at {ended['finishedAt']}" if ended.get("finishedAt") else ""
    return f"container {name} ended with {how} ({reason}){when}"


def last_lines(api: Api, pod: Doc, container: Doc) -> str:
    """The last lines of a container that has ended, as one: of its termination message, else of its log if allowed."""
    state, previous = (container.get("state") or {}).get("terminated"), ""
    if state is None:
        state, previous = (container.get("lastState") or {}).get("terminated") or {}, "true"
    lines = str(state.get("message") or "").splitlines()
    if not lines:
        path = api.path("Pod", pod["metadata"]["name"], "log")
        try:
            asked = {"container": container["name"], "tailLines": str(4 * LAST_LINES), "previous": previous}
            lines = [line.decode(errors="replace") for line in api.lines(path, asked)]
        except (InputError, StepError):  # no right to read it, or the pod is gone
            return ""
    return " | ".join([line.strip()[:300] for line in lines if line.strip()][-LAST_LINES:])


# Events


def _crashes(job: Doc, about: list[Doc]) -> Iterator[Trouble]:
    """Pods that have failed and that KubeRay has deleted, to create new ones: events of type Normal."""
    for role in ("head", "worker"):
        reason, failed = f"Deleted{role.capitalize()}Pod", re.compile(r"Pod status: (Failed|Succeeded|Unknown)|ExitCode:")
        gone = [event for event in _now(job, about) if event.get("reason") == reason and failed.search(_message(event))]
        if not gone:
            continue
        text = _message(gone[-1])
        code, why = re.search(r"ExitCode:(-?\d+)", text), re.search(r"Reason:(\w+)", text)
        words = re.search(r"Message:(.*?),StartedAt:", text)
        how = (f" with exit code {code[1]}" if code else "") + (f" ({why[1]})" if why else "")
        last = f": {words[1].strip()[:600]}" if words and words[1].strip() else ""
        number, since = sum(map(_count, gone)), min(_first(event) for event in gone)
        times = f"{number} times since {since}, the last time" if number > 1 else f"at {since}"
        what = f"{role} pods have ended and were" if number > 1 else f"a {role} pod has ended and was"
        yield Trouble(f"{what} created again {times}{how}{last}", "crashes", role)


def _warnings(job: Doc, about: list[Doc], there: list[Doc]) -> Iterator[Trouble]:
    """Warnings about the run's objects and about its pods that are not ready; equal ones are one line."""
    name, cluster = job["metadata"]["name"], (job.get("status") or {}).get("rayClusterName", "")
    unready = {pod["metadata"]["name"] for pod in there if not _ready(pod)}
    grouped: dict[tuple[object, ...], list[Doc]] = defaultdict(list)
    for event in _now(job, about):
        of, reason = event["involvedObject"].get("name", ""), event.get("reason", "Warning")
        of_pod = of in unready and reason not in SHOWN_BY_PODS
        if event.get("type") == "Warning" and (of in {name, cluster} or of_pod):
            grouped["event", reason, _alike(_message(event), name)].append(event)
    for kind, same in list(grouped.items())[-5:]:
        latest, number = same[-1], sum(map(_count, same))
        times = f" ({number} times since {min(map(_first, same))})" if number > 1 else ""
        yield Trouble(f"{kind[1]}: {_message(latest)}{times}", *kind)


def _now(job: Doc, about: list[Doc]) -> list[Doc]:
    """The events since the run's current cluster was asked for; while it runs, only those of the last minutes."""
    began = moment((job.get("status") or {}).get("startTime"))
    runs = state_of(job).name == "Running"
    found = []
    for event in about:
        when = moment(event_time(event))
        old = when is not None and runs and (datetime.now(UTC) - when).total_seconds() > RECENT_S
        if not old and (when is None or began is None or when >= began.replace(microsecond=0)):
            found.append(event)
    return found


def _message(event: Doc) -> str:
    return " ".join(str(event.get("message", "")).split())


def _count(event: Doc) -> int:
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def _first(event: Doc) -> str:
    first = event.get("firstTimestamp") or event.get("eventTime") or event_time(event)
    return re.sub(r"\.\d+", "", str(first))


def _alike(text: str, run: str = "") -> str:
    """A text without what differs between equal troubles: names of the run's objects, random endings, and numbers."""
    if run:
        text = re.sub(rf"{re.escape(run)}(-[a-z0-9]+)*", "", text)
    return re.sub(r"\d+(\.\d+)?\w{0,2}|-[a-z0-9]{5}\b", "", text)


def _ready(pod: Doc) -> bool:
    states = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(states) and all(state.get("ready") for state in states)


def _long(now: datetime, since: datetime) -> str:
    seconds = int((now - since).total_seconds())
    return f"{seconds // 3600} h {seconds % 3600 // 60} min" if seconds >= 3600 else f"{seconds // 60} min"


# Reading them


def role_of(pod: Doc) -> Role:
    """The role of a run's pod."""
    kind = (pod["metadata"].get("labels") or {}).get("ray.io/node-type")
    return kind if kind in ("head", "worker") else "submitter"


def phase_of(pod: Doc) -> str:
    """The phase of a pod, or `Terminating` while it is being deleted."""
    phase: str = (pod.get("status") or {}).get("phase", "")
    return "Terminating" if pod["metadata"].get("deletionTimestamp") else phase


def pods(api: Api, job: Doc, role: Role | None = None) -> list[Doc]:
    """The pods of a run's current cluster, or those left of earlier ones if it has none, and its submitters."""
    cluster, name = (job.get("status") or {}).get("rayClusterName", ""), job["metadata"]["name"]
    found: list[Doc] = []
    if role in (None, "submitter"):
        found += api.list("Pod", labels=f"job-name={name}")
    if role != "submitter":
        of = f"ray.io/cluster={cluster}" if cluster else f"{RUN_LABEL}={name}"
        found += api.list("Pod", labels=f"{of},ray.io/node-type{f'={role}' if role else ''}")
    return found


def events(api: Api, job: Doc) -> list[Doc]:
    """The events of a run's objects, oldest first."""
    cluster, name = (job.get("status") or {}).get("rayClusterName", ""), job["metadata"]["name"]
    # KubeRay names everything of a run by the run: <run>-xxxxx is a cluster or the submitter's pod, <run>-xxxxx-... its pods
    ours = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{5}}(-.*)?)?" + (f"|{re.escape(cluster)}(-.*)?" if cluster else ""))
    found = [event for event in api.list("Event") if ours.fullmatch(event["involvedObject"].get("name", ""))]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda event: moment(event_time(event)) or oldest)


def event_time(event: Doc) -> str:
    """The latest time of an event as text; events of the newer API have no `lastTimestamp`."""
    series = (event.get("series") or {}).get("lastObservedTime")
    made = event["metadata"].get("creationTimestamp")
    time: str = series or event.get("lastTimestamp") or event.get("eventTime") or made or ""
    return time


def moment(text: str | None) -> datetime | None:
    """A time of the API server; None where there is none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
