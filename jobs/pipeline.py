"""The steps of a run in their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any

from cluster.errors import InputError
from cluster.progress import LOG
from ensemble.document import Ensembles, ScoredSubset
from jobs import files
from jobs.job import Job

# The module and function of each step; imported when the step runs, since some imports take seconds.
STEPS = {
    "train": ("jobs.train", "train_supernet"),
    "adapt": ("jobs.adapt", "adapt"),
    "measure": ("jobs.measure", "measure"),
    "fit": ("jobs.fit", "fit_predictors"),
    "search": ("jobs.search", "search"),
    "validate": ("jobs.validate", "validate"),
    "predict": ("jobs.predict", "predict"),
    "ensemble": ("jobs.ensemble", "ensemble"),
    "report": ("jobs.report", "report"),
    "export": ("jobs.export", "export"),
}
FIRST = next(iter(STEPS))  # the step that begins a run


def wanted_steps(until: str | None = None, only: str | None = None) -> list[str]:
    """All steps, all up to `until`, or `only` one; raises an `InputError` for an unknown name."""
    if until is not None and only is not None:
        raise InputError(f"--until {until} and --only {only} exclude each other; give one of them")
    for name in (until, only):
        if name is not None and name not in STEPS:
            raise InputError(f"no step is called {name!r}; there are {', '.join(STEPS)}")
    names = list(STEPS)
    return [only] if only else names[: names.index(until) + 1] if until else names


def run_steps(job: Job, names: Sequence[str]) -> None:
    """Runs those of the steps that are not done yet; a run without iterations of an adaptation leaves that step out."""
    for name in names:
        if name == "adapt" and not job.config.adapt.iterations:
            if len(names) == 1:
                raise InputError("adapt.iterations is 0, so the supernet is not adapted; set it, for example to 30")
            continue
        LOG.step = name
        if job.run.finished(name):
            job.run.sweep(name)
            job.reporter.say(f"{name}: finished before, nothing to do", step=name)
            continue
        job.run.check_free()
        job.reporter.event("started", step=name)
        module, function = STEPS[name]
        do: Callable[[Job], None] = getattr(import_module(module), function)
        do(job)
        job.reporter.event("finished", step=name)
    LOG.step = ""


def result(job: Job) -> dict[str, Any]:
    """The summary of a run's results, once its ensembles are chosen."""
    ensembles = Ensembles.from_bytes(job.run.read(files.ENSEMBLES), files.ENSEMBLES.key)
    members = json.loads(job.run.read(files.FRONT))["members"]
    single, best = max(ensembles.singles, key=attrgetter("top1")), ensembles.best
    macs = [member["macs"] for member in members]
    return {
        "run": job.run.id,
        "url": job.run.url,
        "front": len(members),
        "macs_span": max(macs) / min(macs),
        "unit": ensembles.unit,
        "single": _scores(single),
        "ensemble": {"members": list(best.members), **_scores(best)},
    }


def _scores(subset: ScoredSubset) -> dict[str, Any]:
    return {
        "top1": subset.top1,
        "test_top1": subset.test_top1,
        "test_interval": list(subset.test_interval),
        "cost": subset.cost,
    }
