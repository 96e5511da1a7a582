"""Operations on runs on a cluster: list, status, wait, events, logs, scale, cancel, pause, resume, retry.

    ofa status digits-1a2b3c4d --watch
    ofa logs digits-1a2b3c4d --follow

Each function takes the cluster and a run's id. A run whose RayJob was deleted is looked up in its store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cluster.attempts import attempts, driver_log
from cluster.errors import InputError, StepError
from cluster.kube import logs as pod_logs
from cluster.kube import runs as kuberay
from cluster.kube import troubles as observe
from cluster.kube.api import Api, NotThere
from cluster.kube.outages import GIVE_UP_S, Outage, Outages
from cluster.kube.rayjob import RESULTS, SUBMISSION, job_name
from cluster.kube.runs import Seen
from cluster.kube.state import state_of
from cluster.kube.troubles import Role
from cluster.run import Run, must_exist
from cluster.store import open_store
from jobs.operate import scale as scaling
from jobs.operate.outcome import STORE_S, believed, state_in_store, within
from jobs.operate.results import the_run

Row = dict[str, Any]


def listing(api: Api) -> list[Row]:
    """One row for each run, newest first."""
    rows = [row(job) for job in kuberay.jobs(api)]
    return sorted(rows, key=lambda r: r["created"], reverse=True)


def row(job: dict[str, Any]) -> Row:
    """The summary of a run."""
    state, status, metadata = state_of(job), job.get("status") or {}, job["metadata"]
    return {
        "run": metadata["name"],
        "state": state.name,
        "reason": state.reason,
        "message": state.message,
        "created": metadata.get("creationTimestamp", ""),
        "age_s": age_s(metadata.get("creationTimestamp")),
        "submission": int(metadata.get("annotations", {}).get(SUBMISSION, "1")),
        "cluster": status.get("rayClusterName", ""),
        "workers": (status.get("rayClusterStatus") or {}).get("availableWorkerReplicas", 0),
        "results": metadata.get("annotations", {}).get(RESULTS, ""),
    }


def age_s(created: str | None) -> int:
    """The seconds since an object was created; 0 without a time."""
    if not created:
        return 0
    return int((datetime.now(UTC) - datetime.fromisoformat(created.replace("Z", "+00:00"))).total_seconds())


def status(api: Api, run: str, store: str | None = None) -> Row:
    """A run with its pods and what keeps it from running; of a run whose RayJob was deleted, the state in its store."""
    try:
        job = kuberay.find(api, run)
    except NotThere:
        if store is None:
            raise
        state, url = state_in_store(store, run), the_run(store, run).url
        return {"run": run, "state": state.name, "reason": state.reason, "message": state.message,
                "results": url, "note": "", "troubles": [], "pods": []}  # fmt: skip
    found = observe.pods(api, job)
    pods = [{"pod": pod["metadata"]["name"], "phase": observe.phase_of(pod)} for pod in found]
    state, note = believed(state_of(job), job, store)
    facts = {"state": state.name, "reason": state.reason, "message": state.message, "note": note}
    return {**row(job), **facts, "troubles": observe.troubles(api, job), "pods": pods}


def follow(
    api: Api,
    run: str,
    changed: Callable[[Seen], None],
    *,
    timeout_s: float | None = None,
    until: tuple[str, ...] = (),
    note: Callable[[str], None] = lambda text: None,
    outage: Callable[[Outage], None] = lambda outage: None,
) -> Seen:
    """Calls `changed` for every change until the run has ended, is in a state of `until`, or the timeout is reached.

    note: called with lines that belong to no change. outage: called when the API server is lost, and when it answers again.
    A server that is lost for good raises `Lost`.
    """
    last: Seen | None = None
    job: dict[str, Any] | None = None  # the latest that there was
    outages = Outages(outage, GIVE_UP_S if timeout_s is None else None)
    for seen in kuberay.follow(api, job_name(run), timeout_s=timeout_s, outages=outages):
        if last is None and seen.job is None:
            kuberay.find(api, run)  # raises the error that names the runs that there are
        job = seen.job or job
        state, remark = believed(seen.state, job)
        last = replace(seen, state=state)
        changed(last)
        if remark:
            note(remark)
        if last.state.name in until or last.state.ended:
            break
    assert last is not None
    return last


def logs(
    api: Api,
    run: str,
    role: Role,
    *,
    follow: bool,
    tail: int,
    store: str | None,
    note: Callable[[str], None] = lambda text: None,
    outage: Callable[[Outage], None] = lambda outage: None,
) -> Iterator[str]:
    """The log lines of the run's pods; once they are deleted, the driver's log in the store. See `follow` for the rest."""
    if follow:
        yield from followed_logs(api, run, role, tail, store, note, outage)
        return
    try:
        job = kuberay.find(api, run)
    except NotThere:
        if store is None:
            raise
        yield from log_in_store(store, run, role, tail)
        return
    any_line = False
    for line in pod_logs.logs(api, job, role, tail=tail):
        any_line = True
        yield line
    if not any_line:
        if state_of(job).name in ("Queued", "Pending", "Starting"):
            raise InputError(f"{run}: no {role} pod has said anything yet ({state_of(job)}); `ofa events {run}` may say why")
        url, run_id = kuberay.results_of(job)
        yield from log_in_store(store or url, run_id, role, tail)


def followed_logs(
    api: Api,
    run: str,
    role: Role,
    tail: int,
    store: str | None,
    note: Callable[[str], None],
    outage: Callable[[Outage], None],
) -> Iterator[str]:
    """The lines of all pods of a role until the run has ended; what the last one did not show of it, from the store."""
    following = pod_logs.Following(api, run, role, tail=tail, outages=Outages(outage), note=note)
    try:
        yield from following.lines()
    except NotThere:
        if store is None:
            kuberay.find(api, run)
            raise
        yield from log_in_store(store, run, role, tail)
        return
    shown = following.shown
    if following.whole or (shown and role != "submitter") or following.job is None:
        return
    url, run_id = kuberay.results_of(following.job)
    place = store or url
    try:
        log = within(STORE_S, lambda: list(log_in_store(place, run_id, role, 0 if shown else tail)))
    except (InputError, StepError) as error:
        if not shown:
            raise
        note(f"the last pod was gone before its log was read to the end, and its store cannot be read from here: {error}")
        return
    yield from pod_logs.rest_of(log, shown)


def log_in_store(store: str, run_id: str, role: Role, tail: int) -> Iterator[str]:
    """The driver's log of the last attempt; logs of other pods do not outlive the pods."""
    if role == "worker":
        raise InputError(f"{run_id}: its worker pods are gone, and their logs with them; the driver's: `ofa logs {run_id}`")
    opened, last = open_store(store), None
    for number in attempts(opened, run_id):
        if f"{run_id}/{driver_log(number)}" in opened.keys(f"{run_id}/logs/"):
            last = number
    if last is None:
        raise InputError(f"{store}: no log of {run_id} is there; its driver never began, `ofa events {run_id}` may say why")
    lines = opened.read(f"{run_id}/{driver_log(last)}").decode().splitlines()
    yield from lines[-tail:] if tail else lines


def events(api: Api, run: str) -> list[Row]:
    """The events of a run's objects, oldest first."""
    return [
        {
            "time": observe.event_time(event),
            "type": event.get("type", ""),
            "reason": event.get("reason", ""),
            "object": f"{event['involvedObject'].get('kind', '')}/{event['involvedObject'].get('name', '')}",
            "message": " ".join(str(event.get("message", "")).split()),
        }
        for event in observe.events(api, kuberay.find(api, run))
    ]


def scale(
    api: Api,
    run: str,
    *,
    group: str | None = None,
    least: int | None = None,
    most: int | None = None,
    evaluations: int | None = None,
    store: str | None = None,
) -> Row:
    """Changes a worker group and the search's number of evaluators, or the search's budget."""
    if group is None and least is None and most is None and evaluations is None:
        raise InputError("ofa scale: give --group with --min or --max, or --evaluations")
    if (group is None) != (least is None and most is None):
        raise InputError("ofa scale: --group goes with --min, --max or both")
    job = kuberay.find(api, run)
    url, run_id = kuberay.results_of(job)
    if state_of(job).ended:
        raise InputError(f"{run}: is {state_of(job)}, there is nothing to scale")
    found: Row = {"run": job["metadata"]["name"]}
    if store is not None:
        must_exist(store)
    there = Run.at(store or url, run_id, code="")  # a store that cannot be written to is said before anything changes
    evaluators = gpus = None
    if group is not None:
        scaled = kuberay.scale(api, job, group, least, most)
        found |= {name: getattr(scaled, name) for name in type(scaled).__slots__}
        if group == "search":
            evaluators, gpus = scaled.cpus, scaled.gpus or None
    if evaluators or evaluations:
        asked = scaling.override(there, evaluators=evaluators, evaluations=evaluations, gpus=gpus)
        found |= {"evaluators": asked.evaluators, "evaluations": asked.evaluations}
    return found


def cancel(api: Api, run: str, *, now: bool = False) -> str:
    """Stops a run and returns how; its results are kept."""
    return kuberay.cancel(api, kuberay.find(api, run), now=now)


def pause(api: Api, run: str) -> str:
    """Releases a run's cluster and returns a line that says so."""
    job = kuberay.find(api, run)
    kuberay.pause(api, job)
    return f"{job['metadata']['name']}: pausing, its cluster goes; `ofa resume {job['metadata']['name']}` goes on"


def resume(api: Api, run: str) -> str:
    """Gives a paused run a new cluster and returns a line that says so."""
    job = kuberay.find(api, run)
    kuberay.resume(api, job)
    return f"{job['metadata']['name']}: goes on from its store on a new cluster"


def retry(api: Api, run: str) -> str:
    """Submits an ended run again and returns a line with the number of the submission."""
    made = kuberay.retry(api, kuberay.find(api, run))
    number = made["metadata"]["annotations"][SUBMISSION]
    return f"{made['metadata']['name']}: submitted again (number {number}), goes on from its store"
