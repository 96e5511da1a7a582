"""The data set of a run: train, selection and test images, divided by the run's seed.

Selection images are decoded into memory. So are the training images where they fit into `data.memory_mib`; a larger
training split is streamed through Ray Data and decoded by other processes. The images of the test split are only listed:
before training it is checked that they can be decoded, and no pixel is kept; the step `predict` and `ofa eval` open them
(`HeldOut`).

Shape letters: N images, S side in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.progress import Reporter
from cluster.seeds import stream
from jobs.config import Data, Experiment
from jobs.images.decoding import DataError, DecodingCounts, chunks, first_names, printable
from jobs.images.source import open_source
from jobs.images.stored import Images, LeftOut, Source, StoredImages
from jobs.images.streaming import streamed
from ofa.evaluate import Evaluator
from ofa.images import Augment, Scale, Split, mirrored, shard_size, shards
from ofa.phases import Plan
from ofa.supernet import Supernet

SCALE_IMAGES = 10_000  # training images from which the mean and deviation of colours are computed
LISTED_CLASSES = 8  # class names in the line on a source
REASONS = 8  # reasons to leave something out that the line names
SINGULAR = {"images": "image", "folders": "folder", "classes": "class"}
NAMED = 3  # names in that line for each reason to leave something out
STREAM_SAMPLE = 2048  # training images in memory although the rest streams: for colours and batch-norm statistics


@dataclass(frozen=True)
class Description:
    """What a data set was made of, for messages, records and the report.

    source: `data.source`. classes: their names, by label. images: number of images of each split. left_out: names of what is
    not used, by the reason.
    """

    source: str
    classes: Sequence[str]
    images: Mapping[str, int]
    left_out: LeftOut

    def __str__(self) -> str:
        """One line: the classes, the images of each split, and what is left out."""
        images = ", ".join(f"{count} {name}" for name, count in self.images.items())
        reasons = [f"{_counted(names, reason)} ({first_names(names, NAMED)})" for reason, names in self.left_out.items()]
        more = len(reasons) - REASONS
        unused = ", ".join(reasons[:REASONS]) + (f", and {more} more kinds" if more > 0 else "")
        return (
            f"{printable(self.source)}: {len(self.classes)} classes ({first_names(self.classes, LISTED_CLASSES)}), "
            f"images: {images}; left out: {unused or 'nothing'}"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as a document, with the first names only."""
        return {
            "source": printable(self.source),
            "classes": len(self.classes),
            "class_names": [printable(name) for name in self.classes[:LISTED_CLASSES]],
            "images": dict(self.images),
            "left_out": {
                reason: {"count": len(names), "first": [printable(name) for name in names[:NAMED]]}
                for reason, names in self.left_out.items()
            },
        }


def _counted(names: Sequence[str], reason: str) -> str:
    """A number and a reason, whose first word is in the singular for one name."""
    first, _, rest = reason.partition(" ")
    first = SINGULAR.get(first, first) if len(names) == 1 else first
    return f"{len(names)} {first} {rest}".rstrip()


@dataclass(frozen=True)
class HeldOut:
    """The images of the test split, whose pixels are in no data set until they are opened.

    side: of the decoded images, in pixels. limit: images that may be skipped because they cannot be decoded.
    """

    images: Images
    source: Source
    where: str  # `data.source`, for messages
    side: int
    crop: float  # centre-crop ratio
    limit: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """The memory that the decoded images and their labels need."""
        return len(self) * (3 * self.side * self.side + 8)

    def check(self, counts: DecodingCounts) -> None:
        """Adds the images that cannot be decoded to `counts`; a `DataError` as in `open`. Nothing else of them is kept."""
        pixels, labels = self.images.decoded(1, self.crop, counts)
        split = Split(torch.from_numpy(pixels), torch.from_numpy(labels))
        _check_decoded({"test": split}, {"test": self.images}, self.source, self.where)

    def open(self, reporter: Reporter) -> Split:
        """The decoded images; a `DataError` if too few can be decoded, or none of a class."""
        counts = DecodingCounts(self.where, self.limit)
        with reporter.track("test data", len(self), "images") as tracker:
            pixels, labels = self.images.decoded(self.side, self.crop, counts, tracker.advance)
        for line in counts.messages():
            reporter.say(line)
        split = Split(torch.from_numpy(pixels), torch.from_numpy(labels))
        _check_decoded({"test": split}, {"test": self.images}, self.source, self.where)
        return split


@dataclass(frozen=True)
class Dataset:
    """Disjoint splits at the space's largest resolution.

    splits: selection, and either train or a `sample` of the training images, which then stream from `stored`. classes: their
    number. description, held_out: in the process that loaded the images; other processes have no test split.
    """

    splits: Mapping[str, Split]
    classes: int
    stored: StoredImages | None = None
    description: Description | None = None
    held_out: HeldOut | None = None
    given_scale: Scale | None = None  # that of other training images, on which the networks were trained

    @property
    def train(self) -> Split:
        """The training split, where it is in memory."""
        return self.splits["train"]

    @property
    def sample(self) -> Split:
        """The training images that are in memory, for colours and batch-norm statistics."""
        return self.splits["sample"] if self.stored is not None else self.train

    @property
    def selection(self) -> Split:
        """The split for predictors, search and ensemble selection."""
        return self.splits["selection"]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each split; of the test split those that are listed, decodable or not."""
        held = {name: len(split) for name, split in self.splits.items() if name != "sample"}
        test = {} if self.held_out is None else {"test": len(self.held_out)}
        return {**({} if self.stored is None else {"train": len(self.stored)}), **held, **test}

    @cached_property
    def scale(self) -> Scale:
        """Mean and standard deviation of the training images' colours, or those given."""
        return self.given_scale or Scale.of(self.sample[:SCALE_IMAGES])

    def batches(
        self, plan: Plan, images: Data, phase: str, epoch: int, shard: tuple[int, int], counts: DecodingCounts, start: int
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, pixels uint8 [N, 3, S, S], labels [N]) of a shard of an epoch's batches, from step `start` on.

        shard: its number, and the number of shards. counts: of streamed images that cannot be decoded; raises a `DataError`
        if they are more than it allows.
        """
        if self.stored is not None:
            return streamed(self.stored, plan, images, phase, epoch, shard, counts, start)
        order = stream(plan.seed, "data", phase, epoch)
        parts = shards(len(self.train), plan.batch, order, number=shard[0], count=shard[1])
        found = ((n, i) for n, i in enumerate(parts) if n >= start)
        if not images.alternating_flip:
            return ((n, self.train.pixels[i], self.train.labels[i]) for n, i in found)
        turned = mirrored(len(self.train), stream(plan.seed, "flip"), plan.epochs_before(phase) + epoch)
        return ((n, _mirrored(self.train.pixels[i], turned[i]), self.train.labels[i]) for n, i in found)

    def weight(self, plan: Plan, shard: tuple[int, int], workers: int) -> float:
        """The images of a shard relative to the mean number of images that a worker has in a step (`Shard.weight`)."""
        whole = plan.batch if self.stored is not None else min(plan.batch, len(self.train))
        return shard_size(whole, *shard) * workers / whole

    def augment(self, images: Data) -> Augment:
        """The augmentation in the training process; streamed images are cropped and mirrored where they are decoded."""
        crop, colours = self.stored is None, (images.brightness, images.contrast, images.saturation)
        area, flip = (images.min_crop, images.flip and not images.alternating_flip) if crop else (1.0, False)
        return Augment(area, flip, crop, colours, images.randaugment, images.magnitude)

    def evaluator(self, net: Supernet, calibration_images: int, batch: int, calibration_batch: int = 0) -> Evaluator:
        """Evaluates sub-networks of `net`, each with batch-norm statistics from the first training images."""
        return Evaluator(net, self.scale, self.sample[:calibration_images], batch, calibration_batch)

    def arrays(self) -> dict[str, np.ndarray]:
        """The images as arrays, to share between processes; without the test split."""
        arrays = {"classes": np.array(self.classes)}
        for name, split in self.splits.items():
            arrays[f"{name}.pixels"], arrays[f"{name}.labels"] = split.pixels.numpy(), split.labels.numpy()
        if self.stored is not None:
            arrays |= {f"stored.{name}": array for name, array in self.stored.arrays().items()}
        if self.given_scale is not None:
            arrays["scale"] = np.array([self.given_scale.mean, self.given_scale.std])
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Dataset:
        """The data set that `arrays` described."""
        splits = {
            name: split_of(arrays, f"{name}.") for name in ("train", "selection", "sample") if f"{name}.pixels" in arrays
        }
        stored = {name.removeprefix("stored."): array for name, array in arrays.items() if name.startswith("stored.")}
        scale = Scale(*map(tuple, arrays["scale"].tolist())) if "scale" in arrays else None
        return cls(splits, int(arrays["classes"]), StoredImages.of(stored) if stored else None, given_scale=scale)


def _mirrored(pixels_N3SS: Tensor, chosen_N: Tensor) -> Tensor:
    return torch.where(chosen_N[:, None, None, None], pixels_N3SS.flip(3), pixels_N3SS)


def split_of(arrays: Mapping[str, np.ndarray], prefix: str = "") -> Split:
    """The split in the arrays `pixels` and `labels`, on their own memory. prefix: of these names."""
    return Split(read_only_tensor(arrays[f"{prefix}pixels"]), read_only_tensor(arrays[f"{prefix}labels"]))


def read_only_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's own memory, which other processes may share: it must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def load(config: Experiment, reporter: Reporter, *, check_test: bool = True) -> Dataset:
    """The data set of a config; raises a `DataError` for images or labels that cannot be used.

    check_test: whether test images are among these, which are then read and forgotten; otherwise none is read.
    """
    side, data = config.search_space.resolutions[-1], config.data
    source = open_source(data.source).only(data.classes, data.source)
    images = divided(source, config)
    held_out = HeldOut(images.pop("test"), source, data.source, side, data.crop, data.max_corrupt)
    return _loaded(config, source, images, held_out, None, reporter, check_test=check_test)


def load_joined(config: Experiment, scale: Scale, reporter: Reporter) -> Dataset:
    """Training and selection images together as a training split, without any other split; raises as `load` does.

    scale: of the training images alone, on which the networks were trained.
    """
    source = open_source(config.data.source).only(config.data.classes, config.data.source)
    positions = _positions(source, config)
    images: dict[str, Images] = {"train": source.train[np.concatenate([positions["train"], positions["selection"]])]}
    return _loaded(config, source, images, None, scale, reporter)


def _loaded(
    config: Experiment,
    source: Source,
    images: dict[str, Images],
    held_out: HeldOut | None,
    scale: Scale | None,
    reporter: Reporter,
    *,
    check_test: bool = False,
) -> Dataset:
    """The data set of these splits of a source, with its line."""
    side, data = config.search_space.resolutions[-1], config.data
    mib = len(images["train"]) * 3 * side * side / 2**20
    train, streaming = images["train"], None
    if mib > data.memory_mib and isinstance(train, StoredImages):
        streaming = train
        del images["train"]
        rng = np.random.default_rng(stream(config.seed, "data", "sample").getrandbits(63))
        images["sample"] = streaming[np.sort(rng.permutation(len(streaming))[:STREAM_SAMPLE])]
    counts = DecodingCounts(data.source, data.max_corrupt)
    splits = {}
    with reporter.track("data", sum(len(split) for split in images.values()), "images") as tracker:
        for name, split in images.items():
            crop = data.crop if name == "selection" else 1.0
            pixels, labels = split.decoded(side, crop, counts, tracker.advance)
            splits[name] = Split(torch.from_numpy(pixels), torch.from_numpy(labels))
    _check_decoded(splits, images, source, data.source)
    if held_out is not None and check_test:
        held_out.check(counts)
    for line in (*source.notes(), *counts.messages()):
        reporter.say(line)
    if streaming is not None:
        _check_streamed(streaming, splits["sample"], source, data.source)
        reporter.say(f"data: {len(streaming)} training images need {mib:.0f} MiB, data.memory_mib is {data.memory_mib}: "
                     "they stream through Ray Data")  # fmt: skip
    sizes = Dataset(splits, len(source.classes), streaming, held_out=held_out).sizes
    left_out = {**source.left_out, **({"that cannot be decoded": list(counts.failed)} if counts.failed else {})}
    description = Description(data.source, source.classes, sizes, left_out)
    reporter.say(f"data: {description}", event="source", **description.to_json())
    return Dataset(splits, len(source.classes), streaming, description, held_out, scale)


def divided(source: Source, config: Experiment) -> dict[str, Images]:
    """Train, selection and test images of a source; see `Source.joint_holdout` for the order of sampling."""
    images: dict[str, Images] = {name: source.train[index] for name, index in _positions(source, config).items()}
    return images if source.test is None else {**images, "test": source.test}


def _positions(source: Source, config: Experiment) -> dict[str, np.ndarray]:
    """The positions of the images of each split among a source's training images; of test where it has no test split."""
    data, seed = config.data, config.seed
    labels = source.train.labels_N
    everything = np.arange(len(labels))
    if source.joint_holdout:
        held_out = data.selection + data.test
        train, rest = divide(labels, everything, held_out, seed, "train", data.source)
        selection, held = divide(labels, rest, data.test / held_out, seed, "test", data.source)
    elif source.test is None:
        train, held = divide(labels, everything, data.test, seed, "test", data.source)
        train, selection = divide(labels, train, data.selection, seed, "selection", data.source)
    else:
        train, selection = divide(labels, everything, data.selection, seed, "selection", data.source)
        return {"train": train, "selection": selection}
    return {"train": train, "selection": selection, "test": held}


def _check_decoded(splits: Mapping[str, Split], images: Mapping[str, Images], source: Source, where: str) -> None:
    """Raises a `DataError` if a split, or a class in a split, has images of which none could be decoded."""
    for name, split in splits.items():
        if not len(split):
            what = "sample of the training images" if name == "sample" else f"{name} split"
            raise DataError(f"{where}: no image of the {what} can be decoded; repair or replace them")
        lost = np.setdiff1d(images[name].labels_N, split.labels.numpy())
        if len(lost) and name != "sample":
            raise _lost(int(lost[0]), "training" if name == "train" else name, source, where)


def _check_streamed(stored: StoredImages, sample: Split, source: Source, where: str) -> None:
    """Raises a `DataError` if no image of a class can be decoded; decodes some of each that is not in the sample."""
    seen = set(sample.labels.tolist())
    for label in range(len(source.classes)):
        if label not in seen:
            positions = np.flatnonzero(stored.labels_N == label)
            parts = (stored[part] for part in chunks(positions, 16))
            if not any(part.decoded(1, 1.0, DecodingCounts(where, len(part)))[0].size for part in parts):
                raise _lost(label, "training", source, where)


def _lost(label: int, split: str, source: Source, where: str) -> DataError:
    """The error for a class without an image in a split."""
    name = printable(source.classes[label])
    return DataError(f"{where}: no {split} image of class {label} ({name!r}) can be decoded; repair or replace them")


def divide(
    labels: np.ndarray, index: np.ndarray, size: float, seed: int, name: str, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """`index` in two shuffled parts, stratified by class; the second has `size` images, or if below 1 that share.

    labels: int64 [N]; name: of the second part, which names the random stream. Raises a `DataError` if a class cannot be on
    both sides.
    """
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
