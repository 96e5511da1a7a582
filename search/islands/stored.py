"""Optuna studies in files that did not exist before."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from search.islands.island import quiet_study
from search.objective import Objective

Evaluated = FrozenTrial  # a trial that is finished


def _sqlite(place: Path) -> BaseStorage:
    def connect() -> sqlite3.Connection:
        opened = sqlite3.connect(place, check_same_thread=False)
        opened.execute("PRAGMA synchronous = OFF")  # the file gets its name when it is complete
        opened.execute("PRAGMA journal_mode = MEMORY")
        return opened

    return RDBStorage(f"sqlite:///{place.name}", engine_kwargs={"creator": connect})


def _journal(place: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(place)))


STORAGES = {".db": _sqlite, ".log": _journal}  # by the end of the file's name


def write(
    place: Path, name: str, objectives: Sequence[Objective], trials: Sequence[Evaluated], about: Mapping[str, str]
) -> None:
    """Writes a study of finished trials to a file, whose name ends with one of `STORAGES`, when it is complete.

    about: the study's user attributes. Raises an `OSError` for a file that cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the names of the values
        part = Path(folder, place.name)
        try:
            storage = STORAGES[place.suffix](part)
            study = quiet_study([o.direction for o in objectives], RandomSampler(seed=0), storage, name)
            study.set_metric_names([o.name for o in objectives])
            for attribute, value in about.items():
                study.set_user_attr(attribute, value)
            study.add_trials(trials)
            storage.remove_session()
        except Exception as error:  # the layers above SQLite wrap its errors in their own, such as that of a full disk
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, sqlite3.Error):
                cause = cause.__cause__
            if cause is None:
                raise
            raise OSError(errno.EIO, str(cause)) from None
        os.replace(part, place)
