"""How good one sub-network is on held-out images, with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.arch import Arch
from ofa.images import Scale, Split, resize
from ofa.norms import calibrate
from ofa.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores archs of `net`; `calibration` are training images that statistics are taken from."""

    net: Supernet
    scale: Scale
    calibration: Split
    batch: int

    def statistics(self, arch: Arch) -> dict[str, tuple[Tensor, Tensor]]:
        """The batch-norm statistics of `arch` over the calibration images."""
        return calibrate(self.net, arch, self.batches(self.calibration, arch.resolution))

    @torch.no_grad()
    def logits(self, arch: Arch, split: Split) -> Tensor:
        """Logits [N, classes] of `arch` for every image of `split`, in order."""
        self.net.eval()
        statistics = self.statistics(arch)
        return torch.cat([self.net(x, arch, statistics) for x in self.batches(split, arch.resolution)])

    def top1(self, arch: Arch, split: Split) -> float:
        """The fraction of `split` that `arch` names right; equal logits go to the lowest class."""
        return top1(self.logits(arch, split), split.labels)

    def batches(self, split: Split, resolution: int) -> Iterator[Tensor]:
        """Images as the networks take them, `batch` at a time."""
        for start in range(0, len(split), self.batch):
            yield resize(self.scale(split.pixels[start : start + self.batch]), resolution)


def top1(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is the label's."""
    return int((logits_NC.argmax(1) == labels_N).sum()) / len(labels_N)
