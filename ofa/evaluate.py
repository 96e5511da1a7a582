"""Evaluates a sub-network on held-out images, with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ofa.arch import Arch
from ofa.images import Scale, Split, resize
from ofa.norms import Statistics, calibrate
from ofa.supernet import Supernet

REMEMBERED = 64  # archs whose statistics an evaluator keeps


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates archs of `net`; `calibration` are the training images for batch-norm calibration."""

    net: Supernet
    scale: Scale
    calibration: Split
    batch: int
    _known: dict[Arch, tuple[int, Statistics]] = field(default_factory=dict, repr=False, compare=False)

    def statistics(self, arch: Arch) -> Statistics:
        """The batch-norm statistics of `arch` over the calibration images; those of the latest archs are cached."""
        version = sum(p._version for p in self.net.parameters())  # grows with every change of a weight
        if arch not in self._known or self._known[arch][0] != version:
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            found = calibrate(self.net, arch, self.batches(self.calibration, arch.resolution))
            self._known[arch] = (version, found)
        return self._known[arch][1]

    @torch.no_grad()
    def logits(self, arch: Arch, split: Split) -> Tensor:
        """Logits [N, classes] of `arch` for every image of `split`, in order; on the CPU."""
        self.net.eval()
        statistics = self.statistics(arch)
        return torch.cat([self.net(x, arch, statistics) for x in self.batches(split, arch.resolution)]).cpu()

    def top1(self, arch: Arch, split: Split) -> float:
        """The fraction of `split` that `arch` classifies correctly; of equal logits the lowest class is predicted."""
        return top1(self.logits(arch, split), split.labels)

    def batches(self, split: Split, resolution: int) -> Iterator[Tensor]:
        """Images as network inputs, `batch` at a time."""
        for start in range(0, len(split), self.batch):
            yield resize(self.scale(split.pixels[start : start + self.batch]).to(self.net.device), resolution)


def top1(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is that of the label."""
    return int((logits_NC.argmax(1) == labels_N.to(logits_NC.device)).sum()) / len(labels_N)
