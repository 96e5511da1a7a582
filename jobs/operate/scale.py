"""More or fewer workers, or another budget, for a run that is under way.

    ofa scale RUN --group search --min 2 --max 8
    ofa scale RUN --evaluations 1000

The first changes the group in the run's RayCluster and asks its search for as many evaluators as then find a CPU; the
second is the search's budget. What is asked of the search stands in the run, in `partial/scale.json`, which it reads again
every few seconds.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from cluster.errors import InputError
from cluster.run import Run
from cluster.stores.errors import MissingObject
from jobs import files


@dataclass(frozen=True, slots=True)
class Asked:
    """What overrides `ray.evaluators` and `search.evaluations`; None does not."""

    evaluators: int | None = None
    evaluations: int | None = None


class Scale:
    """What is asked of a run, read from its store now and then."""

    look_s = 3.0  # between looks

    def __init__(self, run: Run) -> None:
        self.run, self.looked, self.found = run, -self.look_s, Asked()

    def asked(self) -> Asked:
        if time.monotonic() - self.looked >= self.look_s:
            self.looked, self.found = time.monotonic(), read(self.run)
        return self.found


def read(run: Run) -> Asked:
    """What is asked of a run now."""
    try:
        doc = json.loads(run.raw(files.SCALE))
    except MissingObject:
        return Asked()
    except ValueError:
        doc = None
    names = Asked.__dataclass_fields__
    if not isinstance(doc, dict) or not all(
        key in names and (value is None or (type(value) is int and value >= 1)) for key, value in doc.items()
    ):
        raise InputError(
            f'{run.url}/{files.SCALE}: is not like {{"evaluators": 8, "evaluations": 500}}; write that, or delete it'
        )
    return Asked(**doc)


def ask(run: Run, *, evaluators: int | None = None, evaluations: int | None = None) -> Asked:
    """Asks a run's search for that many evaluators, or evaluations; what is not given stays."""
    before = read(run)
    after = Asked(evaluators or before.evaluators, evaluations or before.evaluations)
    doc = {key: value for key, value in asdict(after).items() if value is not None}
    run.store.write(f"{run.id}/{files.SCALE}", json.dumps(doc).encode())
    return after
