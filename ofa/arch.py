"""The definition of a sub-network, and its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ofa.checks import number, shown, whole
from ofa.layout import FORESTS, Forest, Slot, forest
from ofa.layout import ArchError as ArchError

SCALARS = ("resolution", "exit")  # the fields of an arch that hold one value, not one an entry


@dataclass(frozen=True, slots=True)
class Arch:
    """One sub-network: a value, not a network, and canonical by construction.

    `depth` (blocks) has one entry for each stage; `kernel` (pixels), `expand` (ratio) and `level` (the branches of a
    parallel block that are used, as bits) have one entry for each block slot; `exit` counts the stages before the exit,
    from 1. Genes that do not matter (`ofa.layout`), such as those of slots past their stage's depth, are set to 0 here, so
    two equal networks are equal values. `resolution` is in pixels. Archs of ResNet-50D have no kernels, but `width`: the
    index of a width multiplier of the space, for the stem's two widths and for each stage; archs of a space of several
    networks have one `width`, the network's index. Archs of NAS-Bench-Macro have no kernels either: their expand ratios
    determine them. A field that a space does not have is empty or 0.
    """

    resolution: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    width: tuple[int, ...] = ()
    level: tuple[int, ...] = ()
    exit: int = 0

    def __post_init__(self) -> None:
        if self.depth and divmod(len(self.kernel), len(self.depth)) >= (2, 1) and len(self.kernel) % len(self.depth) == 1:
            object.__setattr__(self, "depth", (*self.depth, 1))  # released ProxylessNAS configs leave out their last stage
        here, values = self.forest, self.values
        matters = here.active(values)
        for gene, value, bound, used in zip(here.genes, values, here.bounds, matters, strict=True):
            if used and bound is not None and not bound[0] <= value <= bound[1]:
                scalar = gene.field in SCALARS
                found, entry = (value, "") if scalar else (list(getattr(self, gene.field)), f"entry {gene.place} ")
                raise ArchError(f"arch: {gene.field} is {found}; {entry}may be {bound[0]} to {bound[1]} here")
        canonical = collected(here, [value if used else 0 for value, used in zip(values, matters, strict=True)])
        for name, found in (NOTHING | canonical).items():
            object.__setattr__(self, name, found)

    @property
    def forest(self) -> Forest:
        """The genes of archs with as many entries in each field."""
        held = ((name, getattr(self, name)) for name in FIELDS)
        return forest({name: 1 if name in SCALARS else len(value) for name, value in held if value})

    @property
    def values(self) -> list[Any]:
        """The value of each gene."""
        found: list[Any] = []
        for name in self.forest.fields:
            held = getattr(self, name)
            found += [held] if name in SCALARS else held
        return found

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The block slots, used or not."""
        return self.forest.slots

    @property
    def key(self) -> str:
        """The arch's one name in files, tables and logs: `r32-d23-k3500.3570-e4600.3460`, with dots between stages.

        Expand ratios below 1 are written in hundredths, with commas between them: `r224-d20112-e20,35,...-w021120`.
        """
        here, words = self.forest, [f"r{self.resolution}"]
        for name, letter in LETTERS.items():
            values = getattr(self, name)
            if values:
                starts = here.starts if name in here.slotted else ()
                words.append(f"{letter}{values}" if name in SCALARS else letter + _word(values, starts))
        return "-".join(words)

    def to_json(self) -> dict[str, Any]:
        """The arch as `{"resolution": 32, "depth": [...], "kernel": [...], "expand": [...]}`, with the keys it has."""
        found: dict[str, Any] = {"resolution": self.resolution}
        for name in FIELDS:
            value = getattr(self, name)
            if value:
                found[name] = value if name in SCALARS else list(value)
        return found

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Arch:
        """The arch that `to_json` wrote; a missing or unknown entry, or a value that no arch has, is an `ArchError`."""
        if not isinstance(doc, Mapping):
            raise ArchError(f"arch: found {shown(doc)}; expected an object with resolution, depth, kernel, expand")
        if "resolution" not in doc or frozenset(doc) - {"resolution"} not in FORESTS:
            raise ArchError(
                f"arch: found {shown(sorted(map(str, doc)))}; "
                "expected exactly resolution, depth, kernel, expand, or width or nothing for kernel; "
                "level, exit if there are any"
            )
        return cls._of({name: value if name in SCALARS else _listed(name, value) for name, value in doc.items()})

    @classmethod
    def _of(cls, named: Mapping[str, Any]) -> Arch:
        """The arch of these fields; a value that no arch has, or of a branch that is not used, is an `ArchError`."""
        given = {name: _checked(name, value) for name, value in named.items()}
        arch = cls(**NOTHING | given)
        for gene in arch.forest.masked:
            value, parent = given[gene.field][gene.place], arch.values[gene.parent]
            if value and parent and not gene.wanted(parent):
                above = arch.forest.genes[gene.parent].field
                raise ArchError(
                    f"arch: {gene.field} of slot {gene.place} is {value:g}, but its {above} {parent:g} has no such branch; "
                    f"expected 0, or a {above} with the bit {gene.mask}"
                )
        return arch

    @classmethod
    def from_key(cls, key: str) -> Arch:
        """The arch that has this key; any other text is an `ArchError`."""
        try:
            parts = key.split("-")
            words = {word[0]: word[1:] for word in parts}
            named = {name: words.pop(letter) for name, letter in LETTERS.items() if letter in words}
            if [*words] != ["r"] or len(parts) != 1 + len(named) or frozenset(named) not in FORESTS:
                raise ValueError(key)
            values = {"resolution": int(words["r"])} | {name: _values(name, word) for name, word in named.items()}
        except (ValueError, IndexError):
            raise ArchError(
                f"{shown(key)} is not the name of an arch; one looks like r32-d23-k3500.3570-e4600.3460"
            ) from None
        return cls._of(values)


def collected(here: Forest, values: Sequence[Any]) -> dict[str, Any]:
    """The fields of an arch from the value of each gene."""
    return {name: values[where.start] if name in SCALARS else tuple(values[where]) for name, where in here.fields.items()}


FIELDS = tuple(field.name for field in fields(Arch) if field.name != "resolution")
NOTHING: dict[str, Any] = {name: 0 if name in SCALARS else () for name in FIELDS}  # the arch with no entry in any field
_DIGITS: dict[float, str] = {value: str(value) for value in range(10)}
LETTERS = {"depth": "d", "kernel": "k", "expand": "e", "width": "w", "level": "l", "exit": "x"}  # in keys


def _word(values: Sequence[float], starts: Sequence[int]) -> str:
    """Values as a word of a key; whole ones as digits, with dots before the places where further stages start."""
    digits = [_DIGITS.get(value, "") for value in values]
    if "" in digits:
        assert any(value != int(value) for value in values), values
        return ",".join(str(round(value * 100)) for value in values)
    return ".".join("".join(digits[start:end]) for start, end in zip((0, *starts), (*starts, len(digits)), strict=True))


def _values(name: str, word: str) -> Any:
    """The values that a word of a key encodes."""
    if name in SCALARS:
        return int(word)
    if "," in word:
        return tuple(int(value) / 100 for value in word.split(","))
    return tuple(int(digit) for digit in word.replace(".", ""))


MOST = {"resolution": 2**16}  # the greatest value of a field's entries; a digit of the key for the others
_ENTRIES = 1000  # most entries of a field


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > _ENTRIES:
        found = f"a list of {len(value)}" if isinstance(value, list | tuple) else shown(value)
        raise ArchError(f"arch: {name} is {found}; expected a list of numbers, one for each stage or slot")
    return tuple(value)


def _checked(name: str, value: Any) -> Any:
    """The value of a field: whole numbers, but for expand ratios; any other value is an `ArchError`."""
    least, most = int(name in SCALARS), MOST.get(name, 9)
    entries = value if isinstance(value, tuple) else (value,)
    if not all(type(entry) is int and least <= entry <= most for entry in entries):  # the usual case is fast
        entries = tuple(_entry(name, i, entry, least, most) for i, entry in enumerate(entries))
    return entries if isinstance(value, tuple) else entries[0]


def _entry(name: str, place: int, value: Any, least: int, most: int) -> float:
    found: float | None = whole(value, least, most)
    if found is None and name == "expand":
        found = number(value, least, most)
    if found is None:
        where = name if name in SCALARS else f"entry {place} of {name}"
        kind = "number" if name == "expand" else "whole number"
        raise ArchError(f"arch: {where} is {shown(value)}; expected a {kind} from {least} to {most}")
    return found
