"""Records in a store, read with every value checked: of finished steps, and of attempts on clusters.

Keys that are not known here are accepted, since a newer version may write them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

CHECKED = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class RecordError(ValueError):
    """A record that cannot be used; the message is the reason, for the reader to add where it is and what to do."""


def _key(text: str) -> str:
    if not text or text.startswith("/") or "\0" in text or PurePosixPath(text).as_posix() != text or ".." in text.split("/"):
        raise ValueError("expected the key of an object of the run")
    return text


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a time such as 2026-01-31T12:00:00+00:00") from None
    return text


Key = Annotated[str, AfterValidator(_key)]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Time = Annotated[str, AfterValidator(_time)]
NotNegative = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Output:
    """One object that a step wrote: its sha256 and its size."""

    __pydantic_config__: ClassVar[ConfigDict] = CHECKED
    sha256: Digest
    bytes: NotNegative


@dataclass(frozen=True)
class Done:
    """The record of a finished step: inputs (sha256) and outputs by key, and with what code and where it ran."""

    __pydantic_config__: ClassVar[ConfigDict] = CHECKED
    step: str
    code: str
    seed: int
    seconds: Annotated[float, Field(ge=0)]
    machine: str
    finished: Time
    inputs: dict[Key, Digest]
    outputs: dict[Key, Output]


@dataclass(frozen=True)
class Progress:
    """How far the work of a step is: `done` of `total` units (0: unknown)."""

    __pydantic_config__: ClassVar[ConfigDict] = CHECKED
    step: str
    title: str
    done: NotNegative
    total: NotNegative
    unit: str
    note: str


@dataclass(frozen=True)
class Attempt:
    """The record of an attempt; without `ended` and `exit` while its driver runs, and if it was killed.

    machine, pid and started: of a driver outside of clusters, see `cluster.attempts.this_process`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CHECKED
    attempt: Annotated[int, Field(ge=1)]
    began: Time | None = None
    ended: Time | None = None
    exit: int | None = None
    reason: str | None = None  # of an end that is not the run's own: DeadlineExceeded
    message: str | None = None
    host: str | None = None
    machine: str | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    started: NotNegative | None = None
    renewed: Time | None = None
    progress: Progress | None = None  # at the last renewal


_adapter = cache(TypeAdapter)


def document(data: bytes, kind: type) -> dict[str, Any]:
    """The JSON document of a record, once it is a valid `kind`; any other content is a `RecordError`."""
    try:
        doc: dict[str, Any] = json.loads(data)
    except RecursionError:
        raise RecordError("is nested too deeply") from None
    except ValueError:
        raise RecordError("is not JSON, or is cut short" if data.strip() else "is empty") from None
    try:
        _adapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ": ".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise RecordError(f"{path}: {reason[0].lower()}{reason[1:]}" if path else "is no record") from None
    return doc
