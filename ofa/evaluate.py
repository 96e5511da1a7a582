"""Evaluates a sub-network on held-out images, with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ofa.arch import Arch
from ofa.exits import combined, exit_weights, joint
from ofa.images import Scale, Split, resize
from ofa.norms import Statistics, calibrate
from ofa.supernet import Supernet

REMEMBERED = 64  # archs whose statistics an evaluator keeps


class NotFinite(ArithmeticError):
    """A network whose outputs are NaN or infinite, as after a training that diverged."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates archs of `net`, `batch` images at a time.

    calibration: the training images for batch-norm calibration. calibration_batch: how many of them are taken at a time,
    since statistics are means over batches; 0 is `batch`.
    """

    net: Supernet
    scale: Scale
    calibration: Split
    batch: int
    calibration_batch: int = 0
    _known: dict[tuple[Arch, tuple[int, ...]], tuple[int, Statistics]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def statistics(self, arch: Arch, exits: tuple[int, ...] = ()) -> Statistics:
        """The batch-norm statistics of `arch` over the calibration images; those of the latest archs are cached.

        exits: of a network with several, those whose heads are included.
        """
        version = sum(p._version for p in self.net.parameters())  # grows with every change of a weight
        key = arch, exits
        if key not in self._known or self._known[key][0] != version:
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            batches = self.batches(self.calibration, arch.resolution, self.calibration_batch)
            found = calibrate(self.net, arch, batches, exits)
            self._known[key] = (version, found)
        return self._known[key][1]

    @torch.no_grad()
    def logits(self, arch: Arch, split: Split) -> Tensor:
        """Logits [N, classes] of `arch` for every image of `split`, in order; on the CPU.

        Raises a `NotFinite` where one is NaN or infinite.
        """
        self.net.eval()
        statistics = self.statistics(arch)
        logits = torch.cat([self.net(x, arch, statistics) for x in self.batches(split, arch.resolution)]).cpu()
        if not bool(logits.isfinite().all()):
            raise NotFinite(f"{arch.key}: outputs are not finite")
        return logits

    @torch.no_grad()
    def logits_by_exit(self, arch: Arch, exits: tuple[int, ...], split: Split) -> Tensor:
        """Logits [exits, N, classes] of several exits of `arch` in one pass over the images of `split`; on the CPU."""
        self.net.eval()
        statistics = self.statistics(arch, exits)
        found = [torch.stack(self.net(x, arch, statistics, exits=exits)) for x in self.batches(split, arch.resolution)]
        return torch.cat(found, dim=1).cpu()

    def summed_logits(self, arch: Arch, weights: str, split: Split) -> Tensor:
        """The weighted sum [N, classes] of the logits of the exits up to the arch's own; on the CPU.

        weights: a name in `ofa.exits.WEIGHTS`; "last" takes the arch's own exit alone. Raises as `logits` does.
        """
        exits = joint(weights, arch.exit)
        if not exits:
            return self.logits(arch, split)
        logits = combined(list(self.logits_by_exit(arch, exits, split)), exit_weights(weights, len(exits)))
        if not bool(logits.isfinite().all()):
            raise NotFinite(f"{arch.key}: outputs are not finite")
        return logits

    def top1(self, arch: Arch, split: Split, summed_exits: str = "last") -> float:
        """The fraction of `split` that `arch` classifies correctly; of equal logits the lowest class is predicted.

        summed_exits: the weights of its exits (`summed_logits`).
        """
        return top1(self.summed_logits(arch, summed_exits, split), split.labels)

    def batches(self, split: Split, resolution: int, batch: int = 0) -> Iterator[Tensor]:
        """Images as network inputs, `batch` at a time; 0 is the evaluator's own."""
        batch = batch or self.batch
        for start in range(0, len(split), batch):
            yield resize(self.scale(split.pixels[start : start + batch]).to(self.net.device), resolution)


def top1(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The fraction of images whose largest logit is that of the label."""
    return int((logits_NC.argmax(1) == labels_N.to(logits_NC.device)).sum()) / len(labels_N)
