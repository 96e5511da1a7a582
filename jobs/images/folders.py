"""Reads image files in a folder for each class, with or without folders for the splits.

    train/cat/1.jpg, train/dog/2.png, test/cat/3.jpg                 or cat/1.jpg, dog/2.png without splits

A split called validation (val, valid) is the test split where there is no test. Split names may be written in capitals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from cluster.store import Store
from jobs.images.decoding import LISTED, DataError
from jobs.images.stored import SPLIT_NAMES, Source, StoredImages, source_of

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".avif", ".jp2",
)  # fmt: skip
FILES_A_GROUP = 256  # image files that are read together, as the row groups of Parquet are
EXPECTED = "a folder for each class"


def is_image(key: str) -> bool:
    """Whether a key in a folder has the suffix of an image file."""
    return "/" in key and key.lower().endswith(SUFFIXES)


def read(store: Store, keys: Sequence[str]) -> Source:
    """The data set in the image files among `keys`; raises a `DataError` if it cannot be used."""
    images = [key for key in keys if is_image(key)]
    split_of = {key: SPLIT_NAMES.get(PurePosixPath(key).parts[0].lower()) for key in images}
    has_splits = _has_splits(split_of)
    by_split: dict[str, list[tuple[str, str]]] = {}
    for key in images:
        parts = PurePosixPath(key).parts
        if has_splits and split_of[key] is None:
            raise DataError(
                f"{store.url}/{key}: is in no split; beside {_splits(split_of)} no other folder may have images; move it"
            )
        inside = parts[1:] if has_splits else parts
        if len(inside) < 2:
            raise DataError(f"{store.url}/{key}: is in no class's folder; expected {EXPECTED}")
        by_split.setdefault(split_of[key] or "train" if has_splits else "train", []).append((key, inside[0]))
    names = tuple(sorted({name for _, name in by_split.get("train", [])}))
    label_of = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, members in by_split.items():
        stranger = next((key for key, name in members if name not in label_of), None)
        if stranger is not None:
            raise DataError(f"{store.url}/{stranger}: train has no such class; its {len(names)} are {', '.join(names[:8])}")
        count = np.arange(len(members), dtype=np.int32)
        labels = np.array([label_of[name] for _, name in members], np.int64)
        files = tuple(key for key, _ in members)
        rows = np.full(len(members), -1, np.int32)
        splits[split] = StoredImages(store.url, files, count, rows, count // FILES_A_GROUP, labels)
    return source_of(store.url, splits, names, EXPECTED, _left_out(keys, images, depth=2 if has_splits else 1))


def _has_splits(split_of: dict[str, str | None]) -> bool:
    """Whether the first folders are splits: all are named so, or there are `train` and another, each with folders inside."""
    if all(split_of.values()):
        return True
    named = [(key, split) for key, split in split_of.items() if split is not None]
    nested = all(len(PurePosixPath(key).parts) > 2 for key, _ in named)
    return nested and "train" in split_of.values() and len({split for _, split in named}) > 1


def _splits(split_of: dict[str, str | None]) -> str:
    return " and ".join(sorted({PurePosixPath(key).parts[0] + "/" for key, split in split_of.items() if split}))


def _left_out(keys: Sequence[str], images: Sequence[str], depth: int) -> tuple[str, ...]:
    """A line on files without the suffix of an image, and on folders at `depth` that have no other files."""
    used, folders = set(images), {PurePosixPath(key).parts[:depth] for key in images}
    other = [PurePosixPath(key) for key in keys if key not in used and len(PurePosixPath(key).parts) > depth]
    if not other:
        return ()
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in other).most_common(LISTED)
    lost = sorted({"/".join(path.parts[:depth]) for path in other if path.parts[:depth] not in folders})
    whole = f"; no image at all in {', '.join(lost[:LISTED])}" if lost else ""
    return (f"data: left out, not the suffix of an image: {', '.join(f'{n} {s}' for s, n in suffixes)}{whole}",)
