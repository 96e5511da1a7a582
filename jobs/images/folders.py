"""Reads image files in a folder for each class, with or without folders for the splits.

    train/cat/1.jpg, train/dog/2.png, test/cat/3.jpg                 or cat/1.jpg, dog/2.png without splits

A split called validation (val, valid, dev, eval) is the test split where there is no test. Splits may be written in capitals
and as training, testing, train_set and the like. A file is an image if its suffix or its first bytes are those of one.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import splitext

import numpy as np

from cluster.store import Store
from cluster.stores.errors import MissingObject, UnreadableObject
from jobs.images.decoding import DataError, first_names, printable
from jobs.images.stored import Source, StoredImages, source_of, split_named
from ofa.decode import is_image

# Files with these suffixes are images, and named if they cannot be decoded; of others the first bytes are read.
SUFFIXES = {
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf",
    ".jpg", ".jpx", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
FILES_A_GROUP = 256  # image files that are read together, as the row groups of Parquet are
READERS = 16  # files whose first bytes are read at once
EXPECTED = "a folder for each class"


def image_keys(store: Store, keys: Sequence[str]) -> list[str]:
    """The image files among `keys`, in their order."""

    def starts_as_image(key: str) -> bool:
        try:
            with store.open(key) as file:
                return is_image(file)
        except (MissingObject, UnreadableObject):
            return False

    unclear = [key for key in keys if _suffix(key) not in SUFFIXES]
    with ThreadPoolExecutor(READERS) as threads:
        other = {key for key, good in zip(unclear, threads.map(starts_as_image, unclear), strict=True) if not good}
    return [key for key in keys if key not in other]


def read(store: Store, keys: Sequence[str], images: Sequence[str], empty: Collection[str] = ()) -> Source:
    """The data set in the files `images` among `keys`; raises a `DataError` if it cannot be used.

    empty: folders without a file.
    """
    inside = [key for key in images if "/" in key]
    folder_of = _splits(store, inside)
    depth = 2 if folder_of else 1  # folders above an image, at least
    by_split: dict[str, list[tuple[str, str]]] = {}
    spelt: dict[tuple[str, str], str] = {}  # the folder of each class in each split
    for key in inside:
        parts = key.split("/")
        if len(parts) <= depth:
            raise DataError(f"{store.url}/{printable(key)}: is in no class's folder; expected {EXPECTED}")
        split = folder_of[parts[0]] if folder_of else "train"
        name = unicodedata.normalize("NFC", parts[depth - 1])
        if spelt.setdefault((split, name), parts[depth - 1]) != parts[depth - 1]:
            raise DataError(
                f"{store.url}/{printable(key)}: another folder has the same name {printable(name)!r} in other characters "
                "(composed and decomposed accents); keep one of them"
            )
        by_split.setdefault(split, []).append((key, name))
    names = tuple(sorted({name for _, name in by_split.get("train", [])}))
    label_of = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, members in by_split.items():
        stranger = next(((key, name) for key, name in members if name not in label_of), None)
        if stranger is not None and names:
            alike = [name for name in names if _simple(name) == _simple(stranger[1])]
            hint = f"; {printable(stranger[1])!r} differs from {printable(alike[0])!r}" if alike else ""
            raise DataError(
                f"{store.url}/{printable(stranger[0])}: train has no such class; its {len(names)} are "
                f"{first_names(names, 8)}{hint}"
            )
        count = np.arange(len(members), dtype=np.int32)
        labels = np.array([label_of.get(name, 0) for _, name in members], np.int64)
        files = tuple(key for key, _ in members)
        rows = np.full(len(members), -1, np.int32)
        splits[split] = StoredImages(store.url, files, count, rows, count // FILES_A_GROUP, labels)
    expected = EXPECTED
    deeper = {key.split("/")[depth] for key in inside if key.count("/") > depth} if len(names) == 1 else set()
    if deeper:
        hint = f"is data.source {store.url}/{printable(names[0])}" if not folder_of else "is that one folder too many"
        expected += f"; {hint}, with {first_names(sorted(deeper))}?"
    notes = (*_notes(names), *_nested(inside, depth))
    return source_of(store.url, splits, names, expected, notes, _left_out(keys, images, depth, empty))


def _suffix(key: str) -> str:
    return splitext(key)[1].lower()


def _simple(name: str) -> str:
    """A name without what people overlook: capitals, spaces, dashes."""
    return "".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _splits(store: Store, images: Sequence[str]) -> dict[str, str]:
    """The split of every first folder, or {} if the first folders are classes.

    A folder that is named as a split is one if its images are in folders of their own; then all others must be splits, too.
    Raises a `DataError` if they are not, or if a split has two folders.
    """
    below: dict[str, set[str]] = defaultdict(set)  # of every first folder those inside it, "" for images right in it
    example: dict[str, str] = {}
    for key in images:
        parts = key.split("/", 2)
        below[parts[0]].add(parts[1] if len(parts) > 2 else "")
        example.setdefault(parts[0], key)
    named = {folder: split for folder in below if (split := split_named(folder, prefixed=True))}
    splits = [folder for folder in named if "" not in below[folder] or len(below[folder]) > 2]
    if not named or not (splits or len(named) == len(below)):
        return {}
    other = next((folder for folder in below if folder not in named), None)
    if other is not None:
        beside = " and ".join(sorted(printable(folder) + "/" for folder in named))
        raise DataError(
            f"{store.url}/{printable(example[other])}: is in no split; beside {beside} no other folder may have images; "
            f"move it (or, if {sorted(splits)[0]}/ is a class, put its images right into it)"
        )
    for folder, split in named.items():
        same = [one for one in named if named[one] == split]
        if len(same) > 1:
            both = " and ".join(printable(one) + "/" for one in same)
            raise DataError(f"{store.url}/{printable(folder)}: {both} are both the {split} split; keep one of them")
    return named


def _notes(names: Sequence[str]) -> tuple[str, ...]:
    """A line on classes whose names are nearly the same."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_simple(name)].append(name)
    pairs = [" and ".join(repr(printable(name)) for name in group) for group in alike.values() if len(group) > 1]
    return (f"data: nearly the same name of different classes: {first_names(pairs)}",) if pairs else ()


def _nested(images: Sequence[str], depth: int) -> list[str]:
    """A line on images that are in folders inside their class's folder."""
    deeper = [key for key in images if key.count("/") > depth]
    folders = list(dict.fromkeys("/".join(key.split("/")[: depth + 1]) + "/" for key in deeper))
    where = f"inside their class's folder: {first_names(folders, 3)}"
    return [f"data: {len(deeper)} of {len(images)} images are in folders {where}"] if deeper else []


def _left_out(keys: Sequence[str], images: Sequence[str], depth: int, empty: Collection[str]) -> dict[str, list[str]]:
    """What is not used: files by their suffix, images in no folder, and folders without an image."""
    found: dict[str, list[str]] = defaultdict(list)
    used, with_images, folders = set(images), set(), {}
    for key in keys:
        parts = key.split("/")[:-1]
        above = ["/".join(parts[:number]) for number in range(1, min(depth, len(parts)) + 1)]
        folders.update(dict.fromkeys(above))
        if key not in used:
            found[_suffix(key) or "without a suffix"].append(key)
        elif parts:
            with_images.update(above)
        else:
            found["images in no folder"].append(key)
    folders.update(dict.fromkeys(folder for folder in empty if folder.count("/") < depth))
    bare = [f"{folder}/" for folder in folders if folder not in with_images]
    if bare:
        found["folders without images"] = [one for one in bare if not any(one != o and one.startswith(o) for o in bare)]
    return dict(found)
