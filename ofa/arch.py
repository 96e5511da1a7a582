"""What a sub-network is, and its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ArchError(ValueError):
    """Something that does not describe a sub-network; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Arch:
    """One sub-network: a value, not a network, and canonical by construction.

    `depth` (blocks) holds one entry a stage; `kernel` (pixels) and `expand` (ratio) hold one entry a
    block slot, the same number of slots in every stage. Entries of slots past their stage's depth
    are set to 0 here, so two equal networks are equal values. `resolution` is in pixels.
    """

    resolution: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]

    def __post_init__(self) -> None:
        depth, stages = tuple(self.depth), len(self.depth)
        if not stages or len(self.kernel) % stages or len(self.kernel) != len(self.expand):
            raise ArchError(
                f"arch: depth has {stages} stages, kernel {len(self.kernel)} slots and expand {len(self.expand)}; "
                "kernel and expand list every slot, the same number for each stage"
            )
        slots = len(self.kernel) // stages
        if any(not 0 < d <= slots for d in depth):
            raise ArchError(f"arch: depth is {list(depth)}; every stage has 1 to {slots} blocks here")
        used = [slot < d for d in depth for slot in range(slots)]
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "kernel", tuple(k if u else 0 for k, u in zip(self.kernel, used, strict=True)))
        object.__setattr__(self, "expand", tuple(e if u else 0 for e, u in zip(self.expand, used, strict=True)))

    @property
    def slots(self) -> int:
        """Block slots of one stage, used or not."""
        return len(self.kernel) // len(self.depth)

    @property
    def key(self) -> str:
        """Its one name in files, tables and logs: `r32-d23-k3500.3570-e4600.3460`, stages set apart by dots."""
        return f"r{self.resolution}-d{_word(self.depth)}-k{self._stages(self.kernel)}-e{self._stages(self.expand)}"

    def _stages(self, values: Sequence[float]) -> str:
        return ".".join(_word(values[i : i + self.slots]) for i in range(0, len(values), self.slots))

    def to_json(self) -> dict[str, Any]:
        """The arch as `{"resolution": 32, "depth": [...], "kernel": [...], "expand": [...]}`."""
        return {
            "resolution": self.resolution,
            "depth": list(self.depth),
            "kernel": list(self.kernel),
            "expand": list(self.expand),
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Arch:
        """The arch that `to_json` wrote; a missing, unknown or non-numeric entry is an `ArchError`."""
        if not isinstance(doc, Mapping):
            raise ArchError(f"arch: found {doc!r}; expected an object with resolution, depth, kernel, expand")
        if set(doc) != set(cls.__slots__):
            raise ArchError(f"arch: found {sorted(doc)}; expected exactly {', '.join(cls.__slots__)}")
        lists = [doc[name] for name in ("depth", "kernel", "expand")]
        if not isinstance(doc["resolution"], int) or not all(
            isinstance(values, list) and all(isinstance(v, int | float) for v in values) for values in lists
        ):
            raise ArchError("arch: resolution must be a whole number, and depth, kernel and expand lists of numbers")
        return cls(doc["resolution"], *(tuple(values) for values in lists))

    @classmethod
    def from_key(cls, key: str) -> Arch:
        """The arch that `key` names."""
        try:
            resolution, depth, kernel, expand = key.split("-")
            words = [resolution[1:], *(part[1:].replace(".", "") for part in (depth, kernel, expand))]
            if [part[0] for part in (resolution, depth, kernel, expand)] != ["r", "d", "k", "e"]:
                raise ValueError(key)
            return cls(int(words[0]), *(tuple(int(c) for c in word) for word in words[1:]))
        except (ValueError, IndexError) as error:
            if isinstance(error, ArchError):
                raise
            raise ArchError(f"{key!r} is not the name of an arch; one looks like r32-d23-k3500.3570-e4600.3460") from None


def _word(values: Sequence[float]) -> str:
    assert all(v == int(v) and 0 <= v <= 9 for v in values), values
    return "".join(str(int(v)) for v in values)
