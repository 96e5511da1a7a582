"""Records as text: readable JSON, JSON lines, and the description of the machine."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from typing import Any


def sha256(data: bytes) -> str:
    """The sha256 of `data` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def json_lines(doc: Any) -> str:
    """Readable JSON: every value that fits in one line is written in one line."""
    return _json_lines(doc, "") + "\n"


def _json_lines(doc: Any, indent: str) -> str:
    flat = json.dumps(doc)
    if len(flat) + len(indent) <= 160 or not isinstance(doc, dict | list) or not doc:
        return flat
    deeper = indent + " "
    if isinstance(doc, dict):
        parts = [f"{deeper}{json.dumps(key)}: {_json_lines(value, deeper)}" for key, value in doc.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if all(isinstance(item, int | float) for item in doc):
        return flat
    return "[\n" + ",\n".join(deeper + _json_lines(item, deeper) for item in doc) + f"\n{indent}]"


def jsonl(rows: Sequence[Any]) -> bytes:
    """JSON lines: one document in each line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


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
