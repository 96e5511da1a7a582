"""A search space: the values that each choice may take, and the network that the choices define."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

from ofa.arch import NOTHING, SCALARS, Arch, collected
from ofa.graph import Graph
from ofa.layout import ArchError, Forest, Gene, Slot, forest


@dataclass(frozen=True)
class Space:
    """The values that the choices of a family of networks may take; subclasses define the network.

    A family has a field for each kind of gene: `resolutions` (pixels), and for example `kernels` for the values of
    `Arch.kernel`. It defines the number of genes of each kind (`counts`) and the network (`build_graph`); everything else
    about choices follows from the forest of genes (`ofa.layout`).
    """

    name: str
    resolutions: tuple[int, ...]
    eps = 1e-5  # added to the variance in norms
    classes = 1000  # of the published networks, for which their costs hold

    def __post_init__(self) -> None:
        for field in self.forest.fields:
            choices = self.values(field)
            assert choices and list(choices) == sorted(set(choices)), f"choices must ascend: {field}s {choices}"

    @property
    def counts(self) -> dict[str, int]:
        """The number of entries of each field of an arch, beside the resolution."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """The product of all strides, which is the side in pixels of the smallest image that leaves a whole pixel."""
        raise NotImplementedError

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        """The network of `arch`, with one classifier at its end or at each of `exits`; `graph` caches it."""
        raise NotImplementedError

    def choices_of(self, gene: Gene) -> tuple[float, ...]:
        """The values that one gene may take, if not all values of its kind."""
        return self.values(gene.field)

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """The kernel sizes in pixels that blocks of elastic kernel may have, ascending."""
        return tuple(int(size) for size in self.values("kernel"))

    @property
    def whole(self) -> Arch:
        """The arch that uses all weights, or most of them, even those that no choice left in this space uses."""
        return self.largest()

    @property
    def wholes(self) -> tuple[Arch, ...]:
        """The archs that use all weights together: more than one if there are weights that no network has together."""
        return (self.whole,)

    @cached_property
    def forest(self) -> Forest:
        """The genes of the space's archs."""
        return forest(self.counts)

    @cached_property
    def choices(self) -> tuple[tuple[Any, ...], ...]:
        """The values of every gene."""
        return tuple(self.choices_of(gene) for gene in self.forest.genes)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The block slots."""
        return self.forest.slots

    def values(self, field: str) -> tuple[float, ...]:
        """The values that genes of this kind may take: `kernel`, `expand` and so on; () if there are none of this kind."""
        found: tuple[float, ...] = getattr(self, f"{field}s", ()) if field in self.forest.fields else ()
        return found

    def graph(self, arch: Arch, exits: tuple[int, ...] = (), classes: int = 1000) -> Graph:
        """The network of `arch`, with one classifier at its end or at each of `exits`."""
        return _graph(self, arch, exits, classes)

    @property
    def size(self) -> int:
        """The number of distinct sub-networks, exactly."""
        return self.forest.size(self.choices)

    def arch(self, values: Sequence[float]) -> Arch:
        """The arch whose genes have these values."""
        return Arch(**NOTHING | collected(self.forest, values))

    def uniform(self, *values: float) -> Arch:
        """The arch with one value for each kind of gene (`forest.fields`): each gene takes the nearest of its choices."""
        wanted = dict(zip(self.forest.fields, values, strict=True))
        nearest = {
            (field, choices): min(choices, key=lambda value: abs(value - wanted[field]))
            for field, choices in self._distinct_choices
        }
        return self.arch([nearest[gene.field, here] for gene, here in zip(self.forest.genes, self.choices, strict=True)])

    @cached_property
    def _distinct_choices(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Each field with each tuple of choices that one of its genes has."""
        return list(dict.fromkeys((gene.field, here) for gene, here in zip(self.forest.genes, self.choices, strict=True)))

    def largest(self) -> Arch:
        """The arch with every gene at its last choice."""
        return self.arch([choices[-1] for choices in self.choices])

    def smallest(self) -> Arch:
        """The arch with every gene at its first choice."""
        return self.arch([choices[0] for choices in self.choices])

    def sample(self, rng: random.Random) -> Arch:
        """An arch with every choice sampled uniformly."""
        return self.arch([rng.choice(choices) for choices in self.choices])

    def named(self, name: str) -> Arch:
        """The arch of its key (`Arch.key`), or of a name that only this space has; any other text is an `ArchError`."""
        return Arch.from_key(name)

    def own_name(self, arch: Arch) -> str | None:
        """The name that only this space has for an arch, such as a benchmark's; None if it has none."""
        return None

    def contains(self, arch: Arch) -> bool:
        """Whether every choice of `arch` is one of this space's."""
        return self.objection(arch) is None

    def objection(self, arch: Arch) -> str | None:
        """The reason why `arch` is not in this space, or None."""
        if arch.resolution not in self.resolutions:
            return f"resolution is {arch.resolution}, may be {_listed(self.resolutions)}"
        if (objection := self.shape_objection(arch)) is not None:
            return objection
        here, values = self.forest, arch.values
        matters = here.active(values)
        for i in sorted(range(len(values)), key=lambda gene: gene in here.slot_of):  # whole stages before single blocks
            if matters[i] and values[i] not in self.choices[i]:
                return f"{self._place(i)} is {values[i]:g}, may be {_listed(self.choices[i])}"
        return None

    def shape_objection(self, arch: Arch) -> str | None:
        """The reason why `arch` has other genes than this space, for any values, or None."""
        if self.forest is arch.forest:
            return None
        return f"it has {_shape(arch.forest)}, the space {_shape(self.forest)}"

    def _place(self, gene: int) -> str:
        """The name of a gene in error messages."""
        here = self.forest
        field, place = here.genes[gene].field, here.genes[gene].place
        if field in SCALARS:
            return field
        if gene in here.slot_of:
            slot = self.slots[here.slot_of[gene]]
            return f"{field} of stage {slot.stage} slot {slot.position}"
        entries = here.fields[field].stop - here.fields[field].start
        return f"{field} of {'stage' if entries == self.stage_count else 'entry'} {place}"

    def checked(self, arch: Arch) -> Arch:
        """`arch` itself; an arch that is not in this space is an `ArchError` with the reason."""
        objection = self.objection(arch)
        if objection is not None:
            raise ArchError(f"{arch.key} is not in the space {self.name}: {objection}")
        return arch

    @property
    def choice_names(self) -> tuple[str, ...]:
        """The keywords of `only`: the plural of every kind of gene."""
        return tuple(f"{field}s" for field in self.forest.fields)

    def only(self, **choices: Sequence[float] | None) -> Self:
        """The same network with fewer choices, such as `kernels=(3, 5)`; None leaves the choices of a kind as they are.

        A value that this space lacks, and a kind of gene that it does not have, are an `ArchError`.
        """
        smaller: dict[str, Any] = {}
        for name, values in choices.items():
            if values is None:
                continue
            if name not in self.choice_names:
                raise ArchError(f"space {self.name}: no choices {name!r}; it has {', '.join(self.choice_names)}")
            here = getattr(self, name)
            if not values or not set(values) <= set(here):
                raise ArchError(f"space {self.name}: {name} [{_listed(values)}] are not among {_listed(here)}")
            smaller[name] = tuple(value for value in here if value in values)
        return replace(self, **smaller)

    def at(self, resolutions: Sequence[int]) -> Self:
        """The same network for images of other sizes in pixels; one too small for the strides is an `ArchError`."""
        wanted = tuple(sorted(set(resolutions)))
        if not wanted or wanted[0] < self.stride:
            found = f"resolution {wanted[0]} is" if wanted else "no resolution is"
            raise ArchError(f"space {self.name}: {found} given; its strides divide by {self.stride}, use at least that")
        return replace(self, resolutions=wanted)

    @property
    def stage_count(self) -> int:
        """The number of stages of the block slots."""
        return self.slots[-1].stage + 1 if self.slots else 0


@lru_cache(maxsize=1024)
def _graph(space: Space, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
    return space.build_graph(arch, exits, classes)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _shape(here: Forest) -> str:
    """The number of entries of each field, as text."""
    stages = here.slots[-1].stage + 1 if here.slots else 0
    counts = [sum(slot.stage == stage for slot in here.slots) for stage in range(stages)]
    even = f"{stages} stages of {counts[0]} slots" if len(set(counts)) == 1 else f"stages of {_listed(counts)} slots"
    others = [
        f", {where.stop - where.start} {name}{'s' * (where.stop - where.start > 1)}"
        for name, where in here.fields.items()
        if name not in ("resolution", "depth", "kernel", "expand")
    ]
    return even + ("" if "kernel" in here.fields else ", no kernels") + "".join(others)
