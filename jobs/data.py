"""The images of a run, divided once and for all by its seed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cluster.seeds import stream
from jobs.config import Experiment
from ofa.images import Scale, Split, resize

SPLITS = ("train", "selection", "test")


@dataclass(frozen=True)
class Dataset:
    """Three splits that share no image, at the space's largest resolution."""

    splits: Mapping[str, Split]
    classes: int

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def selection(self) -> Split:
        return self.splits["selection"]

    @property
    def test(self) -> Split:
        return self.splits["test"]

    @cached_property
    def scale(self) -> Scale:
        return Scale.of(self.train)

    def arrays(self) -> dict[str, np.ndarray]:
        """The images as arrays, to share between processes."""
        arrays = {"classes": np.array(self.classes)}
        for name, split in self.splits.items():
            arrays[f"{name}.pixels"], arrays[f"{name}.labels"] = split.pixels.numpy(), split.labels.numpy()
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Dataset:
        """The data set that `arrays` gave."""
        splits = {
            name: Split(read_only_tensor(arrays[f"{name}.pixels"]), read_only_tensor(arrays[f"{name}.labels"]))
            for name in SPLITS
        }
        return cls(splits, int(arrays["classes"]))


def read_only_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's own memory, which other processes may share: never write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def load(config: Experiment) -> Dataset:
    """The data set a config asks for."""
    pixels, labels = digits(config.search_space.resolutions[-1])
    train, rest = divide(labels, np.arange(len(labels)), config.data.selection + config.data.test, config.seed, "train")
    share = config.data.test / (config.data.selection + config.data.test)
    selection, test = divide(labels, rest, share, config.seed, "test")
    indices = dict(zip(SPLITS, (train, selection, test), strict=True))
    whole = Split(pixels, torch.from_numpy(labels))
    return Dataset({name: whole[torch.from_numpy(index)] for name, index in indices.items()}, classes=10)


def digits(side: int) -> tuple[Tensor, np.ndarray]:
    """Scikit-learn's 1,797 handwritten digits (8x8 grey) as pixels [N, 3, side, side] uint8, and labels [N]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = torch.tensor(images.reshape(-1, 1, 8, 8) * (255 / 16), dtype=torch.float32)
    pixels = resize(grey, side).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).contiguous(), labels.astype(np.int64)


def divide(labels: np.ndarray, index: np.ndarray, share: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`index` in two shuffled parts, the second with `share` of every class."""
    from sklearn.model_selection import train_test_split

    state = stream(seed, "data", "split", name).getrandbits(32)
    first, second = train_test_split(index, test_size=share, stratify=labels[index], random_state=state)
    return first, second
