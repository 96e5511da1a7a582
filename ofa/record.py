"""The record of a measurement: its quantities with their units, and the split and device that it was made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ofa.arch import Arch, ArchError


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
        names = {field.name for field in fields(cls)}
        unknown, missing = set(doc) - names, {"arch", "top1", "macs", "params"} - set(doc)
        if unknown or missing:
            raise ArchError(f"measured: unknown {sorted(unknown)}, missing {sorted(missing)}; known are {sorted(names)}")
        named = {}
        for field, of in (("latencies_ms", "device and milliseconds"), ("extra", "name and number")):
            numbers = doc.get(field, {})
            if not isinstance(numbers, Mapping):
                raise ArchError(f"measured: {field} is {numbers!r}; expected an object of {of}")
            named[field] = tuple(numbers.items())
        return cls(**{**doc, "arch": Arch.from_json(doc["arch"]), **named})


NUMBERS = ("top1", "macs", "params", "latency_ms", "latency_spread_ms")  # fields of `Measured` that are numbers
