"""Images in memory: batches that are equal on every worker and in every rerun, crops and resizes on the device.

Shape letters: N images, S side in pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Split:
    """The images of one split: pixels [N, 3, S, S] uint8, labels [N] int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.pixels[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Scale:
    """The mean and standard deviation of each colour over the training images, for colours between 0 and 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, split: Split) -> Scale:
        """The mean and standard deviation of each colour over a split."""
        values = split.pixels.double() / 255
        mean, std = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).clamp_min(1e-3).tolist()
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def __call__(self, pixels_N3SS: Tensor) -> Tensor:
        """Pixels as network inputs: float32, near zero mean and unit variance, channels last."""
        return self.normalised(pixels_N3SS.to(torch.float32, memory_format=torch.channels_last) / 255)

    def normalised(self, x_N3SS: Tensor) -> Tensor:
        """Network inputs from colours between 0 and 1."""
        return (x_N3SS - _colours(self.mean, x_N3SS.dtype, x_N3SS.device)) / _colours(self.std, x_N3SS.dtype, x_N3SS.device)

    def undo(self, x_N3SS: Tensor) -> Tensor:
        """Colours between 0 and 1 from network inputs."""
        return x_N3SS * _colours(self.std, x_N3SS.dtype, x_N3SS.device) + _colours(self.mean, x_N3SS.dtype, x_N3SS.device)


@cache
def _colours(values: tuple[float, float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One number for each colour, [3, 1, 1]; cached, because every copy to a GPU waits until the GPU is idle."""
    return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)


def resize(x_N3SS: Tensor, resolution: int) -> Tensor:
    """Images resized to `resolution` pixels a side, bilinear with antialiasing; unchanged if they have that size."""
    if x_N3SS.shape[-1] == resolution:
        return x_N3SS
    resized = F.interpolate(x_N3SS, size=(resolution, resolution), mode="bilinear", antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class Augment:
    """The augmentation of training images: a random crop and flip, colour jitter, and RandAugment-style operations.

    The crop has at least `min_area` of the image (arXiv:1512.00567, sec. 9); `flip` mirrors half of the images.
    colours: the largest deviation of brightness, contrast and saturation from 1. operations: the number of RandAugment's
    operations (arXiv:1909.13719, without equalise) on each image, at `magnitude` (0 to 1) of their full strength.
    """

    min_area: float
    flip: bool
    crop: bool = True  # False if images are cropped before
    colours: tuple[float, float, float] = (0.0, 0.0, 0.0)
    operations: int = 0
    magnitude: float = 0.3

    def __call__(self, pixels_N3SS: Tensor, scale: Scale, generator: torch.Generator) -> Tensor:
        """uint8 pixels augmented and scaled as network inputs, on the device of the pixels.

        Random numbers are sampled on the device of `generator`: on the CPU they are the same for images on any device; on
        the images' own device no step waits for a copy (except with `operations` or `colours`).
        """
        x, n, device = scale(pixels_N3SS), len(pixels_N3SS), generator.device
        theta = self._crop(n, generator) if self.crop else None
        many = len(GEOMETRY) + len(COLOURS)
        drawn = [torch.randint(many, (n,), generator=generator, device=device) for _ in range(self.operations)]
        strengths = [self._strength(n, generator) for _ in drawn]
        for operation, strength in zip(drawn, strengths, strict=True):
            theta = _compose(_geometry(operation, strength), theta)
        if theta is not None:
            grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
            x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        if self.operations or any(self.colours):
            x = scale.undo(x).clamp(0, 1)
            for operation, strength in zip(drawn, strengths, strict=True):
                x = _coloured(x, operation, strength)
            for change, amount in zip((_brightness, _contrast, _saturation), self.colours, strict=True):
                if amount:
                    x = change(x, ((_rand(n, generator) * 2 - 1) * amount).to(x.device))
            x = scale.normalised(x)
        return x.contiguous(memory_format=torch.channels_last)

    def _crop(self, n: int, generator: torch.Generator) -> Tensor:
        area = self.min_area + (1 - self.min_area) * _rand(n, generator)
        ratio = torch.exp((_rand(n, generator) * 2 - 1) * np.log(4 / 3))
        wide, high = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        theta = torch.zeros(n, 2, 3, device=generator.device)
        theta[:, 0, 0], theta[:, 1, 1] = wide, high
        theta[:, 0, 2] = (1 - wide) * (_rand(n, generator) * 2 - 1)
        theta[:, 1, 2] = (1 - high) * (_rand(n, generator) * 2 - 1)
        if self.flip:
            theta[:, 0, 0] *= 1 - 2 * (_rand(n, generator) < 0.5).to(theta.dtype)
        return theta

    def _strength(self, n: int, generator: torch.Generator) -> Tensor:
        """The signed strength for each image, between -magnitude and magnitude."""
        return (_rand(n, generator) * 2 - 1) * self.magnitude


def _rand(n: int, generator: torch.Generator) -> Tensor:
    """Numbers [n], uniform between 0 and 1, on the generator's device."""
    return torch.rand(n, generator=generator, device=generator.device)


def _compose(after: Tensor, theta: Tensor | None) -> Tensor:
    """Compositions of affine maps [N, 2, 3] of output to input coordinates; `theta` is applied first."""
    if theta is None:
        return after
    moved = after[:, :, :2] @ theta
    moved[:, :, 2] += after[:, :, 2]
    return moved


# Operations by their number: those that move pixels come first. Full strengths are RandAugment's.
GEOMETRY = ("nothing", "rotate", "shear x", "shear y", "translate x", "translate y")


def _geometry(operation_N: Tensor, strength_N: Tensor) -> Tensor:
    """The affine map [N, 2, 3] of every image's operation; the identity for one that moves nothing."""
    theta = torch.eye(2, 3, device=operation_N.device).repeat(len(operation_N), 1, 1)
    angle = torch.where(operation_N == 1, strength_N * (math.pi / 6), 0.0)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1] = torch.where(operation_N == 2, strength_N * 0.3, -angle.sin())
    theta[:, 1, 0] = torch.where(operation_N == 3, strength_N * 0.3, angle.sin())
    theta[:, 0, 2] = torch.where(operation_N == 4, strength_N * 0.66, 0.0)
    theta[:, 1, 2] = torch.where(operation_N == 5, strength_N * 0.66, 0.0)
    return theta


def _blend(x: Tensor, other: Tensor, change_N: Tensor) -> Tensor:
    """Interpolates between images: `other` at -1, unchanged at 0, extrapolated away from `other` at 1."""
    return (other + (1 + change_N.view(-1, 1, 1, 1)) * (x - other)).clamp(0, 1)


def _grey(x_N3SS: Tensor) -> Tensor:
    return (x_N3SS * x_N3SS.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)


def _brightness(x: Tensor, change: Tensor) -> Tensor:
    return _blend(x, x.new_zeros(()), change)


def _contrast(x: Tensor, change: Tensor) -> Tensor:
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), change)


def _saturation(x: Tensor, change: Tensor) -> Tensor:
    return _blend(x, _grey(x), change)


def _sharpness(x: Tensor, change: Tensor) -> Tensor:
    kernel = x.new_tensor(((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))) / 13
    smooth = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel.expand(3, 1, 3, 3), groups=3)
    return _blend(x, smooth, change)


def _posterise(x: Tensor, strength: Tensor) -> Tensor:
    levels = 2 ** (8 - 4 * strength.abs()).round().view(-1, 1, 1, 1)
    return (x * 255 / 256 * levels).floor() / levels


def _solarise(x: Tensor, strength: Tensor) -> Tensor:
    return torch.where(x >= 1 - strength.abs().view(-1, 1, 1, 1), 1 - x, x)


def _autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x)


COLOURS = (_brightness, _contrast, _saturation, _sharpness, _posterise, _solarise, _autocontrast)


def _coloured(x: Tensor, operation_N: Tensor, strength_N: Tensor) -> Tensor:
    """Every image with its operation applied if that is one of `COLOURS`."""
    x = x.clone()
    for number, change in enumerate(COLOURS, start=len(GEOMETRY)):
        chosen = (operation_N == number).nonzero().flatten()
        if len(chosen):
            x[chosen] = change(x[chosen], strength_N[chosen].to(x.device))
    return x


def torch_generator(rng: random.Random) -> torch.Generator:
    """A torch generator that continues a named stream."""
    return torch.Generator().manual_seed(rng.getrandbits(63))


def mirrored(images: int, rng: random.Random, epoch: int) -> Tensor:
    """Whether each image is mirrored in an epoch (from 0), bool [N]: a random half is, and the others in the next epoch.

    So two epochs in a row have every image in both forms (airbench, arXiv:2404.00498, sec. 3.6). rng: the same in every
    epoch.
    """
    first = torch.randint(2, (images,), generator=torch_generator(rng)).bool()
    return ~first if epoch % 2 else first


def steps_per_epoch(images: int, batch: int) -> int:
    """The number of whole batches in an epoch; a data set smaller than one batch is one step."""
    return max(1, images // batch)


def shard_size(batch: int, number: int, shards: int) -> int:
    """The number of images of shard `number` of a batch of `batch` images: the first ones have one more if it is uneven."""
    return len(range(number, batch, shards))


def shards(images: int, batch: int, rng: random.Random, *, number: int, count: int) -> Iterator[Tensor]:
    """Indices of shard `number` of `count` of every batch of an epoch.

    All workers shuffle identically and take every `count`-th image of each batch of `batch`, so an epoch has the same
    batches for any number of shards.
    """
    order = torch.randperm(images, generator=torch_generator(rng))
    for step in range(steps_per_epoch(images, batch)):
        yield order[step * batch : (step + 1) * batch][number::count]
