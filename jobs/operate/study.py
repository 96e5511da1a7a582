"""The measured search of a run as an Optuna study in a file, for optuna-dashboard and Optuna's own plots.

    ofa results study digits-1a2b3c4d --out study.db

A trial is a sub-network that `ofa measure` or `ofa search` evaluated: its genes are parameters, the objectives are values,
and the rest of its record is in user attributes. `study.best_trials` is the run's front.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config import parse
from cluster.reading import parse_json
from cluster.run import CONFIG, DONE, DamagedObject, File, Run
from jobs import files
from jobs.config import Experiment
from jobs.operate.places import new_file, unwritable
from ofa.arch import ArchError
from ofa.record import Measured
from ofa.space import Space
from search.errors import ProblemError
from search.islands.parameters import Parameters, constraints_of
from search.islands.stored import STORAGES, Evaluated, write
from search.objective import values


def write_study(run: Run, out: str) -> int:
    """Writes the study of a run's measured search, named like the run, to a new file; returns its number of trials.

    out: a path that ends with .db (SQLite) or .log (Optuna's journal). Nothing has that name before the file is complete.
    Raises an `InputError` for a path that cannot be written, and where the run has no search.
    """
    place = new_file("--out", out, [*STORAGES], "a name that ends with .db (SQLite) or .log (Optuna's journal)")
    config = parse(run.config(), Experiment, f"{run.url}/{CONFIG}")
    about = {"run": run.url, "space": config.space, "algorithm": config.search.algorithm}
    trials = list(_trials(run, config))
    try:
        write(place, run.id, config.objectives, trials, about)
    except OSError as error:
        raise unwritable("--out", out, error) from None
    return len(trials)


def _trials(run: Run, config: Experiment) -> Iterator[Evaluated]:
    """Every sub-network that was evaluated, in order; a `DamagedObject` for records that are none of this run."""
    space: Space = config.search_space
    parameters = Parameters(space)
    for file in (files.MEASURED, files.SEARCHED):
        for where, measured in _records(run, file):
            if (objection := space.objection(measured.arch)) is not None:
                raise _damaged(file, f"{where}: {objection}")
            [packed] = parameters.genes.pack_all(parameters.genes.encode([measured.arch]))
            try:
                [row] = values(config.objectives, [measured]).tolist()
            except ProblemError as error:
                raise _damaged(file, f"{where}: {error}") from None
            doc = {name: value for name, value in measured.to_json().items() if name != "arch"}
            attributes = {"key": measured.arch.key, "step": file.step, **doc}
            yield parameters.trial(packed, tuple(row), constraints_of(config.objectives, row), attributes)


def _records(run: Run, file: File) -> Iterator[tuple[str, Measured]]:
    """The records of a file of JSON lines, each with its place."""
    data = run.read(file)
    for i, line in enumerate(data.decode(errors="replace").splitlines()):
        where = f"{run.url}/{file.key}, line {i + 1}"
        try:
            yield where, Measured.from_json(parse_json(line, where, "a measurement"))
        except ArchError as error:
            raise _damaged(file, f"{where}: {error}") from None


def _damaged(file: File, what: str) -> DamagedObject:
    return DamagedObject(f"{what}; delete {file.step}{DONE} there and run the same command again")
