"""Documents of a run: frozen dataclasses that are written as JSON and read back with every value checked.

The JSON of a document has the names of its fields, in their order; `json_name` gives a field another name. A field whose
default is None or () is omitted while it has that value.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from ofa.arch import Arch, ArchError
from ofa.checks import number, shown


class DocumentError(ValueError):
    """A document that is damaged or of another kind; the message is one line: where, what was found, what was expected."""


def json_name(name: str) -> dict[str, str]:
    """The metadata of a field that is called `name` in JSON."""
    return {"json": name}


class Document:
    """The base class of documents: subclasses are frozen dataclasses of numbers, strings, tuples, `Arch`s and documents."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The document as a dictionary for JSON."""
        doc = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not (_is_optional(field) and value == field.default):
                doc[_name(field)] = _plain(value)
        return doc

    @classmethod
    def from_json(cls, doc: Any, where: str) -> Self:
        """The document that `to_json` wrote; any other value is a `DocumentError` that begins with `where`."""
        found: Self = _parsed(cls, doc, where)
        return found

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """The document in the content of a JSON file; errors are those of `from_json`."""
        try:
            doc = json.loads(data)
        except (ValueError, RecursionError) as error:  # of the parser, or not UTF-8
            raise DocumentError(f"{where}: is not JSON: {error}") from None
        return cls.from_json(doc, where)


def _name(field: Field[Any]) -> str:
    name: str = field.metadata.get("json", field.name)
    return name


def _is_optional(field: Field[Any]) -> bool:
    return field.default is None or field.default == ()


def _plain(value: Any) -> Any:
    if isinstance(value, Document | Arch):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _parsed(kind: Any, value: Any, where: str) -> Any:
    """`value` converted to the type `kind`."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [arg for arg in get_args(kind) if arg is not type(None)]
        if kinds[1:]:  # of several plain types
            _must(type(value) in kinds, where, value, "a number, a text, or true or false")
            return value
        [kind] = kinds
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value, where)
    if get_origin(kind) is dict:
        _must(isinstance(value, dict), where, value, "an object")
        return {key: _parsed(get_args(kind)[1], item, f"{where}: {key}") for key, item in value.items()}
    if kind is Arch:
        _must(isinstance(value, dict), where, value, "an architecture")
        try:
            return Arch.from_json(value)
        except ArchError as error:
            raise DocumentError(f"{where}: {error}") from None
    if issubclass(kind, Document):
        return _document(kind, value, where)
    names = {float: "a number", int: "a whole number", str: "a text"}
    known = number(value) is not None if kind is float else isinstance(value, kind) and not isinstance(value, bool)
    _must(known, where, value, names[kind])
    return kind(value)


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _must(isinstance(value, list), where, value, "a list")
    if kinds[1:] == (...,):
        return tuple(_parsed(kinds[0], item, f"{where}: {index}") for index, item in enumerate(value))
    _must(len(value) == len(kinds), where, value, f"a list of {len(kinds)}")
    return tuple(_parsed(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _document(kind: Any, value: Any, where: str) -> Any:
    known = {_name(field): field for field in fields(kind)}
    _must(isinstance(value, Mapping), where, value, f"an object with {', '.join(known)}")
    required = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    unknown, missing = sorted(set(value) - set(known)), [name for name in known if name in required - set(value)]
    if unknown or missing:
        what = f"has no {missing[0]!r}" if missing else f"has an unknown {unknown[0]!r}"
        raise DocumentError(f"{where}: {what}; expected {', '.join(known)}")
    hints = _hints(kind)
    return kind(**{
        known[name].name: _parsed(hints[known[name].name], item, f"{where}: {name}") for name, item in value.items()
    })  # fmt: skip


def _must(holds: bool, where: str, found: Any, expected: str) -> None:
    if not holds:
        text = shown(found) if isinstance(found, str | int | float | bool | None) else f"a {type(found).__name__}"
        raise DocumentError(f"{where}: is {text}; expected {expected}")
