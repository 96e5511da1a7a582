"""Images in memory: batches that any worker and any rerun draws alike, crops and resizes on the device.

Shape letters: N images, S side in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Split:
    """Images that belong together: pixels [N, 3, S, S] uint8, labels [N] int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.pixels[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of each colour over the training images, on the 0..1 scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, split: Split) -> Scale:
        values = split.pixels.double() / 255
        mean, std = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).clamp_min(1e-3).tolist()
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def __call__(self, pixels_N3SS: Tensor) -> Tensor:
        """Pixels as the networks take them: float32, near zero mean and unit variance, channels last."""
        x = pixels_N3SS.to(torch.float32, memory_format=torch.channels_last) / 255
        mean, std = x.new_tensor(self.mean).view(3, 1, 1), x.new_tensor(self.std).view(3, 1, 1)
        return (x - mean) / std


def resize(x_N3SS: Tensor, resolution: int) -> Tensor:
    """Bilinear with antialiasing, to `resolution` pixels a side; unchanged if that is its size already."""
    if x_N3SS.shape[-1] == resolution:
        return x_N3SS
    resized = F.interpolate(x_N3SS, size=(resolution, resolution), mode="bilinear", antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class Augment:
    """A random resized crop of at least `min_area` of the image, mirrored half the time if `flip`."""

    min_area: float
    flip: bool

    def __call__(self, x_N3SS: Tensor, generator: torch.Generator) -> Tensor:
        n = len(x_N3SS)
        area = self.min_area + (1 - self.min_area) * torch.rand(n, generator=generator)
        ratio = torch.exp((torch.rand(n, generator=generator) * 2 - 1) * np.log(4 / 3))
        wide, high = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = wide, high
        theta[:, 0, 2] = (1 - wide) * (torch.rand(n, generator=generator) * 2 - 1)
        theta[:, 1, 2] = (1 - high) * (torch.rand(n, generator=generator) * 2 - 1)
        if self.flip:
            theta[:, 0, 0] *= torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
        grid = F.affine_grid(theta, list(x_N3SS.shape), align_corners=False)
        cropped = F.grid_sample(x_N3SS, grid, padding_mode="reflection", align_corners=False)
        return cropped.contiguous(memory_format=torch.channels_last)


def torch_generator(rng: random.Random) -> torch.Generator:
    """A torch generator that continues a named stream."""
    return torch.Generator().manual_seed(rng.getrandbits(63))


def steps_per_epoch(images: int, batch: int) -> int:
    """Whole batches only; a data set smaller than one batch is one step."""
    return max(1, images // batch)


def shards(images: int, batch: int, rng: random.Random, *, rank: int, world: int) -> Iterator[Tensor]:
    """Indices of this worker's part of every batch of an epoch.

    All workers shuffle alike and take every `world`-th image of each batch of `batch`, so an epoch sees the
    same batches whatever the number of workers.
    """
    order = torch.randperm(images, generator=torch_generator(rng))
    for step in range(steps_per_epoch(images, batch)):
        yield order[step * batch : (step + 1) * batch][rank::world]
