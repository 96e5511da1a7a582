"""Reads the files that a user names: bytes, and text, JSON, JSON lines, TOML or YAML with every fault named in one line."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from cluster.errors import InputError
from cluster.texts import one_line

# UTF-32's marks come before UTF-16's, which are their beginnings.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SHOWN = 240  # most characters of a path or a value in a message
_SURROGATE = re.compile(r"\\[uU][dD][89a-fA-F]")
_DEEPEST = 500  # levels of a YAML document; the parser's own stack ends at some thousands


def shortened(text: str) -> str:
    """`text` for a message: one line, without its middle if it is long."""
    return one_line(text, _SHOWN)


def existing_file(path: str, expected: str) -> Path:
    """The file at a path; raises an `InputError` for one that is missing or no file, or that does not fit into memory.

    expected: what the file should be, for messages, such as "a config file".
    """
    where = shortened(path)
    if not path.strip():
        raise InputError(f"the path is {path!r}; give the path of {expected}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise InputError(f"{where}: is an address; give the path of {expected} on this machine")
    try:
        place = Path(os.path.expanduser(path))
        status = place.stat()
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}; give the path of {expected}") from None
    except ValueError as error:  # of a path with a null character
        raise InputError(f"{where}: {error}; give the path of {expected}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{where}: is a directory; give the path of {expected}")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise InputError(f"{where}: is a device or a socket; give the path of {expected}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if status.st_size > memory:
        raise InputError(
            f"{where}: has {status.st_size / 2**30:.1f} GiB, this machine {memory / 2**30:.1f} GiB of memory; "
            f"give {expected} that fits"
        )
    return place


def read_bytes(path: str, expected: str) -> bytes:
    """The content of a file; errors are those of `existing_file`, and of a file that cannot be read."""
    place = existing_file(path, expected)
    try:
        return place.read_bytes()
    except OSError as error:
        raise InputError(f"{shortened(path)}: {error.strerror}; give the path of {expected}") from None
    except MemoryError:
        raise InputError(f"{shortened(path)}: does not fit into memory; give {expected} that fits") from None


def decoded(data: bytes, where: str, expected: str) -> str:
    """The text of a file in UTF-8, or in the encoding of its byte order mark; its lines end in a line feed.

    Raises an `InputError` that begins with `where` for bytes that are no text.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, len(mark) + error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x} in line {line} is not {encoding.upper()}"
        if b"\0" in data[:4096] and not mark:
            found = "is a binary file"
        raise InputError(f"{where}: {found}; give {expected}, saved as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{where}: is a binary file, or UTF-16 without a byte order mark; give {expected}, saved as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str, expected: str) -> str:
    """The text of a file; errors are those of `read_bytes` and `decoded`."""
    return decoded(read_bytes(path, expected), shortened(path), expected)


def parse_json(text: str, where: str, expected: str) -> Any:
    """The document of a JSON text; raises an `InputError` that begins with `where` for any other text.

    A key that stands twice in an object, NaN, Infinity and numbers beyond the range of floats are refused.
    """
    _not_empty(text, where, expected)
    try:
        doc = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(doc, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{where} is not JSON: {error.msg}: {at}; give {expected}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where} is not JSON: it has half of a surrogate pair; give {expected}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; give {expected}") from None
    except _Refused as error:
        raise InputError(f"{where} is not JSON: {error}; give {expected}") from None
    except ValueError:  # Python converts whole numbers up to this length
        raise InputError(f"{where}: has a number of thousands of digits; give {expected}") from None
    return doc


def read_json(path: str, expected: str) -> Any:
    """The document of a JSON file; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path, expected), shortened(path), expected)


def read_json_lines(path: str, expected: str) -> list[Any]:
    """The documents of a file with one in each line; blank ones are skipped. Errors: see `read_json`."""
    lines = read_text(path, expected).split("\n")
    return [
        parse_json(line, f"{shortened(path)}: line {i}", expected) for i, line in enumerate(lines, start=1) if line.strip()
    ]


def parse_toml(text: str, where: str, expected: str) -> dict[str, Any]:
    """The document of a TOML text; raises an `InputError` that begins with `where` for any other text."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; give {expected}") from None
    except ValueError as error:  # also of numbers and dates that Python does not have
        raise InputError(f"{where}: is not TOML: {shortened(str(error))}; give {expected}") from None


def read_json_or_yaml(path: str, expected: str) -> Any:
    """The document of a JSON or YAML file; errors are those of `read_text`, `parse_json` and the YAML parser."""
    return parse_json_or_yaml(read_text(path, expected), shortened(path), expected)


def parse_json_or_yaml(text: str, where: str, expected: str) -> Any:
    """The document of a JSON or YAML text; errors are those of `parse_json` and the YAML parser."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return parse_json(text, where, expected)
        except InputError as error:
            if not isinstance(error.__context__, json.JSONDecodeError):
                raise  # JSON's syntax, with a value that it cannot have
            reason = error
        try:
            return _parse_yaml(text, where, expected)  # in braces too
        except InputError:
            raise reason from None
    return _parse_yaml(text, where, expected)


def _parse_yaml(text: str, where: str, expected: str) -> Any:
    import yaml

    _not_empty(text, where, expected)
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]
        """Refuses a key that stands twice in a mapping."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(keys) != len(set(keys)):
                raise _Refused(_twice(keys))
            return super().construct_mapping(node, deep=deep)

    try:
        _shallow(text)
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        reason = shortened(str(error).splitlines()[0])
        raise InputError(f"{where}: is neither JSON nor YAML: {reason}; give {expected}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; give {expected}") from None
    except (ValueError, OverflowError, TypeError) as error:  # of numbers, dates and keys that Python does not have
        raise InputError(f"{where}: is not YAML: {shortened(str(error))}; give {expected}") from None


def _shallow(text: str) -> None:
    """Raises a `RecursionError` for a text with more brackets in each other than YAML's parser has stack for."""
    depth = 0
    for bracket in re.finditer(r"[\[{\]}]", text):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > _DEEPEST:
            raise RecursionError


def _not_empty(text: str, where: str, expected: str) -> None:
    if not text.strip():
        raise InputError(f"{where}: is empty; give {expected}")


class _Refused(ValueError):
    """A value that a document cannot have."""


def _twice(keys: list[str]) -> str:
    key = next(key for i, key in enumerate(keys) if key in keys[:i])
    return f"the key {shortened(key)!r} stands twice in one object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused(_twice([key for key, _ in pairs]))
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise _Refused(f"{shortened(text)} is beyond the range of numbers")
    return value
