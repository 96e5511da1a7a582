"""How a run ended according to its store, which knows better than KubeRay: the driver itself writes there.

KubeRay marks a job as failed whose head it could not ask for a while, or whose end it noticed late, although the run has
finished. A run that has finished in its store has succeeded, whatever KubeRay reports.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cluster.attempts import last_on_cluster
from cluster.errors import InputError, StepError
from cluster.kube.runs import results_of
from cluster.kube.state import State
from cluster.run import Run
from jobs import files
from jobs.operate.results import the_run

T = TypeVar("T")

FAILED = ("Failed", "Retrying", "Invalid")  # states of KubeRay that the store may correct
DOUBTED = (*FAILED, "Stopped", "Gone")  # and those that a user may have caused, after the run had finished
STORE_S = 20.0  # for which the store is waited for


def state_in_store(store: str, run_id: str) -> State:
    """How a run ended according to its last driver's record; `Gone` if there is none or the driver was killed."""
    run = the_run(store, run_id)
    if finished(run):
        return State("Succeeded", "", "all its steps have finished")
    last = last_on_cluster(run.store, run.id)
    if last is None:
        return State("Gone", message=f"no attempt on a cluster has left anything in {run.url}")
    number, record = last
    if "exit" not in record:
        return State("Gone", f"attempt {number} left no record of its end", f"began {record.get('began', '')}")
    message = f"attempt {number} ended {record.get('ended', '')}"
    if record["exit"] == 0:
        return State("Succeeded", "", message)
    if record.get("reason"):
        return State("Failed", record["reason"], record.get("message") or message)
    return State("Stopped" if record["exit"] == 130 else "Failed", f"exit {record['exit']}", message)


def finished(run: Run) -> bool:
    """Whether all steps of a run have finished."""
    there = set(run.keys())
    return all(f"{step}.done.json" in there for step in files.STEPS)


def believed(state: State, job: Mapping[str, Any] | None, store: str | None = None) -> tuple[State, str]:
    """The state of a run by KubeRay and its store, and a note: that they differ, or that the store cannot be read.

    store: the URL of the store, if it is another from here than in the RayJob.
    """
    if state.name not in DOUBTED or job is None:
        return state, ""
    try:
        url, run_id = results_of(dict(job))
    except InputError:
        return state, ""
    try:
        done = within(STORE_S, lambda: _end_there(store or url, run_id))
    except (InputError, StepError) as error:
        note = f"its store cannot be read from here, so this is KubeRay's state alone: {error}"
        return state, note if state.name in FAILED else ""
    if done is None:
        return state, ""
    if done.name == "Failed":  # KubeRay may still retry it, on clusters whose drivers end at once
        return done, ""
    return State("Succeeded", "", f"the run has finished in its store; KubeRay reports {state}"), ""


def _end_there(store: str, run_id: str) -> State | None:
    """The end of a run that its store knows for certain: it has finished, or its last driver ended at the deadline."""
    run = Run.at(store, run_id, code="")
    if finished(run):
        return State("Succeeded")
    _, record = last_on_cluster(run.store, run.id) or (0, {})
    if record.get("reason"):
        return State("Failed", record["reason"], record.get("message") or "")
    return State("Succeeded") if record.get("exit") == 0 else None


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; a `StepError` if that takes longer. The work then goes on in its thread."""
    done: list[T] = []
    failed: list[Exception] = []

    def do() -> None:
        try:
            done.append(work())
        except Exception as error:  # raised again below
            failed.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise StepError(f"no answer within {seconds:.0f} s")
    return done[0]
