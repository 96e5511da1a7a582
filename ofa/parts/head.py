"""The end of a network: global pooling and a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.graph import Cost


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean of all pixels of each channel."""

    in_channels: int
    stride: int = 0

    def cost(self, size: int) -> Cost:
        return Cost(0, 0)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Logits of `classes` classes from pooled features."""

    in_channels: int
    classes: int
    stride: int = 1

    def cost(self, size: int) -> Cost:
        weights = self.in_channels * self.classes
        return Cost(weights, weights + self.classes)
