"""What a search space is: the values each choice may take, and the network that they shape."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from ofa.arch import Arch, ArchError, Slot
from ofa.graph import Graph


@dataclass(frozen=True)
class Space:
    """Which values the choices of a family of networks may take; its subclasses say which network they shape.

    Every block slot chooses its kernel size (if the family has kernels) and expansion, every stage its depth, the
    network its resolution (pixels) and, if the family has elastic widths, an index into `multipliers` for each.
    """

    name: str
    resolutions: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    eps = 1e-5  # of the norms

    def __post_init__(self) -> None:
        for choices in (self.resolutions, self.depths, self.kernels, self.expands):
            assert list(choices) == sorted(set(choices)), f"choices must ascend: {choices}"

    @property
    def depth_choices(self) -> tuple[tuple[int, ...], ...]:
        """The values of every depth entry of an arch."""
        raise NotImplementedError

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The places for blocks."""
        raise NotImplementedError

    @property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        """The values of every width entry of an arch."""
        return ()

    @property
    def exits(self) -> tuple[int, ...]:
        """The exits that its networks may have, beside the one at the end; () where that is the only one."""
        return ()

    @property
    def whole(self) -> Arch:
        """The arch that uses all weights there are, whatever choices this space has left."""
        return self.largest()

    def values(self, field: str) -> tuple[float, ...]:
        """The values that genes of this kind may take: `kernel`, `expand` and so on; () where it has none."""
        found: tuple[float, ...] = getattr(self, f"{field}s", ())
        return found

    def build_graph(self, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
        """The network of `arch`, with one classifier at its end or at each of `exits`; `graph` remembers it."""
        raise NotImplementedError

    def graph(self, arch: Arch, exits: tuple[int, ...] = (), classes: int = 1000) -> Graph:
        """The network of `arch`, with one classifier at its end or at each of `exits`."""
        return _graph(self, arch, exits, classes)

    @property
    def size(self) -> int:
        """The number of distinct sub-networks, exactly."""
        per_block = max(len(self.kernels), 1) * len(self.expands)
        count = len(self.resolutions)
        for choices in self.width_choices:
            count *= len(choices)
        for entry, choices in enumerate(self.depth_choices):
            here = [slot for slot in self.slots if slot.entry == entry]
            count *= sum(per_block ** sum(depth >= slot.least for slot in here) for depth in choices)
        return count

    def uniform(self, resolution: int, depth: int, kernel: int, expand: float, width: int = 0) -> Arch:
        """The arch with the same value everywhere, each as near as its place allows."""
        count = len(self.slots)
        return Arch(
            resolution,
            tuple(min(choices, key=lambda d: abs(d - depth)) for choices in self.depth_choices),
            (kernel,) * count if self.kernels else (),
            (expand,) * count,
            tuple(min(choices, key=lambda w: abs(w - width)) for choices in self.width_choices),
        )

    def largest(self) -> Arch:
        return self._extreme(-1)

    def smallest(self) -> Arch:
        return self._extreme(0)

    def _extreme(self, end: int) -> Arch:
        kernel = self.kernels[end] if self.kernels else 0
        width = self.width_choices[0][end] if self.width_choices else 0
        return self.uniform(self.resolutions[end], self.depths[end], kernel, self.expands[end], width)

    def sample(self, rng: random.Random) -> Arch:
        """An arch with every choice drawn uniformly."""
        count = len(self.slots)
        return Arch(
            rng.choice(self.resolutions),
            tuple(rng.choice(choices) for choices in self.depth_choices),
            tuple(rng.choice(self.kernels) for _ in range(count)) if self.kernels else (),
            tuple(rng.choice(self.expands) for _ in range(count)),
            tuple(rng.choice(choices) for choices in self.width_choices),
        )

    def contains(self, arch: Arch) -> bool:
        return self.objection(arch) is None

    def objection(self, arch: Arch) -> str | None:
        """Why `arch` is not in this space, or None."""
        if arch.resolution not in self.resolutions:
            return f"resolution is {arch.resolution}, may be {_listed(self.resolutions)}"
        if (objection := self.shape_objection(arch)) is not None:
            return objection
        for name, values, choices in (("depth", arch.depth, self.depth_choices), ("width", arch.width, self.width_choices)):
            for entry, (value, may) in enumerate(zip(values, choices, strict=True)):
                if value not in may:
                    where = f"stage {entry}" if len(values) == self.stage_count else f"entry {entry}"
                    return f"{name} of {where} is {value:g}, may be {_listed(may)}"
        slotted: tuple[tuple[str, Sequence[float], Sequence[float]], ...] = (
            ("kernel", arch.kernel, self.kernels),
            ("expand", arch.expand, self.expands),
        )
        for name, genes, allowed in slotted:
            for slot, gene in zip(self.slots, genes, strict=False):
                if gene not in allowed and arch.depth[slot.entry] >= slot.least:
                    where = f"stage {slot.stage} slot {slot.position}"
                    return f"{name} of {where} is {gene:g}, may be {_listed(allowed)}"
        return None

    def checked(self, arch: Arch) -> Arch:
        """`arch` itself, or an `ArchError` that says why it is not in this space."""
        objection = self.objection(arch)
        if objection is not None:
            raise ArchError(f"{arch.key} is not in the space {self.name}: {objection}")
        return arch

    def only(
        self,
        *,
        resolutions: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        kernels: Sequence[int] | None = None,
        expands: Sequence[float] | None = None,
    ) -> Self:
        """The same network with fewer choices; a value that this space lacks is an `ArchError`."""
        wanted = {"resolutions": resolutions, "depths": depths, "kernels": kernels, "expands": expands}
        smaller = {name: tuple(sorted(set(values))) for name, values in wanted.items() if values is not None}
        for name, values in smaller.items():
            here = getattr(self, name)
            if not values or not set(values) <= set(here):
                raise ArchError(f"space {self.name}: {name} {list(values)} are not among {_listed(here)}")
        return replace(self, **smaller)  # type: ignore[arg-type]

    def at(self, resolutions: Sequence[int]) -> Self:
        """The same network for images of other sizes; one smaller than its strides can take is an `ArchError`."""
        wanted = tuple(sorted(set(resolutions)))
        if not wanted or wanted[0] < self.stride:
            found = f"resolution {wanted[0]} is" if wanted else "no resolution is"
            raise ArchError(f"space {self.name}: {found} given; its strides divide by {self.stride}, use at least that")
        return replace(self, resolutions=wanted)

    @property
    def stride(self) -> int:
        """The product of all strides: the smallest image of which a whole pixel is left."""
        raise NotImplementedError

    @property
    def stage_count(self) -> int:
        return self.slots[-1].stage + 1

    def shape_objection(self, arch: Arch) -> str | None:
        """Why `arch` has the wrong numbers of entries for this space, or None."""
        mine, its = self.slots, arch.slots
        if mine == its and bool(self.kernels) == bool(arch.kernel) and len(arch.width) == len(self.width_choices):
            return None
        return f"it has {_shape(its, arch.kernel, arch.width)}, the space {_shape(mine, self.kernels, self.width_choices)}"


@lru_cache(maxsize=1024)
def _graph(space: Space, arch: Arch, exits: tuple[int, ...], classes: int) -> Graph:
    return space.build_graph(arch, exits, classes)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _shape(places: Sequence[Slot], kernels: Sequence[object], widths: Sequence[object]) -> str:
    stages = places[-1].stage + 1
    counts = [sum(slot.stage == stage for slot in places) for stage in range(stages)]
    even = f"{stages} stages of {counts[0]} slots" if len(set(counts)) == 1 else f"stages of {_listed(counts)} slots"
    return even + ("" if kernels else ", no kernels") + (f", {len(widths)} widths" if widths else "")
