"""Reads config files: TOML to frozen dataclasses, and back with every default written out.

The fields of the dataclasses are the only settings; an error is one line with the file, the section, what was found and
what is allowed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from cluster.errors import InputError
from cluster.reading import parse_toml, read_text, shortened
from cluster.texts import numbers

T = TypeVar("T")

_DEEPEST = 10  # most sections in each other
_EXPECTED = "a config file, such as configs/digits.toml"
# each config dataclass carries it as __pydantic_config__
STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

MOST = 2**31 - 1  # the largest number of things that a setting may ask for
Count = Annotated[int, Field(ge=1, le=MOST)]
NotNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
NotNegative = Annotated[float, Field(ge=0, le=1e18)]


class ConfigError(InputError):
    """A config file or setting that cannot be used."""


def one_of(module: str, dictionary: str) -> AfterValidator:
    """A check that a text is a key of that module's dictionary; the module is imported when a config is read.

    algorithm: Annotated[str, one_of("ensemble.select", "ALGORITHMS")]
    """

    def check(name: str) -> str:
        known = getattr(import_module(module), dictionary)
        if name not in known:
            raise ValueError(f"there are {', '.join(known)}")  # pydantic reports it as an invalid value
        return name

    return AfterValidator(check)


def follows(rule: Callable[[str], str | None]) -> AfterValidator:
    """A check that a text follows a rule, which returns what is expected of a text that does not."""

    def check(text: str) -> str:
        if (expected := rule(text)) is not None:
            raise ValueError(expected)
        return text

    return AfterValidator(check)


def load(path: str, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """The config at `path` with `section.key=value` overrides applied; raises a `ConfigError` if it cannot be used."""
    try:
        doc = parse_toml(read_text(path, _EXPECTED), shortened(path), _EXPECTED)
    except InputError as error:
        raise ConfigError(str(error)) from None
    names = [override.partition("=")[0].strip() for override in overrides]
    if (twice := next((name for i, name in enumerate(names) if name in names[:i]), None)) is not None:
        raise ConfigError(f"--set {twice}: is given twice; give it once")
    for override in overrides:
        _override(doc, override)
    return parse(doc, kind, path, overrides)


def parse(doc: Mapping[str, Any], kind: type[T], where: str, overrides: Sequence[str] = ()) -> T:
    """`doc` as the dataclass `kind`; raises a `ConfigError` that names its origin `where`, or the invalid override.

    A number that is not finite, or beyond 64 bits, is an error wherever it is.
    """

    def origin(path: str) -> str:
        wrong = next((o for o in overrides if f"{path}.".startswith(o.partition("=")[0].strip() + ".")), None)
        return f"--set {_short(wrong)}" if wrong else where

    unusable = next(_unusable(doc), None)
    if unusable is not None:
        raise ConfigError(
            f"{origin(unusable[0])}: {unusable[0]} is {unusable[1]}; expected a finite number of at most 64 bits"
        )
    try:
        found = TypeAdapter(kind).validate_python(doc)
    except ValidationError as error:
        path = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(_explained(error, kind, origin(path))) from None
    for place, given in _numbers_from_booleans(doc, found):
        path = ".".join(place)
        raise ConfigError(f"{origin(path)}: {path} is {str(given).lower()}; expected a number")
    return found


def _numbers_from_booleans(doc: Any, found: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The place and the value of every boolean of a document that became a number; pydantic takes true as 1."""
    if isinstance(doc, bool):
        if isinstance(found, int | float) and not isinstance(found, bool):
            yield place, doc
    elif isinstance(doc, Mapping):
        for name, value in doc.items():
            inner = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
            yield from _numbers_from_booleans(value, inner, (*place, name))
    elif isinstance(doc, list) and isinstance(found, list | tuple):
        for number, (value, inner) in enumerate(zip(doc, found, strict=False)):
            yield from _numbers_from_booleans(value, inner, (*place, str(number)))


def _unusable(doc: Any) -> Iterator[tuple[str, str]]:
    """The (place, value) of every number of a document that no setting can have."""
    for path, value in numbers(doc):
        place = ".".join(map(str, path))
        if isinstance(value, float) and not math.isfinite(value):
            yield place, str(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield place, f"a number of {value.bit_length()} bits"


def _short(text: str) -> str:
    """`text`, or its beginning."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def dump(config: Any) -> str:
    """The config as TOML, with every setting."""
    return tomli_w.dumps(asdict(config))


def _override(doc: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {override}: expected section.key=value, such as search.evaluations=100")
    *sections, key = name.strip().split(".")
    if len(sections) > _DEEPEST:
        raise ConfigError(f"--set {shortened(override)}: no setting is in {len(sections)} sections")
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    for section in sections:
        doc = doc.setdefault(section, {})
        if not isinstance(doc, dict):
            raise ConfigError(f"--set {override}: {section} is a setting, not a section")
    doc[key] = value


def _explained(error: ValidationError, kind: type, where: str) -> str:
    """The first mistake in one line."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    section, name = ".".join(path[:-1]), path[-1] if path else ""
    prefix = f"{where}: {section}: " if section else f"{where}: "
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{prefix}no setting {name!r}; here you may set {', '.join(_settings(kind, path[:-1]))}"
    if first["type"] == "missing" and name.isdigit():  # a list that is too short
        return f"{prefix}has {name} values; give one more"
    if first["type"] == "missing":
        return f"{prefix}{name} is missing; here you may set {', '.join(_settings(kind, path[:-1]))}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not path:
        return f"{where}: {message}"
    scalar = (str, int, float, bool)
    given = first["input"]
    plain = isinstance(given, scalar) or (isinstance(given, list) and all(isinstance(value, scalar) for value in given))
    found = given if plain else type(given).__name__
    return f"{prefix}{name} is {_short(repr(found))}; {message[0].lower()}{message[1:]}"


def _settings(kind: type, path: Sequence[str]) -> list[str]:
    """Names of the settings of the section at `path` of the dataclass `kind`."""
    here: Any = kind
    named = False
    for part in path:
        if part.isdigit() or named:  # an entry of a list, or of a table, of sections
            named = False
            continue
        hint = get_type_hints(here)[part]
        named = get_origin(hint) is dict
        here = next((arg for arg in (hint, *get_args(hint)) if is_dataclass(arg)), None)
        assert here is not None, f"{part} of {kind} is not a section"
    return [field.name for field in fields(here)]
