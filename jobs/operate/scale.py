"""Changes the number of workers or the evaluation budget of a running search.

    ofa scale RUN --group search --min 2 --max 8
    ofa scale RUN --evaluations 1000

The first changes the group in the run's RayCluster, and in its RayJob for later clusters, and sets the search's evaluators
to the CPUs that it then has, or to fewer that fit its GPUs; the second sets the search's budget. Both are written to the
run's `partial/scale.json`, which the search reads every few seconds.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace

from cluster.errors import InputError
from cluster.run import Run
from cluster.runtime.machine import actors_on
from cluster.stores.errors import MissingObject
from cluster.texts import json_text
from jobs import files


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values that replace `ray.evaluators` and `search.evaluations`; None keeps the setting.

    gpus: that evaluators may use together; None is any number.
    """

    evaluators: int | None = None
    evaluations: int | None = None
    gpus: int | None = None

    def evaluators_on(self, share: float) -> int | None:
        """The number of evaluators with `share` of a GPU each, or so many GPUs each; at least 1. None keeps the setting."""
        if self.evaluators is None or self.gpus is None or not share:
            return self.evaluators
        return max(1, min(self.evaluators, actors_on(self.gpus, share)))


class Scale:
    """The overrides of a run, read from its store at most every `interval_s` seconds."""

    interval_s = 3.0

    def __init__(self, run: Run) -> None:
        self.run, self.read_at, self.latest = run, -self.interval_s, Overrides()

    def overrides(self) -> Overrides:
        """The latest overrides that were read."""
        if time.monotonic() - self.read_at >= self.interval_s:
            self.read_at, self.latest = time.monotonic(), read(self.run)
        return self.latest


def read(run: Run) -> Overrides:
    """The overrides of a run now; an `InputError` if `partial/scale.json` cannot be used."""
    try:
        doc = json.loads(run.raw(files.SCALE))
    except MissingObject:
        return Overrides()
    except (ValueError, RecursionError):
        doc = None
    names = Overrides.__dataclass_fields__
    if not isinstance(doc, dict) or not all(
        key in names and (value is None or (type(value) is int and value >= (key != "gpus"))) for key, value in doc.items()
    ):
        raise InputError(
            f'{run.url}/{files.SCALE}: is not like {{"evaluators": 8, "evaluations": 500}}; write that, or delete it'
        )
    return Overrides(**doc)


def override(
    run: Run, *, evaluators: int | None = None, evaluations: int | None = None, gpus: int | None = None
) -> Overrides:
    """Sets the number of evaluators, evaluations or GPUs of a run's search; None stays as it is. Returns all overrides."""
    given = Overrides(evaluators, evaluations, gpus)
    after = replace(read(run), **{name: value for name, value in asdict(given).items() if value is not None})
    doc = {key: value for key, value in asdict(after).items() if value is not None}
    run.store.write(f"{run.id}/{files.SCALE}", json_text(doc).encode())
    return after
