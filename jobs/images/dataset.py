"""The images of a run, divided once and for all by its seed.

What chooses and what reports (selection, test) is decoded into memory. So are the training images where they fit
into `data.memory_mib`; larger ones stay where they are and stream through Ray Data, decoded by other processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cluster.progress import Reporter
from cluster.runtime.training import Worker
from cluster.seeds import stream
from jobs.config import Experiment
from jobs.images.source import Corrupt, DataError, Shelf, open_source
from jobs.images.streaming import streamed
from ofa.decode import CorruptImage, centre, decode
from ofa.images import Augment, Scale, Split, resize, shards

SPLITS = ("train", "selection", "test")
DECODED_AT_ONCE = 512  # images whose files are in memory together
SCALE_IMAGES = 10_000  # the mean and deviation of colours are those of so many training images
STREAM_SAMPLE = 2048  # training images in memory although the rest streams: for colours and batch-norm statistics


@dataclass(frozen=True)
class Dataset:
    """Splits that share no image, at the space's largest resolution.

    splits: selection, test, and either train or a `sample` of the training images, which then stream from `shelf`.
    """

    splits: Mapping[str, Split]
    classes: int
    shelf: Shelf | None = None

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def sample(self) -> Split:
        """Training images for colours and batch-norm statistics: all that are in memory."""
        return self.splits["sample"] if self.shelf is not None else self.train

    @property
    def selection(self) -> Split:
        return self.splits["selection"]

    @property
    def test(self) -> Split:
        return self.splits["test"]

    @property
    def sizes(self) -> dict[str, int]:
        """Images of each split."""
        held = {name: len(split) for name, split in self.splits.items() if name != "sample"}
        return held if self.shelf is None else {"train": len(self.shelf), **held}

    @cached_property
    def scale(self) -> Scale:
        return Scale.of(self.sample[:SCALE_IMAGES])

    def batches(
        self, config: Experiment, phase: str, epoch: int, worker: Worker, corrupt: Corrupt, start: int
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, pixels uint8, labels) of this worker's part of every batch of an epoch, from step `start` on."""
        if self.shelf is not None:
            return streamed(self.shelf, config, phase, epoch, worker, corrupt, start)
        order = stream(config.seed, "data", phase, epoch)
        parts = shards(len(self.train), config.train.batch, order, rank=worker.rank, world=worker.world)
        return ((n, self.train.pixels[i], self.train.labels[i]) for n, i in enumerate(parts) if n >= start)

    def augment(self, config: Experiment) -> Augment:
        """What happens to training images in the training process; streamed ones are cropped where they are decoded."""
        data = config.data
        crop = self.shelf is None
        colours = (data.brightness, data.contrast, data.saturation)
        return Augment(data.min_crop if crop else 1.0, data.flip and crop, crop, colours, data.randaugment, data.magnitude)

    def arrays(self) -> dict[str, np.ndarray]:
        """The images as arrays, to share between processes."""
        arrays = {"classes": np.array(self.classes)}
        for name, split in self.splits.items():
            arrays[f"{name}.pixels"], arrays[f"{name}.labels"] = split.pixels.numpy(), split.labels.numpy()
        if self.shelf is not None:
            arrays |= {f"shelf.{name}": array for name, array in self.shelf.arrays().items()}
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Dataset:
        """The data set that `arrays` gave."""
        splits = {
            name: Split(read_only_tensor(arrays[f"{name}.pixels"]), read_only_tensor(arrays[f"{name}.labels"]))
            for name in (*SPLITS, "sample")
            if f"{name}.pixels" in arrays
        }
        shelf = {name.removeprefix("shelf."): array for name, array in arrays.items() if name.startswith("shelf.")}
        return cls(splits, int(arrays["classes"]), Shelf.of(shelf) if shelf else None)


def read_only_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's own memory, which other processes may share: never write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def load(config: Experiment, reporter: Reporter) -> Dataset:
    """The data set a config asks for; images that cannot be used are a `DataError`."""
    side = config.search_space.resolutions[-1]
    if config.data.source == "digits":
        return load_digits(config, side)
    source = open_source(config.data.source)
    everything = np.arange(len(source.train))
    labels = source.train.labels_N
    test = source.test
    if test is None:
        everything, held = divide(labels, everything, config.data.test, config.seed, "test", config.data.source)
        test = source.train[held]
    train, selection = divide(labels, everything, config.data.selection, config.seed, "selection", config.data.source)
    stored = {"train": source.train[train], "selection": source.train[selection], "test": test}
    mib = len(train) * 3 * side * side / 2**20
    shelf = None
    if mib > config.data.memory_mib:
        shelf = stored.pop("train")
        rng = np.random.default_rng(stream(config.seed, "data", "sample").getrandbits(63))
        stored["sample"] = shelf[np.sort(rng.permutation(len(shelf))[:STREAM_SAMPLE])]
    corrupt = Corrupt(config.data.source, config.data.max_corrupt)
    with reporter.track("data", sum(len(shelf) for shelf in stored.values()), "images") as tracker:
        splits = {
            name: decoded(here, side, config.data.crop if name in ("selection", "test") else 1.0, corrupt, tracker.advance)
            for name, here in stored.items()
        }
    for line in corrupt.told():
        reporter.say(line)
    if shelf is not None:
        reporter.say(f"data: {len(shelf)} training images need {mib:.0f} MiB, data.memory_mib is {config.data.memory_mib}: "
                     "they stream through Ray Data")  # fmt: skip
    return Dataset(splits, len(source.classes), shelf)


def load_digits(config: Experiment, side: int) -> Dataset:
    """Scikit-learn's digits, which bring no splits of their own."""
    pixels, labels = digits(side)
    held_out = config.data.selection + config.data.test
    train, rest = divide(labels, np.arange(len(labels)), held_out, config.seed, "train", "digits")
    share = config.data.test / held_out
    selection, test = divide(labels, rest, share, config.seed, "test", "digits")
    indices = dict(zip(SPLITS, (train, selection, test), strict=True))
    whole = Split(pixels, torch.from_numpy(labels))
    return Dataset({name: whole[torch.from_numpy(index)] for name, index in indices.items()}, classes=10)


def digits(side: int) -> tuple[Tensor, np.ndarray]:
    """Scikit-learn's 1,797 handwritten digits (8x8 grey) as pixels [N, 3, side, side] uint8, and labels [N]."""
    from sklearn.datasets import load_digits as read_digits

    images, labels = read_digits(return_X_y=True)
    grey = torch.tensor(images.reshape(-1, 1, 8, 8) * (255 / 16), dtype=torch.float32)
    pixels = resize(grey, side).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).contiguous(), labels.astype(np.int64)


def divide(
    labels: np.ndarray, index: np.ndarray, size: float, seed: int, name: str, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """`index` in two shuffled parts; the second has `size` images, or if below 1 that share, of every class alike."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels[index])
    count = round(size * len(index)) if size < 1 else int(size)
    fewest = int(counts[counts > 0].min())
    if fewest < 2 or not len(counts) <= count <= len(index) - len(counts):
        raise DataError(
            f"{source}: {count} of {len(index)} images cannot be held out as {name} with every one of {len(counts)} classes "
            f"on both sides (the rarest has {fewest}); use another data.{'selection' if name == 'train' else name}"
        )
    state = stream(seed, "data", "split", name).getrandbits(32)
    first, second = train_test_split(
        index, test_size=size if size < 1 else count, stratify=labels[index], random_state=state
    )
    return first, second


def decoded(shelf: Shelf, side: int, crop: float, corrupt: Corrupt, seen: Callable[[int], None] | None = None) -> Split:
    """Every image of `shelf`, as its central square; those that cannot be decoded are left out and counted."""
    pixels = torch.empty(len(shelf), 3, side, side, dtype=torch.uint8)
    whole = np.ones(len(shelf), bool)

    def one(item: tuple[int, bytes]) -> tuple[int, np.ndarray | str, str]:
        try:
            image, mode = decode(item[1])
        except CorruptImage as error:
            return item[0], str(error), ""
        return item[0], centre(image, side, crop), mode

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for part in in_parts(shelf, DECODED_AT_ONCE):
            for position, image, mode in threads.map(one, shelf.read(part)):
                if isinstance(image, str):
                    whole[position] = False
                    corrupt.add(shelf.name(position), image)
                else:
                    pixels[position] = torch.from_numpy(image)
                    corrupt.modes[mode] = corrupt.modes.get(mode, 0) + 1
            if seen is not None:
                seen(len(part))
    split = Split(pixels, torch.from_numpy(shelf.labels_N))
    return split if whole.all() else split[torch.from_numpy(whole)]


def in_parts(shelf: Shelf, size: int) -> Iterator[np.ndarray]:
    """All positions, those that are read together next to each other."""
    order = np.concatenate(shelf.groups())
    for start in range(0, len(order), size):
        yield order[start : start + size]
