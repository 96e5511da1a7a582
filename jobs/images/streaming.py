"""Streams training images that do not fit into memory: Ray tasks read, decode and crop them while the workers train."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cluster.errors import InputError
from cluster.runtime.rows import stream as stream_rows
from cluster.seeds import stream
from jobs.config import Data
from jobs.images.decoding import DataError, DecodingCounts, decode_file
from jobs.images.stored import StoredImages
from ofa.decode import CorruptImage, random_crop
from ofa.images import mirrored, shard_size, steps_per_epoch
from ofa.phases import Plan

MIXED_GROUPS = 4  # groups of a stored split whose images are shuffled together

# One task: its number, the positions of the images that it reads, and how many of the shuffled images to leave out.
Piece = tuple[int, np.ndarray, int]
Turn = tuple[int, int] | None  # the seed and the number of the epoch, where mirroring alternates between epochs


def streamed(
    stored: StoredImages,
    plan: Plan,
    images: Data,
    phase: str,
    epoch: int,
    shard: tuple[int, int],
    counts: DecodingCounts,
    start: int,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, pixels uint8 [N, 3, S, S], labels [N]) of a shard of an epoch's batches, from step `start` on.

    shard: its number, and the number of shards. Every shard has groups of its own in a random order. One whose groups hold
    fewer images than its part of the epoch reads them again, so every shard has the same number of steps. Files that cannot
    be decoded are recorded in `counts`; a `DataError` if they are more than it allows.
    """
    number, count = shard
    steps, rows = steps_per_epoch(len(stored), plan.batch), shard_size(plan.batch, number, count)
    pieces = pieces_of(stored, plan.seed, phase, epoch, shard, skip=start * rows, rows=steps * rows)
    names = f"{plan.seed}/{phase}/{epoch}/{number}"
    turn = (plan.seed, plan.epochs_before(phase) + epoch) if images.alternating_flip else None
    read = partial(rows_of, stored, images, plan.space.resolutions[-1], names, turn=turn)
    readers = max(1, images.readers // count)
    batches = stream_rows(pieces, read, rows, readers)
    for step, batch in zip(range(start, steps), batches, strict=False):
        for error in filter(None, batch["error"].tolist()):
            raise DataError(error)
        for failure in filter(None, batch["corrupt"].tolist()):
            counts.add_failure(*failure.split("\n"))
        yield step, torch.from_numpy(batch["pixels"].copy()), torch.from_numpy(batch["label"].copy())


def pieces_of(
    stored: StoredImages, seed: int, phase: str, epoch: int, shard: tuple[int, int], *, skip: int, rows: int
) -> list[Piece]:
    """The pieces that are read in an epoch for `rows` images of a shard, without the first `skip` of them."""
    groups = stored.groups()
    stream(seed, "data", phase, epoch).shuffle(groups)
    mine = groups[shard[0] :: shard[1]] or groups
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


def rows_of(
    stored: StoredImages, data: Data, side: int, names: str, piece: Piece, *, turn: Turn = None
) -> dict[str, np.ndarray]:
    """The columns of `read_piece` and `error`: why nothing could be read, for the consumer; Ray Data loses exceptions."""
    try:
        columns = read_piece(stored, data, side, names, piece, turn=turn)
    except InputError as error:
        count = len(piece[1]) - piece[2]
        return {
            "pixels": np.zeros((count, 3, side, side), np.uint8),
            "label": np.zeros(count, np.int64),
            "corrupt": np.full(count, ""),
            "error": np.full(count, str(error)),
        }
    return {**columns, "error": np.full(len(columns["label"]), "")}


def read_piece(
    stored: StoredImages, data: Data, side: int, names: str, piece: Piece, *, turn: Turn = None
) -> dict[str, np.ndarray]:
    """Images of one piece, shuffled and randomly cropped, as columns `pixels`, `label` and `corrupt`.

    An image that cannot be decoded is replaced by another one of the piece, so that there are as many rows as images and a
    resumed training finds the same batches; `corrupt` has its name and reason, "" for the others. Raises a `DataError` if
    no image can be decoded. turn: of the alternating flip.
    """
    number, positions, drop = piece
    turned = None if turn is None else mirrored(len(stored), stream(turn[0], "flip"), turn[1]).numpy()
    content = dict(stored.read(positions))
    order = list(positions)
    stream(0, names, "mix", number).shuffle(order)
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    corrupt: list[str] = []
    for place, position in enumerate(order):
        rng = stream(0, names, "crop", number, place)
        try:
            image, _ = decode_file(content[position])
            cropped = random_crop(image, side, data.min_crop, data.flip and turned is None, rng)
            pixels.append(cropped[:, :, ::-1] if turned is not None and turned[position] else cropped)
            labels.append(int(stored.labels_N[position]))
            corrupt.append("")
        except CorruptImage as error:
            corrupt.append(f"{stored.name(position)}\n{error}")
    if not pixels:
        raise DataError(
            f"{stored.url}: none of {len(order)} images can be decoded, the first is {corrupt[0].replace(chr(10), ': ')}"
        )
    again = [number % len(pixels) for number in range(len(order))]  # the first ones replace those left out
    kept = again[drop:]
    return {
        "pixels": np.stack([pixels[index] for index in kept]),
        "label": np.array([labels[index] for index in kept], np.int64),
        "corrupt": np.array(corrupt[drop:]),
    }
