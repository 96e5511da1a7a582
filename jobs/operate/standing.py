"""The status of a run by its store alone: whether its driver works, which step it is in, and what has finished.

    ofa status digits-1a2b3c4d --store ./runs

For runs of `ofa run` on this machine, or on a Ray cluster that was joined. No two clocks are compared: whether a driver on
another machine lives is known only from its renewals.
"""

from __future__ import annotations

from typing import Any

from cluster.attempts import RENEW_S, attempts, is_local, lives, read_attempt
from cluster.run import Run
from jobs import files
from jobs.operate.outcome import finished
from jobs.operate.results import the_run

RUNNING = "Running"
UNKNOWN = "Unknown"


def found_in(store: str, run_id: str) -> Run | None:
    """The run in a store if its last driver was one outside of Kubernetes, else None.

    Raises an `InputError` if there is no such run, and what the store raises if it cannot be read.
    """
    run = the_run(store, run_id)
    last = max(attempts(run.store, run.id), default=0)
    return run if not last or is_local(read_attempt(run.store, run.id, last)) else None


def status(run: Run) -> dict[str, Any]:
    """The status of a run as a JSON document: its state, driver, finished steps, and the step and progress that it is at."""
    last = max(attempts(run.store, run.id), default=0)
    record = read_attempt(run.store, run.id, last) if last else {}
    done = run.steps()
    step = next((name for name in files.STEPS if name not in done), "")
    state, message = _state(record, finished(run))
    progress = record.get("progress") or {}
    rows = len([key for key in run.keys(f"partial/{step}/") if key.endswith(".jsonl")]) if step else 0
    return {
        "run": run.id,
        "state": state,
        "message": message,
        "attempt": last,
        "steps": [{"step": name, "seconds": row["seconds"], "finished": row["finished"]} for name, row in done.items()],
        "step": step,
        "parts": rows,
        "progress": progress if step and progress.get("step") == step else None,
        "renewed": record.get("renewed"),
        "results": run.url,
    }


def _state(record: dict[str, Any], whole: bool) -> tuple[str, str]:
    """The state of a run and what is known of its driver. whole: all steps have finished."""
    if not record:
        return ("Succeeded", "all its steps have finished") if whole else ("Stopped", "no driver has worked on it")
    who = f"process {record['pid']} on {record.get('host') or 'a host'}, since {record.get('began') or 'an unknown time'}"
    alive = lives(record)
    if alive:
        return RUNNING, who
    if whole:
        return "Succeeded", "all its steps have finished"
    if "ended" in record:
        code, end = record.get("exit"), f"{who}, until {record['ended']}"
        return ("Stopped", end) if code in (0, 130) else ("Failed", f"{end}: exit code {code}")
    if alive is None:
        renewed = f"it renewed its record at {record['renewed']} by its clock" if record.get("renewed") else "no renewal yet"
        return UNKNOWN, f"{who}; {renewed}, which a living driver does every {RENEW_S:.0f} s"
    return "Killed", f"{who}, which has ended without a record; the same command continues"


def lines(found: dict[str, Any]) -> list[str]:
    """A status as text."""
    shown = [f"{found['run']}: {found['state']}", f"  {found['message']}"]
    shown += [f"  {row['step']:10} finished {row['finished']}, {row['seconds']:.0f} s" for row in found["steps"]]
    if found["step"]:
        progress = found["progress"]
        parts = f", {found['parts']} parts of it are stored" if found["parts"] else ""
        shown.append(f"  {found['step']:10} {_progress(progress) if progress else 'no progress known'}{parts}")
    return [*shown, f"  results in {found['results']}"]


def _progress(progress: dict[str, Any]) -> str:
    of_all = f"/{progress['total']}" if progress["total"] else ""
    note = f", {progress['note']}" if progress["note"] else ""
    return f"{progress['title']}: {progress['done']}{of_all} {progress['unit']}{note}"
