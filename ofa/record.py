"""The record of a measurement: its quantities with their units, and the split and device that it was made on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ofa.arch import Arch, ArchError
from ofa.checks import number, shown, whole


@dataclass(frozen=True, slots=True)
class Measured:
    """One observation of one sub-network.

    `top1` is a fraction of the images of `split`; `macs` and `params` are exact counts; `latency_ms` is the
    median time of one image on `device`, or None if it was not measured, and `latency_spread_ms` half the
    distance between its quartiles. For several devices, `latencies_ms` has the name and the milliseconds of
    each, and `latency_ms` is that of the first. `extra` holds any further measured quantity by name.
    """

    arch: Arch
    top1: float
    macs: int
    params: int
    latency_ms: float | None = None
    latency_spread_ms: float | None = None
    split: str = ""
    device: str = ""
    latencies_ms: tuple[tuple[str, float], ...] = ()
    extra: tuple[tuple[str, float], ...] = ()

    def value(self, name: str) -> float | None:
        """The number in the field of this name, or in `extra`; None if it was not measured."""
        known: dict[str, float | None] = dict(self.extra)
        return known.get(name, getattr(self, name) if name in NUMBERS else None)

    def to_json(self) -> dict[str, Any]:
        """The record as a flat object; quantities that were not measured are omitted."""
        doc: dict[str, Any] = {"arch": self.arch.to_json()}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value not in (None, "", ()):
                doc[field.name] = dict(value) if isinstance(value, tuple) else value
        return doc

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Measured:
        """The record that `to_json` wrote; anything else is an `ArchError`."""
        if not isinstance(doc, Mapping):
            raise ArchError(f"measured: found {shown(doc)}; expected an object with arch, top1, macs and params")
        names = {field.name for field in fields(cls)}
        unknown, missing = set(doc) - names, {"arch", "top1", "macs", "params"} - set(doc)
        if unknown or missing:
            raise ArchError(
                f"measured: unknown {shown(sorted(map(str, unknown)))}, missing {sorted(missing)}; known are {sorted(names)}"
            )
        return cls(Arch.from_json(doc["arch"]), **{name: _read(name, doc[name]) for name in names & set(doc) - {"arch"}})


NUMBERS = ("top1", "macs", "params", "latency_ms", "latency_spread_ms")  # fields of `Measured` that are numbers


def _read(name: str, value: Any) -> Any:
    """The value of a field of a record in JSON; any that it cannot have is an `ArchError`."""
    found: Any
    if name in ("latencies_ms", "extra"):
        if not isinstance(value, Mapping):
            of = "device and milliseconds" if name == "latencies_ms" else "name and number"
            raise ArchError(f"measured: {name} is {shown(value)}; expected an object of {of}")
        if name == "extra" and (own := [key for key in value if key in NUMBERS]):
            raise ArchError(f"measured: extra has {own[0]!r}, which is a field of the record")
        return tuple((key, _number(f"{name} of {shown(key)}", one, name)) for key, one in value.items())
    if name in ("split", "device"):
        found, expected = value if isinstance(value, str) else None, "a text"
    elif name in ("macs", "params"):
        found, expected = whole(value, 0), "a whole number that is not negative"
    elif name == "top1":
        found, expected = number(value, most=1), "a fraction, at most 1"
    else:
        return None if value is None else _number(name, value, name)
    if found is None:
        raise ArchError(f"measured: {name} is {shown(value)}; expected {expected}")
    return found


def _number(place: str, value: Any, field: str) -> float:
    if number(value, -math.inf if field == "extra" else 0) is None:
        kind = "a finite number" if field == "extra" else "milliseconds, not negative"
        raise ArchError(f"measured: {place} is {shown(value)}; expected {kind}")
    found: float = value
    return found
