"""What a sub-network is, and its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

BOTTLENECK_SLOTS = (4, 4, 6, 4)  # of ResNet-50D's stages; two of each may be left out
FIELDS = ("depth", "kernel", "expand", "width")


class ArchError(ValueError):
    """Something that does not describe a sub-network; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a block: it is used by archs whose depth entry `entry` is at least `least`."""

    stage: int
    position: int  # within the stage
    entry: int
    least: int

    @property
    def name(self) -> str:
        """Of the block there, in graphs and weights."""
        return f"stage{self.stage}_block{self.position}"


@cache
def slots(depths: int, blocks: int, *, kernels: bool) -> tuple[Slot, ...]:
    """The slots of archs with so many depth entries and blocks, in their order.

    Archs with kernels have a depth entry a stage, which counts its blocks; all stages have the same number of
    slots but the last, which has what remains (ProxylessNAS: 4, 4, 4, 4, 4, 1). Archs without are ResNet-50D's: the
    first depth entry is the stem's, the others count what a stage has beyond its fixed blocks.
    """
    if not kernels:
        if (depths, blocks) != (len(BOTTLENECK_SLOTS) + 1, sum(BOTTLENECK_SLOTS)):
            raise ArchError(
                f"arch: depth has {depths} entries and expand {blocks} slots; without kernels it is a ResNet-50D's, "
                f"which has {len(BOTTLENECK_SLOTS) + 1} and {sum(BOTTLENECK_SLOTS)}"
            )
        return tuple(
            Slot(stage, i, entry=stage + 1, least=i - (count - 2) + 1)
            for stage, count in enumerate(BOTTLENECK_SLOTS)
            for i in range(count)
        )
    most = -(-blocks // depths) if depths else 0
    if not depths or not 0 < blocks - most * (depths - 1) <= most:
        raise ArchError(
            f"arch: depth has {depths} stages and kernel and expand have {blocks} slots; "
            "kernel and expand list every slot, the same number for each stage but perhaps the last"
        )
    return tuple(Slot(i // most, i % most, entry=i // most, least=i % most + 1) for i in range(blocks))


@dataclass(frozen=True, slots=True)
class Arch:
    """One sub-network: a value, not a network, and canonical by construction.

    `depth` (blocks) holds one entry a stage; `kernel` (pixels) and `expand` (ratio) hold one entry a
    block slot. Entries of slots past their stage's depth are set to 0 here, so two equal networks are equal
    values. `resolution` is in pixels. Archs of ResNet-50D have no kernels, but `width`: for the stem's two
    widths and each stage, which of the space's multipliers it has; see `slots` for their depths.
    """

    resolution: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    width: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.depth and divmod(len(self.kernel), len(self.depth)) >= (2, 1) and len(self.kernel) % len(self.depth) == 1:
            object.__setattr__(self, "depth", (*self.depth, 1))  # released ProxylessNAS configs leave out their last stage
        if self.kernel and len(self.kernel) != len(self.expand):
            raise ArchError(f"arch: kernel has {len(self.kernel)} slots and expand {len(self.expand)}; both list every slot")
        here = self.slots
        for entry, depth in enumerate(self.depth):
            least, most = (1, sum(s.entry == entry for s in here)) if self.kernel else (0, 2)
            if not least <= depth <= most:
                raise ArchError(f"arch: depth is {list(self.depth)}; entry {entry} may be {least} to {most} here")
        used = [self.depth[slot.entry] >= slot.least for slot in here]
        object.__setattr__(self, "depth", tuple(self.depth))
        if self.kernel:
            object.__setattr__(self, "kernel", tuple(k if u else 0 for k, u in zip(self.kernel, used, strict=True)))
        object.__setattr__(self, "expand", tuple(e if u else 0 for e, u in zip(self.expand, used, strict=True)))
        object.__setattr__(self, "width", tuple(self.width))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its places for blocks, used or not."""
        return slots(len(self.depth), len(self.expand), kernels=bool(self.kernel))

    @property
    def key(self) -> str:
        """Its one name in files, tables and logs: `r32-d23-k3500.3570-e4600.3460`, stages set apart by dots.

        Expansions below 1 are named by hundredths, set apart by commas: `r224-d20112-e20,35,...-w021120`.
        """
        words = [f"r{self.resolution}", f"d{_word(self.depth)}"]
        if self.kernel:
            words.append(f"k{self._stages(self.kernel)}")
        words.append(f"e{self._stages(self.expand)}")
        if self.width:
            words.append(f"w{_word(self.width)}")
        return "-".join(words)

    def _stages(self, values: Sequence[float]) -> str:
        if not self.kernel:
            return ",".join(str(round(value * 100)) for value in values)
        last = self.slots[-1].stage
        return ".".join(
            _word([v for v, slot in zip(values, self.slots, strict=True) if slot.stage == stage])
            for stage in range(last + 1)
        )

    def to_json(self) -> dict[str, Any]:
        """The arch as `{"resolution": 32, "depth": [...], "kernel": [...], "expand": [...]}`, with the keys it has."""
        return {"resolution": self.resolution} | {name: list(getattr(self, name)) for name in FIELDS if getattr(self, name)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Arch:
        """The arch that `to_json` wrote; a missing, unknown or non-numeric entry is an `ArchError`."""
        if not isinstance(doc, Mapping):
            raise ArchError(f"arch: found {doc!r}; expected an object with resolution, depth, kernel, expand")
        if set(doc) not in ({"resolution", "depth", "kernel", "expand"}, {"resolution", "depth", "expand", "width"}):
            raise ArchError(
                f"arch: found {sorted(doc)}; expected exactly resolution, depth, kernel, expand, or width for kernel"
            )
        lists = {name: doc.get(name, []) for name in FIELDS}
        if not isinstance(doc["resolution"], int) or not all(
            isinstance(values, list) and all(isinstance(v, int | float) for v in values) for values in lists.values()
        ):
            raise ArchError("arch: resolution must be a whole number, and depth, kernel, expand and width lists of numbers")
        return cls(doc["resolution"], **{name: tuple(values) for name, values in lists.items()})

    @classmethod
    def from_key(cls, key: str) -> Arch:
        """The arch that `key` names."""
        try:
            parts = {part[0]: part[1:] for part in key.split("-")}
            if list(parts) == ["r", "d", "k", "e"]:
                depth, kernel, expand = (tuple(int(c) for c in parts[name].replace(".", "")) for name in "dke")
                return cls(int(parts["r"]), depth, kernel, expand)
            if list(parts) == ["r", "d", "e", "w"]:
                depth, width = (tuple(int(c) for c in parts[name]) for name in "dw")
                return cls(int(parts["r"]), depth, (), tuple(int(e) / 100 for e in parts["e"].split(",")), width)
            raise ValueError(key)
        except (ValueError, IndexError) as error:
            if isinstance(error, ArchError):
                raise
            raise ArchError(f"{key!r} is not the name of an arch; one looks like r32-d23-k3500.3570-e4600.3460") from None


def _word(values: Sequence[float]) -> str:
    assert all(v == int(v) and 0 <= v <= 9 for v in values), values
    return "".join(str(int(v)) for v in values)
