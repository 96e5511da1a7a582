"""The published integer vectors of NAT (arXiv:2005.05859) and NATv2 (arXiv:2307.00960), to and from our archs.

Their 22 variables are the index of the resolution, the index of the width multiplier, and one code for each of 20 layers. A
space with exits has the index of the exit as the third variable. In a space of one width multiplier, of which there is one
for each supernet, the multiplier's index is given and returned beside the arch; in a space of several (`ofa.spaces.widths`)
it is the gene `width`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa.arch import NOTHING, Arch, ArchError
from ofa.checks import shown, whole
from ofa.space import Space

_NEEDED, _ALLOWED = {"resolution", "depth", "kernel", "expand"}, {"level", "exit", "width"}


class Encoding:
    """The vectors of one space, in which they are unique: equal networks have equal vectors.

    The code of a layer (a block slot) is 0 if the layer is skipped, else 1 plus the place of its block in the order of level
    (fewest branches first), expand ratio and kernel size: 9 codes, or 63 with parallel blocks. Only layers beyond the least
    depth of their stage may be skipped, the last ones first.

    The released code fills skipped layers with random blocks when it decodes, and keeps any code in stages past the exit and
    any kernel and expand ratio in a block without its elastic branch. Here a skipped layer has no block, and what does not
    matter is encoded by its least code.

    widths: the number of width multipliers, where the space has one.
    """

    def __init__(self, space: Space, widths: int = 2) -> None:
        fields = set(space.forest.fields)
        if not _NEEDED <= fields <= _NEEDED | _ALLOWED:
            raise ArchError(
                f"space {space.name}: it chooses {', '.join(space.forest.fields)}; NAT's vectors are for spaces of "
                "resolution, depth, kernel, expand, with level, exit and width or without"
            )
        self.space = space
        levels = sorted(map(int, space.values("level")), key=lambda level: (level.bit_count(), level)) or [0]
        expands, kernels = space.values("expand"), space.values("kernel")
        self._blocks = [(level, expand, kernel) for level in levels for expand in expands for kernel in kernels]
        first = space.forest.fields["depth"].start
        depths = [space.choices[first + slot.stage] for slot in space.slots]
        layers = list(zip(space.slots, depths, strict=True))
        exits = [len(space.values("exit"))] if "exit" in fields else []
        widths = len(space.values("width")) or widths
        self._head = 2 + len(exits)
        # The least and the greatest value of each variable.
        self.lower = (*(0 for _ in range(self._head)), *(int(slot.position < min(depth)) for slot, depth in layers))
        self.upper = (
            *(count - 1 for count in (len(space.resolutions), widths, *exits)),
            *(len(self._blocks) if slot.position < max(depth) else 0 for slot, depth in layers),
        )

    def encode(self, arch: Arch, width: int = 0) -> tuple[int, ...]:
        """The vector of an arch of the space, with the index of its width multiplier, unless that is a gene."""
        self.space.checked(arch)
        width = self.space.values("width").index(arch.width[0]) if arch.width else width
        head = [self.space.resolutions.index(arch.resolution), width]
        if arch.exit:
            head.append(self.space.values("exit").index(arch.exit))
        levels = arch.level or (0,) * len(arch.kernel)
        codes = [
            self._code(level, expand, kernel) if slot.position < arch.depth[slot.stage] else least
            for slot, level, expand, kernel, least in zip(
                self.space.slots, levels, arch.expand, arch.kernel, self.lower[self._head :], strict=True
            )
        ]
        return self._checked([*head, *codes])

    def decode(self, vector: Sequence[int] | np.ndarray) -> tuple[Arch, int]:
        """The arch of a vector and the index of its width multiplier; a vector of no arch of the space is an `ArchError`."""
        found = self._checked(vector)
        codes = found[self._head :]
        depth = [0] * self.space.stage_count
        for slot, code in zip(self.space.slots, codes, strict=True):
            if code and slot.position != depth[slot.stage]:
                raise ArchError(
                    f"vector: stage {slot.stage} skips slot {depth[slot.stage]} but uses slot {slot.position}; "
                    "a stage skips its last slots"
                )
            depth[slot.stage] += code > 0
        blocks = [self._blocks[code - 1] if code else (0, 0, 0) for code in codes]
        levels, expands, kernels = zip(*blocks, strict=True)
        arch = Arch(**NOTHING | {"resolution": self.space.resolutions[found[0]], "depth": tuple(depth),
                                 "kernel": kernels, "expand": expands,
                                 "level": levels if self.space.values("level") else (),
                                 "width": self.space.values("width")[found[1] : found[1] + 1],
                                 "exit": self.space.values("exit")[found[2]] if self._head > 2 else 0})  # fmt: skip
        return self.space.checked(arch), found[1]

    def to_text(self, vector: Sequence[int] | np.ndarray) -> str:
        """The vector as digits, each variable with as many as its greatest value, such as 08011001440551052208877."""
        found = zip(self._checked(vector), self.upper, strict=True)
        return "".join(f"{value:0{len(str(most))}d}" for value, most in found)

    def from_text(self, text: str) -> tuple[int, ...]:
        """The vector that `to_text` wrote; any other text is an `ArchError`."""
        digits = [len(str(most)) for most in self.upper]
        if not (text.isascii() and text.isdigit() and len(text) == sum(digits)):
            raise ArchError(f"vector: found {shown(text)}; expected {sum(digits)} digits in the space {self.space.name}")
        ends = [sum(digits[: i + 1]) for i in range(len(digits))]
        return self._checked([int(text[end - count : end]) for end, count in zip(ends, digits, strict=True)])

    def _code(self, level: int, expand: float, kernel: int) -> int:
        """The code of a block; a block without its elastic branch has the least expand ratio and kernel size."""
        _, least_expand, least_kernel = self._blocks[0]
        return 1 + self._blocks.index((level, expand or least_expand, kernel or least_kernel))

    def _checked(self, vector: Sequence[int] | np.ndarray) -> tuple[int, ...]:
        """The vector, if it has as many variables as the space and each is within its bounds."""
        if len(vector) != len(self.upper):
            exits = "exit, " if self._head > 2 else ""
            raise ArchError(
                f"vector: found {len(vector)} variables; the space {self.space.name} has {len(self.upper)}: "
                f"resolution, width, {exits}and {len(self.space.slots)} layers"
            )
        values = vector.tolist() if isinstance(vector, np.ndarray) else vector
        found = []
        for i, (value, least, most) in enumerate(zip(values, self.lower, self.upper, strict=True)):
            number = whole(value, least, most)
            if number is None:
                raise ArchError(f"vector: {self._place(i)} is {shown(value)}; it may be {least} to {most}")
            found.append(number)
        return tuple(found)

    def _place(self, variable: int) -> str:
        """The name of a variable in error messages."""
        if variable < self._head:
            return f"variable {variable} ({('resolution', 'width', 'exit')[variable]})"
        slot = self.space.slots[variable - self._head]
        return f"variable {variable} (stage {slot.stage} slot {slot.position})"
