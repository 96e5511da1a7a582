"""Labelled images as they are stored: Parquet shards in the Hugging Face layout, or a folder for each class.

    train-00000-of-00005.parquet, test-00000-of-00001.parquet        image: {bytes, path}, label: integer
    train/cat/1.jpg, train/dog/2.png, test/cat/3.jpg                 or cat/1.jpg, dog/2.png without splits

In a directory or below s3://bucket/prefix; nothing is decoded here. A split called validation (val, valid) is the test
split where there is no labelled test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import InputError
from cluster.store import Store, open_store

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
LABEL_NAMES = ("label", "labels", "fine_label")
KINDS = {"1": "black and white", "L": "grey", "LA": "grey with transparency", "RGBA": "with transparency", "P": "palette"}
FILES_A_GROUP = 256  # image files that are read together; Parquet has its row groups
EXPECTED = "expected train-*.parquet (and test-*.parquet) with image and label, or a folder for each class"


class DataError(InputError):
    """Images or labels that cannot be used."""


@dataclass
class Corrupt:
    """Images that could not be decoded, by name, and how many may be."""

    source: str
    limit: int
    names: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)  # images by the mode that they were stored in

    def add(self, name: str, reason: str) -> None:
        """Counts an image once; one too many is a `DataError`."""
        self.names[name] = reason
        if len(self.names) > self.limit:
            raise DataError(
                f"{self.source}: {len(self.names)} images cannot be decoded, data.max_corrupt allows {self.limit}: "
                f"{self.listed()}; repair or remove them, or raise data.max_corrupt"
            )

    def listed(self) -> str:
        shown = [f"{name} ({reason})" for name, reason in list(self.names.items())[:5]]
        return ", ".join(shown) + (f", and {len(self.names) - 5} more" if len(self.names) > 5 else "")

    def told(self) -> list[str]:
        """What a user should know, in lines."""
        lines = []
        if self.names:
            count = "1 image" if len(self.names) == 1 else f"{len(self.names)} images"
            lines.append(f"data: {count} skipped, cannot be decoded: {self.listed()}")
        other = {KINDS.get(mode, mode): n for mode, n in sorted(self.modes.items()) if mode != "RGB"}
        if other:
            lines.append("data: made RGB: " + ", ".join(f"{count} {kind}" for kind, count in other.items()))
        return lines


@dataclass(frozen=True)
class Shelf:
    """The images of one split where they are stored; N images in G groups that are read together.

    An image is a row of a Parquet file, or (row -1) a file. labels_N: int64.
    """

    url: str
    files: tuple[str, ...]
    file_N: np.ndarray
    row_N: np.ndarray
    group_N: np.ndarray
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: np.ndarray) -> Shelf:
        """The images at these positions."""
        return replace(self, **{name: getattr(self, name)[index] for name in ("file_N", "row_N", "group_N", "labels_N")})

    def name(self, position: int) -> str:
        """What a message calls an image."""
        row = int(self.row_N[position])
        file = self.files[self.file_N[position]]
        return f"{file} row {row}" if row >= 0 else file

    def groups(self) -> list[np.ndarray]:
        """The positions of the images of every group."""
        order = np.argsort(self.group_N, kind="stable")
        cuts = np.flatnonzero(np.diff(self.group_N[order])) + 1
        return np.split(order, cuts)

    def read(self, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """(position, file content) of these images, group by group."""
        store = open_store(self.url)
        if len(positions) and self.row_N[positions[0]] < 0:
            for position in positions:
                yield int(position), store.read(self.files[self.file_N[position]])
            return
        order = positions[np.lexsort((self.row_N[positions], self.file_N[positions]))]
        for part in np.split(order, np.flatnonzero(np.diff(self.file_N[order])) + 1):
            if len(part):
                yield from self._read_rows(store, part)

    def _read_rows(self, store: Store, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Rows of one Parquet file, ascending."""
        with store.open(self.files[self.file_N[positions[0]]]) as stream:
            file = pq.ParquetFile(stream)
            column = _image_column(file.schema_arrow, self.url)
            first = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                here = positions[(self.row_N[positions] >= first) & (self.row_N[positions] < last)]
                if len(here):
                    images = file.read_row_group(group, columns=[f"{column}.bytes"]).column(column).combine_chunks()
                    content = images.field("bytes")
                    for position in here:
                        yield int(position), content[int(self.row_N[position]) - first].as_py() or b""
                first = last

    def arrays(self) -> dict[str, np.ndarray]:
        """This shelf as arrays, to share between processes."""
        where = json.dumps([self.url, *self.files]).encode()
        return {
            "where": np.frombuffer(where, np.uint8),
            "file": self.file_N,
            "row": self.row_N,
            "group": self.group_N,
            "label": self.labels_N,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Shelf:
        """The shelf that `arrays` gave."""
        url, *files = json.loads(arrays["where"].tobytes())
        return cls(url, tuple(files), arrays["file"], arrays["row"], arrays["group"], arrays["label"])


@dataclass(frozen=True)
class Source:
    """A labelled data set: classes by name, a train split, and a test split if it brings one."""

    classes: tuple[str, ...]
    train: Shelf
    test: Shelf | None


def open_source(url: str) -> Source:
    """The images at `url`; what cannot be used is a `DataError` that says where and why."""
    store = open_store(url)
    keys = [key for key in store.keys() if not any(part.startswith(".") for part in PurePosixPath(key).parts)]
    tables = [key for key in keys if key.endswith(".parquet")]
    splits, names = _tables(store, tables) if tables else _folders(store, keys)
    if "train" not in splits:
        raise DataError(f"{store.url}: no train split; {EXPECTED}")
    test = next((splits[name] for name in ("test", "validation") if name in splits and _labelled(splits[name])), None)
    found = {"train": splits["train"]} | ({"test": test} if test is not None else {})
    for name, shelf in found.items():
        _check_split(name, shelf, names)
    if not names:
        names = tuple(str(label) for label in range(1 + max(int(shelf.labels_N.max()) for shelf in found.values())))
    missing = np.setdiff1d(np.arange(len(names)), splits["train"].labels_N)
    if len(missing):
        label = int(missing[0])
        raise DataError(
            f"{store.url}: train has no image of class {label} ({names[label]!r}; there are {len(names)}); "
            "add some, or number the labels without gaps"
        )
    return Source(names, splits["train"], test)


def _labelled(shelf: Shelf) -> bool:
    """False for splits published without labels, which are all -1 in the Hugging Face layout."""
    return not len(shelf) or bool((shelf.labels_N != -1).any())


def _check_split(name: str, shelf: Shelf, names: Sequence[str]) -> None:
    if not len(shelf):
        raise DataError(f"{shelf.url}: the {name} split is empty; {EXPECTED}")
    top = len(names) or np.iinfo(np.int64).max
    bad = np.flatnonzero((shelf.labels_N < 0) | (shelf.labels_N >= top))
    if len(bad):
        label, where = int(shelf.labels_N[bad[0]]), shelf.name(int(bad[0]))
        may = f"0 to {top - 1}" if names else "0 or more"
        raise DataError(f"{shelf.url}: {where}: label {label} is out of range, may be {may} ({len(bad)} such in {name})")


def _tables(store: Store, keys: Sequence[str]) -> tuple[dict[str, Shelf], tuple[str, ...]]:
    """Splits and class names of Parquet shards."""
    by_split: dict[str, list[str]] = {}
    for key in keys:
        stem = re.match(r"[a-z]+", PurePosixPath(key).name)
        split = SPLIT_NAMES.get(stem[0] if stem else "")
        if split is None:
            raise DataError(f"{store.url}/{key}: which split is this? Call it train-*.parquet, validation-* or test-*")
        by_split.setdefault(split, []).append(key)
    names: tuple[str, ...] = ()
    splits = {}
    for split, files in by_split.items():
        parts = []
        groups = 0
        for number, key in enumerate(files):
            labels, group_R, found = _read_labels(store, key)
            names = names or found
            parts.append((np.full(len(labels), number, np.int32), np.arange(len(labels), dtype=np.int32),
                          group_R + groups, labels))  # fmt: skip
            groups += int(group_R.max(initial=-1)) + 1
        file_N, row_N, group_N, labels_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        splits[split] = Shelf(store.url, tuple(files), file_N, row_N, group_N.astype(np.int32), labels_N)
    return splits, names


def _read_labels(store: Store, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels [R], each row's group [R], and the class names, if the file has them."""
    where = f"{store.url}/{key}"
    try:
        with store.open(key) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            _image_column(schema, where)
            column = next((name for name in LABEL_NAMES if name in schema.names), None)
            if column is None or not pa.types.is_integer(schema.field(column).type):
                raise DataError(f"{where}: no integer column {LABEL_NAMES[0]!r}; there are {', '.join(schema.names)}")
            labels = file.read(columns=[column]).column(column)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            notes = (schema.metadata or {}).get(b"huggingface", b"{}")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where}: is no Parquet file: {str(error).splitlines()[0]}") from None
    if labels.null_count:
        raise DataError(f"{where}: {labels.null_count} rows have no label")
    features = json.loads(notes).get("info", {}).get("features", {})
    names = tuple(str(name) for name in features.get(column, {}).get("names", ()))
    return labels.to_numpy().astype(np.int64), np.repeat(np.arange(len(sizes)), sizes), names


def _image_column(schema: pa.Schema, where: str) -> str:
    """The one column that is a struct with bytes."""
    for name, kind in zip(schema.names, schema.types, strict=True):
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(name)
    there = ", ".join(schema.names)
    raise DataError(f"{where}: no column of images; expected image: struct<bytes, path>, there are {there}")


def _folders(store: Store, keys: Sequence[str]) -> tuple[dict[str, Shelf], tuple[str, ...]]:
    """Splits and class names of a tree with a folder for each class."""
    images = [key for key in keys if key.lower().endswith(SUFFIXES) and "/" in key]
    if not images:
        raise DataError(f"{store.url}: no images there; {EXPECTED}")
    split_of = {key: SPLIT_NAMES.get(PurePosixPath(key).parts[0]) for key in images}
    has_splits = all(split_of.values())
    by_split: dict[str, list[tuple[str, str]]] = {}
    for key in images:
        parts = PurePosixPath(key).parts
        inside = parts[1:] if has_splits else parts
        if len(inside) < 2:
            raise DataError(f"{store.url}/{key}: is in no class's folder; {EXPECTED}")
        by_split.setdefault(split_of[key] or "train" if has_splits else "train", []).append((key, inside[0]))
    names = tuple(sorted({name for _, name in by_split.get("train", [])}))
    number = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, members in by_split.items():
        stranger = next((key for key, name in members if name not in number), None)
        if stranger is not None:
            raise DataError(f"{store.url}/{stranger}: train has no such class; its {len(names)} are {', '.join(names[:8])}")
        count = np.arange(len(members), dtype=np.int32)
        labels = np.array([number[name] for _, name in members], np.int64)
        files = tuple(key for key, _ in members)
        splits[split] = Shelf(store.url, files, count, np.full(len(members), -1, np.int32), count // FILES_A_GROUP, labels)
    return splits, names
