"""Records as text: readable JSON, JSON lines, and the description of the machine."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cluster.errors import StepError


def sha256(data: bytes) -> str:
    """The sha256 of `data` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def json_text(
    doc: Any,
    where: str = "",
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """JSON in one line, or with `indent` in several; a number that JSON cannot hold (NaN, infinity) is a `StepError`.

    where: the file that is written, for the error. default: makes JSON values of other types.
    """
    try:
        return json.dumps(doc, indent=indent, sort_keys=sort_keys, default=default, allow_nan=False)
    except ValueError:
        found = next(
            ((path, value) for path, value in numbers(doc) if isinstance(value, float) and not math.isfinite(value)), None
        )
        if found is None:
            raise
        path = "".join(f"[{step}]" if isinstance(step, int) else f": {step}" for step in found[0])
        place = (where + path).removeprefix(": ") or "a result"
        raise StepError(
            f"{place} is {found[1]}, which JSON cannot hold, so it is not written; look for the step that computed it: "
            "a training whose loss was not finite, or a damaged input"
        ) from None


def numbers(doc: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], float]]:
    """Every number of a document with its place: the keys and indices that lead to it."""
    if isinstance(doc, float | int):
        yield path, doc
    elif isinstance(doc, Mapping):
        for key, value in doc.items():
            yield from numbers(value, (*path, str(key)))
    elif isinstance(doc, list | tuple):
        for index, value in enumerate(doc):
            yield from numbers(value, (*path, index))


def json_lines(doc: Any, where: str = "") -> str:
    """Readable JSON: every value that fits in one line is written in one line; errors as in `json_text`."""
    json_text(doc, where)
    return _json_lines(doc, "") + "\n"


def one_line(text: str, most: int) -> str:
    """`text` as one line of a message: without its middle if it is longer than `most`, control characters as escapes."""
    text = text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _json_lines(doc: Any, indent: str) -> str:
    flat = json_text(doc)
    if len(flat) + len(indent) <= 160 or not isinstance(doc, dict | list) or not doc:
        return flat
    deeper = indent + " "
    if isinstance(doc, dict):
        parts = [f"{deeper}{json_text(key)}: {_json_lines(value, deeper)}" for key, value in doc.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if all(isinstance(item, int | float) for item in doc):
        return flat
    return "[\n" + ",\n".join(deeper + _json_lines(item, deeper) for item in doc) + f"\n{indent}]"


def jsonl(rows: Sequence[Any]) -> bytes:
    """JSON lines: one document in each line; errors as in `json_text`."""
    return "".join(json_text(row) + "\n" for row in rows).encode()


def machine() -> str:
    """The description of the machine, for records and for the device of a latency."""
    return f"{platform.system()} {platform.machine()}, {_processor()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{len(names)} x {names[0]}"
    except (OSError, IndexError):
        return platform.processor() or "unknown processor"
