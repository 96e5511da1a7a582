"""Bottleneck blocks of ResNet-D."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.graph import Cost, strided
from ofa.parts.conv import conv_cost


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A ResNet-D block: 1x1 to `mid` channels, 3x3, 1x1; with `projects` the shortcut is averaged and projected."""

    in_channels: int
    mid: int
    out_channels: int
    stride: int
    projects: bool

    def cost(self, size: int) -> Cost:
        before, after = size * size, strided(size, self.stride) ** 2
        total = conv_cost(self.in_channels, self.mid, pixels=before)
        total += conv_cost(self.mid, self.mid, kernel=3, pixels=after)
        total += conv_cost(self.mid, self.out_channels, pixels=after)
        return total + conv_cost(self.in_channels, self.out_channels, pixels=after) if self.projects else total
