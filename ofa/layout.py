"""The choices that define a network, as a forest of genes; everything about choices follows from this list.

A gene has at most one parent. It matters only if the parent matters and has one of the values that the gene depends on; a
gene that does not matter is 0. Parents come before their children. In a slot, the place for a block, several genes may
choose the block together, such as its kernel size and expand ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from math import prod
from typing import Any

BOTTLENECK_SLOTS = (4, 4, 6, 4)  # slots of ResNet-50D's stages; two of each may be unused
MACRO_SLOTS = (2, 3, 3)  # slots of NAS-Bench-Macro's stages; the first of each is always used
MAIN_BRANCH = 4  # the bit of a level under which a parallel block has its elastic branch (OFAv2, arXiv:2302.01888)


class ArchError(ValueError):
    """A value that does not describe a sub-network; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Gene:
    """Entry `place` of `Arch.<field>`, and the condition under which it matters."""

    field: str
    place: int
    parent: int = -1  # index of the gene that it depends on; -1 for none
    least: float = 0  # the gene matters if the parent's value is at least this
    mask: int = 0  # and has these bits set

    def wanted(self, parent: float) -> bool:
        """Whether the gene matters, given that its parent matters and has this value."""
        return parent >= self.least and (not self.mask or int(parent) & self.mask == self.mask)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place for a block: its position, and the genes that choose the block; the first of them decides if it is used."""

    stage: int
    position: int  # the position within the stage
    genes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the block in graphs and weights."""
        return f"stage{self.stage}_block{self.position}"


def staged(counts: Mapping[str, int]) -> tuple[Gene, ...]:
    """The genes of stages of blocks, whose depth entry counts the blocks: [exit ->] depth -> [level ->] kernel and expand.

    A width chooses one of several networks, on which the other genes do not depend.
    All stages have the same number of slots except the last, which has the remaining ones (ProxylessNAS: 4, 4, 4, 4, 4, 1).
    With exits a stage matters if the exit comes after it; with levels kernel and expand belong to one of the branches.
    """
    depths, blocks = counts["depth"], counts["expand"]
    for field in ("kernel", "level"):
        if counts.get(field, blocks) != blocks:
            raise ArchError(f"arch: {field} has {counts[field]} slots and expand {blocks}; both list every slot")
    most = -(-blocks // depths)
    if not 0 < blocks - most * (depths - 1) <= most:
        raise ArchError(
            f"arch: depth has {depths} stages and kernel and expand have {blocks} slots; "
            "kernel and expand list every slot, the same number for each stage but perhaps the last"
        )
    genes = [Gene("resolution", 0)]
    exits = "exit" in counts
    if exits:
        genes.append(Gene("exit", 0))
    first = len(genes)
    genes += [Gene("depth", stage, parent=1, least=stage + 1) if exits else Gene("depth", stage) for stage in range(depths)]
    slot = [
        (first + i // most, i % most + 1) for i in range(blocks)
    ]  # each slot's depth gene, and the least value under which the slot is used
    if "level" in counts:
        level = len(genes)
        genes += [Gene("level", i, parent, least) for i, (parent, least) in enumerate(slot)]
        branch = [(level + i, 0, MAIN_BRANCH) for i in range(blocks)]
    else:
        branch = [(parent, least, 0) for parent, least in slot]
    for field in ("kernel", "expand"):
        genes += [Gene(field, i, *condition) for i, condition in enumerate(branch)]
    genes += [Gene("width", i) for i in range(counts.get("width", 0))]
    return tuple(genes)


def residual(counts: Mapping[str, int]) -> tuple[Gene, ...]:
    """The genes of ResNet-50D: the first depth entry is the stem's, the others count blocks beyond a stage's fixed ones."""
    depths, blocks = counts["depth"], counts["expand"]
    if (depths, blocks) != (len(BOTTLENECK_SLOTS) + 1, sum(BOTTLENECK_SLOTS)):
        raise ArchError(
            f"arch: depth has {depths} entries and expand {blocks} slots; without kernels it is a ResNet-50D's, "
            f"which has {len(BOTTLENECK_SLOTS) + 1} and {sum(BOTTLENECK_SLOTS)}"
        )
    slots = [(2 + stage, i - (count - 2) + 1) for stage, count in enumerate(BOTTLENECK_SLOTS) for i in range(count)]
    return (
        Gene("resolution", 0),
        *(Gene("depth", entry) for entry in range(depths)),
        *(Gene("expand", i, parent, least) for i, (parent, least) in enumerate(slots)),
        *(Gene("width", i) for i in range(counts["width"])),
    )


def macro(counts: Mapping[str, int]) -> tuple[Gene, ...]:
    """The genes of NAS-Bench-Macro: depth -> expand, where the expand ratio also determines the kernel size."""
    depths, blocks = counts["depth"], counts["expand"]
    if (depths, blocks) != (len(MACRO_SLOTS), sum(MACRO_SLOTS)):
        raise ArchError(
            f"arch: depth has {depths} entries and expand {blocks} slots; without kernels and widths it is one of "
            f"NAS-Bench-Macro, which has {len(MACRO_SLOTS)} and {sum(MACRO_SLOTS)}"
        )
    slots = [(1 + stage, i + 1) for stage, count in enumerate(MACRO_SLOTS) for i in range(count)]
    return (
        Gene("resolution", 0),
        *(Gene("depth", stage) for stage in range(depths)),
        *(Gene("expand", i, parent, least) for i, (parent, least) in enumerate(slots)),
    )


# The constructor of the genes of archs with certain fields (beside the resolution), given each field's number of entries.
FORESTS: dict[frozenset[str], Callable[[Mapping[str, int]], tuple[Gene, ...]]] = {
    **{
        frozenset({"depth", "kernel", "expand", *others}): staged
        for count in range(4)
        for others in combinations(("level", "exit", "width"), count)
    },
    frozenset({"depth", "expand", "width"}): residual,
    frozenset({"depth", "expand"}): macro,
}


class Forest:
    """The genes of archs of one shape; `forest` creates each once, so equal forests are the same object."""

    def __init__(self, counts: tuple[tuple[str, int], ...], genes: tuple[Gene, ...]) -> None:
        self.counts, self.genes = counts, genes
        assert all(gene.parent < i for i, gene in enumerate(genes)), "parents come before their children"

    def __reduce__(self) -> tuple[Any, ...]:
        return _forest, (self.counts,)

    @cached_property
    def fields(self) -> dict[str, slice]:
        """The indices of each field's genes, in the order of the fields."""
        names = [gene.field for gene in self.genes]
        found = {name: slice(names.index(name), names.index(name) + names.count(name)) for name in names}
        assert all(set(names[where]) == {name} for name, where in found.items()), "genes of a field stand together"
        return found

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The block slots, in order.

        A slot starts with genes that have a parent and do not count other genes; genes under a mask belong to their parent's
        slot.
        """
        counters = {gene.parent for gene in self.genes if gene.parent >= 0 and not gene.mask}
        members: dict[tuple[int, int], list[int]] = {}
        home: dict[int, tuple[int, int]] = {}
        for i, gene in enumerate(self.genes):
            if gene.parent >= 0 and i not in counters:
                home[i] = home[gene.parent] if gene.mask and gene.parent in home else (gene.parent, gene.place)
                members.setdefault(home[i], []).append(i)
        found: list[Slot] = []
        stages: list[int] = []
        for parent, place in sorted(members, key=lambda key: (key[1], key[0])):
            if parent not in stages:
                stages.append(parent)
            stage = stages.index(parent)
            found.append(Slot(stage, sum(slot.stage == stage for slot in found), tuple(members[parent, place])))
        return tuple(found)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first slot of each stage but the first."""
        return tuple(i for i, slot in enumerate(self.slots) if slot.stage > 0 and slot.position == 0)

    @cached_property
    def masked(self) -> tuple[Gene, ...]:
        """The genes of branches, which matter under some values of their parent only."""
        return tuple(gene for gene in self.genes if gene.mask)

    @cached_property
    def slot_of(self) -> dict[int, int]:
        """The slot of each gene that belongs to one."""
        return {gene: i for i, slot in enumerate(self.slots) for gene in slot.genes}

    @cached_property
    def slotted(self) -> list[str]:
        """The fields whose genes belong to slots."""
        return [name for name, where in self.fields.items() if where.start in self.slot_of]

    @cached_property
    def linked(self) -> set[str]:
        """The fields with a gene that has a parent or children."""
        parents = {gene.parent for gene in self.genes}
        return {gene.field for i, gene in enumerate(self.genes) if gene.parent >= 0 or i in parents}

    @cached_property
    def bounds(self) -> tuple[tuple[float, float] | None, ...]:
        """The least and the greatest meaningful value of each gene that counts others; None allows any value.

        Of the genes of a field, those that count no others have the bounds of the ones that do.
        """
        own: dict[int, tuple[float, float]] = {}
        for i in range(len(self.genes)):
            least = [gene.least for gene in self.genes if gene.parent == i and not gene.mask]
            if least:
                own[i] = (max(0, min(least)), max(least))
        of_field = {self.genes[i].field: bound for i, bound in own.items()}
        return tuple(own.get(i, of_field.get(gene.field)) for i, gene in enumerate(self.genes))

    def active(self, values: Sequence[float]) -> list[bool]:
        """Whether each gene matters, given the value of each."""
        found: list[bool] = []
        for gene in self.genes:
            found.append(gene.parent < 0 or (found[gene.parent] and gene.wanted(values[gene.parent])))
        return found

    def size(self, choices: Sequence[Sequence[float]]) -> int:
        """The exact number of distinct networks: for each value of a gene, the product over the genes that then matter."""
        children: list[list[int]] = [[] for _ in self.genes]
        count = [0] * len(self.genes)
        total = 1
        for i in reversed(range(len(self.genes))):
            parent = self.genes[i].parent
            for value in choices[i]:
                count[i] += prod(count[child] for child in children[i] if self.genes[child].wanted(value))
            if parent >= 0:
                children[parent].append(i)
            else:
                total *= count[i]
        return total


def forest(counts: Mapping[str, int]) -> Forest:
    """The genes of archs with so many entries in each field; a combination of fields that no space has is an `ArchError`."""
    return _forest(tuple(sorted(counts.items())))


@cache
def _forest(counts: tuple[tuple[str, int], ...]) -> Forest:
    make = FORESTS.get(frozenset(field for field, _ in counts))
    if make is None:
        raise ArchError(
            f"arch: found {sorted(field for field, _ in counts)}; "
            "expected exactly resolution, depth, kernel, expand, or width or nothing for kernel"
        )
    return Forest(counts, make(dict(counts)))
