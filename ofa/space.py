"""What a search space is: the values each choice may take, and the network that they shape."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ofa.arch import Arch, ArchError

Activation = Literal["relu", "h_swish"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of blocks at one size; the first block applies the stride and changes the width."""

    width: int
    stride: int
    act: Activation
    se: bool


@dataclass(frozen=True, slots=True)
class Space:
    """A MobileNetV3-style elastic space (Once-for-All, arXiv:1908.09791, sec. 3.2).

    Every block slot chooses its kernel size and expansion, every stage its depth, the network its
    resolution (pixels). A stem convolution and one fixed block come before the stages, and an
    expanding convolution, pooling, a mixing layer and the classifier after them; widths are channels.
    """

    name: str
    resolutions: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    stages: tuple[Stage, ...]
    slots: int
    stem_width: int
    stem_stride: int
    final_width: int
    feature_width: int
    divisor: int = 8  # widened channels are rounded to a multiple of it

    def __post_init__(self) -> None:
        assert max(self.depths) <= self.slots, self
        for choices in (self.resolutions, self.depths, self.kernels, self.expands):
            assert choices and list(choices) == sorted(set(choices)), f"choices must ascend: {choices}"

    @property
    def size(self) -> int:
        """The number of distinct sub-networks, exactly."""
        per_block = len(self.kernels) * len(self.expands)
        return len(self.resolutions) * sum(per_block**depth for depth in self.depths) ** len(self.stages)

    def uniform(self, resolution: int, depth: int, kernel: int, expand: int) -> Arch:
        """The arch with the same value everywhere."""
        blocks = len(self.stages) * self.slots
        return Arch(resolution, (depth,) * len(self.stages), (kernel,) * blocks, (expand,) * blocks)

    def largest(self) -> Arch:
        return self.uniform(self.resolutions[-1], self.depths[-1], self.kernels[-1], self.expands[-1])

    def smallest(self) -> Arch:
        return self.uniform(self.resolutions[0], self.depths[0], self.kernels[0], self.expands[0])

    def sample(self, rng: random.Random) -> Arch:
        """An arch with every choice drawn uniformly."""
        blocks = len(self.stages) * self.slots
        return Arch(
            rng.choice(self.resolutions),
            tuple(rng.choice(self.depths) for _ in self.stages),
            tuple(rng.choice(self.kernels) for _ in range(blocks)),
            tuple(rng.choice(self.expands) for _ in range(blocks)),
        )

    def contains(self, arch: Arch) -> bool:
        return self.objection(arch) is None

    def objection(self, arch: Arch) -> str | None:
        """Why `arch` is not in this space, or None."""
        if arch.resolution not in self.resolutions:
            return f"resolution is {arch.resolution}, may be {_listed(self.resolutions)}"
        return self.shape_objection(arch) or next(
            (
                f"{name} of {where} is {value:g}, may be {_listed(choices)}"
                for name, values, choices in (
                    ("depth", arch.depth, self.depths),
                    ("kernel", arch.kernel, self.kernels),
                    ("expand", arch.expand, self.expands),
                )
                for where, value in self._entries(name, values)
                if value not in choices and (name == "depth" or value != 0)
            ),
            None,
        )

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
        expands: Sequence[int] | None = None,
    ) -> Space:
        """The same network with fewer choices; a value that this space lacks is an `ArchError`."""
        wanted = {"resolutions": resolutions, "depths": depths, "kernels": kernels, "expands": expands}
        smaller = {name: tuple(sorted(set(values))) for name, values in wanted.items() if values is not None}
        for name, values in smaller.items():
            here = getattr(self, name)
            if not values or not set(values) <= set(here):
                raise ArchError(f"space {self.name}: {name} {list(values)} are not among {_listed(here)}")
        return replace(
            self,
            resolutions=smaller.get("resolutions", self.resolutions),
            depths=smaller.get("depths", self.depths),
            kernels=smaller.get("kernels", self.kernels),
            expands=smaller.get("expands", self.expands),
        )

    def shape_objection(self, arch: Arch) -> str | None:
        """Why `arch` has the wrong number of stages or slots for this space, or None."""
        if (len(arch.depth), arch.slots) != (len(self.stages), self.slots):
            return f"it has {len(arch.depth)} stages of {arch.slots} slots, the space {len(self.stages)} of {self.slots}"
        return None

    def _entries(self, name: str, values: Sequence[float]) -> list[tuple[str, float]]:
        if name == "depth":
            return [(f"stage {i}", value) for i, value in enumerate(values)]
        return [(f"stage {i // self.slots} slot {i % self.slots}", value) for i, value in enumerate(values)]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
