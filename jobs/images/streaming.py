"""Training images larger than memory: read, decoded and cropped by Ray tasks while the workers train."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cluster.runtime.rows import stream as stream_rows
from cluster.runtime.training import Worker
from cluster.seeds import stream
from jobs.config import Data, Experiment
from jobs.images.source import Corrupt, DataError, Shelf
from ofa.decode import CorruptImage, decode, random_crop
from ofa.images import steps_per_epoch

MIXED_GROUPS = 4  # groups of a stored split whose images are shuffled together

# Of one task: its number, the positions of the images that it reads, and how many of them (shuffled) to leave out.
Piece = tuple[int, np.ndarray, int]


def streamed(
    shelf: Shelf, config: Experiment, phase: str, epoch: int, worker: Worker, corrupt: Corrupt, start: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, pixels uint8 [N, 3, S, S], labels [N]) of this worker's part of an epoch, from step `start` on.

    Every worker reads groups of its own in a drawn order. A worker whose groups hold fewer images than its part of
    the epoch starts over with them, so every worker makes the same number of steps.
    """
    steps, rows = steps_per_epoch(len(shelf), config.train.batch), config.train.batch // worker.world
    pieces = plan(shelf, config.seed, phase, epoch, worker, skip=start * rows, rows=steps * rows)
    names = f"{config.seed}/{phase}/{epoch}/{worker.rank}"
    read = partial(read_piece, shelf, config.data, config.search_space.resolutions[-1], names)
    readers = max(1, config.data.readers // worker.world)
    batches = stream_rows(pieces, read, rows, readers)
    for step, batch in zip(range(start, steps), batches, strict=False):
        for said in filter(None, batch["corrupt"].tolist()):
            corrupt.add(*said.split("\n"))
        yield step, torch.from_numpy(batch["pixels"].copy()), torch.from_numpy(batch["label"].copy())


def plan(shelf: Shelf, seed: int, phase: str, epoch: int, worker: Worker, *, skip: int, rows: int) -> list[Piece]:
    """What this worker reads in an epoch for `rows` images, without the first `skip` of them."""
    groups = shelf.groups()
    stream(seed, "data", phase, epoch).shuffle(groups)
    mine = groups[worker.rank :: worker.world] or groups
    parts = [np.concatenate(mine[at : at + MIXED_GROUPS]) for at in range(0, len(mine), MIXED_GROUPS)]
    pieces: list[Piece] = []
    at = number = 0
    while at < rows:
        part = parts[number % len(parts)]
        if at + len(part) > skip:
            pieces.append((number, part, max(0, skip - at)))
        at += len(part)
        number += 1
    return pieces


def read_piece(shelf: Shelf, data: Data, side: int, names: str, piece: Piece) -> dict[str, np.ndarray]:
    """Images of one piece, shuffled and randomly cropped; one that cannot be decoded is named and stands for another.

    As many rows come out as the piece has images, so that a training which resumes finds the same batches.
    """
    number, positions, drop = piece
    content = dict(shelf.read(positions))
    order = list(positions)
    stream(0, names, "mix", number).shuffle(order)
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    corrupt: list[str] = []
    for place, position in enumerate(order):
        rng = stream(0, names, "crop", number, place)
        try:
            image, _ = decode(content[position])
            pixels.append(random_crop(image, side, data.min_crop, data.flip, rng))
            labels.append(int(shelf.labels_N[position]))
            corrupt.append("")
        except CorruptImage as error:
            corrupt.append(f"{shelf.name(position)}\n{error}")
    if not pixels:
        raise DataError(f"{shelf.url}: none of {len(order)} images can be decoded, the first is {corrupt[0]!r}")
    again = [number % len(pixels) for number in range(len(order))]  # the first ones stand for those left out
    kept = again[drop:]
    return {
        "pixels": np.stack([pixels[index] for index in kept]),
        "label": np.array([labels[index] for index in kept], np.int64),
        "corrupt": np.array(corrupt[drop:]),
    }
