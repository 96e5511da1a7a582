"""Labelled images of one split, in files that are decoded when they are needed, or as arrays in memory.

Shape letters: N images, G groups of images, S side in pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from cluster.errors import InputError
from cluster.store import Store, open_known
from cluster.stores.errors import MissingObject, UnreadableObject
from cluster.texts import json_text
from jobs.images.decoding import (
    DataError,
    DecodingCounts,
    Unreadable,
    chunks,
    decode_central_squares,
    first_line,
    first_names,
    printable,
)

SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train", "test": "test", "testing": "test", "tst": "test",
    "validation": "validation", "valid": "validation", "validate": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "evaluation": "validation",
}  # fmt: skip
AFTER_A_SPLIT = re.compile(r"[ _-]*(set|split|data|images|imgs|part|shard|file)?[ _-]*$")  # train_set, testData
IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo")  # preferred where several columns may be the images
LISTED_CLASSES = 20  # class names in an error
DECODED_AT_ONCE = 512  # images whose files are in memory together

Advance = Callable[[int], None]  # is called with the number of images that were decoded


# The names of what is in a source and is not used, by the reason: a suffix, or words that follow a count.
LeftOut = Mapping[str, Sequence[str]]


def split_named(name: str, prefixed: bool = False) -> str | None:
    """The split that the name of a folder or a file (without its number) stands for: train, test or validation.

    prefixed: the split may follow other words, as in my_data_train.
    """
    word = AFTER_A_SPLIT.sub("", name.lower())
    return SPLIT_NAMES.get(re.split(r"[ _-]", word)[-1] if prefixed else word)


class Images(Protocol):
    """Labelled images of one split; labels_N: int64."""

    @property
    def labels_N(self) -> np.ndarray:
        """Label of every image, int64 [N]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index_M: np.ndarray) -> Images:
        """The images at these positions."""

    def labelled(self, labels_N: np.ndarray) -> Images:
        """The same images with other labels."""

    def name(self, position: int) -> str:
        """The name of an image in messages."""

    def decoded(
        self, side: int, crop: float, counts: DecodingCounts, advance: Advance | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every image's central square as uint8 [M, 3, S, S], and its label as int64 [M].

        crop: share of the shorter side that is kept. M is below N where files cannot be decoded, which `counts` records;
        a `DataError` if they are more than it allows.
        """


@dataclass(frozen=True)
class StoredImages:
    """Image files of one split: N rows of Parquet files, or N files, in G groups that are read together.

    url: of their store. files: keys. file_N: each image's index in `files`. row_N: its row in that Parquet file, or -1
    where the file itself is the image. group_N: its group. labels_N: int64.
    """

    url: str
    files: tuple[str, ...]
    file_N: np.ndarray
    row_N: np.ndarray
    group_N: np.ndarray
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index_M: np.ndarray) -> StoredImages:
        """The images at these positions."""
        columns = ("file_N", "row_N", "group_N", "labels_N")
        return replace(self, **{name: getattr(self, name)[index_M] for name in columns})

    def labelled(self, labels_N: np.ndarray) -> StoredImages:
        """The same images with other labels."""
        return replace(self, labels_N=labels_N)

    def name(self, position: int) -> str:
        """The name of an image in messages."""
        row = int(self.row_N[position])
        file = printable(self.files[self.file_N[position]])
        return f"{file} row {row}" if row >= 0 else file

    def groups(self) -> list[np.ndarray]:
        """The positions of the images of every group."""
        order = np.argsort(self.group_N, kind="stable")
        cuts = np.flatnonzero(np.diff(self.group_N[order])) + 1
        return np.split(order, cuts)

    def read(self, positions: np.ndarray) -> Iterator[tuple[int, bytes | Unreadable]]:
        """(position, file content) of these images, group by group."""
        store = open_known(self.url)
        if len(positions) and self.row_N[positions[0]] < 0:
            for position in positions:
                yield int(position), image_file(store, self.files[self.file_N[position]])
            return
        order = positions[np.lexsort((self.row_N[positions], self.file_N[positions]))]
        for part in np.split(order, np.flatnonzero(np.diff(self.file_N[order])) + 1):
            if len(part):
                content = parquet_rows(store, self.files[self.file_N[part[0]]], self.row_N[part])
                yield from zip(part.tolist(), content, strict=True)

    def decoded(
        self, side: int, crop: float, counts: DecodingCounts, advance: Advance | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Images`; the files of `DECODED_AT_ONCE` images are in memory together."""

        def parts() -> Iterator[Iterator[tuple[int, bytes | Unreadable]]]:
            for part in chunks(np.concatenate(self.groups()), DECODED_AT_ONCE):
                yield self.read(part)
                if advance is not None:
                    advance(len(part))

        pixels_N3SS, decoded_N = decode_central_squares(parts(), len(self), self.name, side, crop, counts)
        if decoded_N.all():
            return pixels_N3SS, self.labels_N
        return pixels_N3SS[decoded_N], self.labels_N[decoded_N]

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, to share between processes."""
        where = json_text([self.url, *self.files]).encode()
        return {
            "where": np.frombuffer(where, np.uint8),
            "file": self.file_N,
            "row": self.row_N,
            "group": self.group_N,
            "label": self.labels_N,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> StoredImages:
        """The images that `arrays` described."""
        url, *files = json.loads(arrays["where"].tobytes())
        return cls(url, tuple(files), arrays["file"], arrays["row"], arrays["group"], arrays["label"])


@dataclass(frozen=True)
class ArrayImages:
    """Images of one split in memory, all of the same shape.

    pixels_NCHW: values from 0 to 255 of any number type, C is 1 (grey) or 3. labels_N: int64.
    """

    pixels_NCHW: np.ndarray
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index_M: np.ndarray) -> ArrayImages:
        """The images at these positions."""
        return ArrayImages(self.pixels_NCHW[index_M], self.labels_N[index_M])

    def labelled(self, labels_N: np.ndarray) -> ArrayImages:
        """The same images with other labels."""
        return replace(self, labels_N=labels_N)

    def name(self, position: int) -> str:
        """The name of an image in messages."""
        return f"image {position}"

    def decoded(
        self, side: int, crop: float, counts: DecodingCounts, advance: Advance | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whole images resized to S x S, bilinear with antialiasing; nothing is cropped, so `crop` is not used."""
        import torch

        from ofa.images import resize

        pixels_N3SS = np.empty((len(self), 3, side, side), np.uint8)
        for part in chunks(np.arange(len(self)), DECODED_AT_ONCE):
            resized = resize(torch.tensor(self.pixels_NCHW[part], dtype=torch.float32), side)
            pixels_N3SS[part] = resized.round().clamp(0, 255).to(torch.uint8).numpy()
        return pixels_N3SS, self.labels_N


@dataclass(frozen=True)
class Source:
    """A labelled data set as a reader returns it.

    classes: names, by label. test: its own test split, or None. messages: lines for the user. left_out: what is not used.
    test_name: the name of that split, for messages.
    joint_holdout: selection and test are one stratified sample, which is then divided; otherwise test is sampled first
    and selection from the rest.
    """

    classes: tuple[str, ...]
    train: Images
    test: Images | None = None
    messages: tuple[str, ...] = ()
    joint_holdout: bool = False
    left_out: LeftOut = field(default_factory=dict)
    test_name: str = "test"

    def notes(self) -> tuple[str, ...]:
        """The lines for the user, with one on the classes of which the test split has no image."""
        if self.test is None:
            return self.messages
        absent = [self.classes[label] for label in np.setdiff1d(np.arange(len(self.classes)), self.test.labels_N)]
        if not absent:
            return self.messages
        missing = f"{len(absent)} of {len(self.classes)} classes: {first_names(absent)}"
        return (*self.messages, f"data: {self.test_name} has no image of {missing}")

    def only(self, classes: Sequence[str], where: str) -> Source:
        """The images of these classes, each labelled with its class's place in `classes`; everything if there are none.

        classes: names, or labels as text where no class has this name. where: of the source, for messages. Raises a
        `DataError` for an unknown class, for one given twice or alone, and if the test split has no image of them.
        """
        if not classes:
            return self
        label_of = {str(label): label for label in range(len(self.classes))}
        label_of |= {name: label for label, name in enumerate(self.classes)}
        there = f"there are {first_names(self.classes, LISTED_CLASSES)}"
        labels = list[int]()
        for name in classes:
            if name not in label_of:
                raise DataError(f"{where}: data.classes: there is no class {printable(name)!r}; {there}")
            if label_of[name] in labels:
                same = printable(self.classes[label_of[name]])
                raise DataError(f"{where}: data.classes has the class {same!r} twice; give each once; {there}")
            labels.append(label_of[name])
        if len(labels) < 2:
            raise DataError(f"{where}: data.classes has one class only, a classifier needs two; {there}")
        new_C = np.full(len(self.classes), -1)
        new_C[labels] = np.arange(len(labels))

        def restricted(images: Images) -> Images:
            label_N = new_C[images.labels_N]
            used = np.flatnonzero(label_N >= 0)
            return images[used].labelled(label_N[used])

        test = None if self.test is None else restricted(self.test)
        if test is not None and not len(test):
            raise DataError(f"{where}: {self.test_name} has no image of the classes in data.classes; give others; {there}")
        unused = [name for label, name in enumerate(self.classes) if label not in labels]
        left_out = {**self.left_out, **({"classes": unused} if unused else {})}
        names = tuple(self.classes[label] for label in labels)
        return replace(self, classes=names, train=restricted(self.train), test=test, left_out=left_out)


def image_file(store: Store, key: str) -> bytes | Unreadable:
    """The content of an image file, or why it cannot be read; a store that cannot be reached is a `StoreError`."""
    try:
        return store.read(key)
    except UnreadableObject as error:
        return Unreadable(f"cannot be read: {error.reason}")
    except MissingObject:
        return Unreadable("is missing, or a link to nothing")


def parquet_rows(store: Store, key: str, rows_M: np.ndarray) -> Iterator[bytes | Unreadable]:
    """The image files in these rows, ascending, of a Parquet file.

    A row without bytes is read from its path, which is relative to the Parquet file or to the store. Row groups are read one
    after the other, so that one is in memory at a time. A damaged file is a `DataError`.
    """
    import pyarrow.parquet as pq

    where = f"{store.url}/{key}"
    try:
        with store.open(key) as stream:
            file = pq.ParquetFile(stream)
            column = image_column(file.schema_arrow, where)
            inside = _is_struct(file.schema_arrow.field(column).type)
            first = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                here = rows_M[(rows_M >= first) & (rows_M < last)]
                if len(here):
                    images = file.read_row_group(group, columns=[f"{column}.bytes" if inside else column]).column(column)
                    paths = None
                    for row in here.tolist():
                        content = images[row - first].as_py()
                        if inside and content is not None:
                            content = content["bytes"]
                        if content is None and inside:
                            paths = paths or _paths(file, group, column)
                            yield _by_path(store, key, paths[row - first])
                        else:
                            yield Unreadable("no image bytes are stored") if content is None else content
                first = last
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise DataError(f"{where}: is damaged: {first_line(error)}; restore the file") from None


def _paths(file: Any, group: int, column: str) -> list[str | None]:
    """The paths of a row group's images; None where there is none."""
    rows = file.schema_arrow.field(column).type.get_field_index("path") >= 0 and (
        file.read_row_group(group, columns=[f"{column}.path"]).column(column).to_pylist()
    )
    if not rows:
        return [None] * int(file.metadata.row_group(group).num_rows)
    return [row["path"] if row else None for row in rows]


def _by_path(store: Store, key: str, path: str | None) -> bytes | Unreadable:
    """The image file at a path beside a Parquet file, or below the store."""
    if not path or not isinstance(path, str):
        return Unreadable("no image bytes are stored")
    for folder in dict.fromkeys((PurePosixPath(key).parent, PurePosixPath())):
        target = folder / path
        if not target.is_absolute() and ".." not in target.parts:
            try:
                return store.read(target.as_posix())
            except MissingObject:
                continue
    return Unreadable(f"no image bytes are stored, and there is no file at its path {printable(path)!r}")


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind))


def _is_binary(kind: Any) -> bool:
    """Whether the values of a pyarrow type are bytes."""
    import pyarrow as pa

    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def image_column(schema: Any, where: str) -> str:
    """The column of images in a pyarrow schema: a struct with `bytes`, or else bytes.

    Raises a `DataError` if there is none, or if it is unclear which of several is meant.
    """
    structs, plain = [], []
    for name, kind in zip(schema.names, schema.types, strict=True):
        index = kind.get_field_index("bytes") if _is_struct(kind) else -1
        if index >= 0 and (_is_binary(kind.field(index).type) or str(kind.field(index).type) == "null"):  # paths only
            structs.append(str(name))
        elif _is_binary(kind):
            plain.append(str(name))
    found = structs or plain
    chosen = found if len(found) == 1 else [name for name in IMAGE_COLUMNS if found.count(name) == 1][:1]
    if chosen and schema.names.count(chosen[0]) == 1:
        return chosen[0]
    problem = f"which of {first_names(found)} are the images? Call one" if found else "no column of images; expected"
    raise DataError(f"{where}: {problem} image: struct<bytes: binary, path: string>, there are {columns_of(schema)}")


def columns_of(schema: Any) -> str:
    """The columns of a pyarrow schema with their types, for messages."""
    columns = [f"{name}: {kind}" for name, kind in zip(schema.names, schema.types, strict=True)]
    return first_names([text if len(text) <= 80 else f"{text[:77]}..." for text in columns], 12) or "none"


def source_of(
    where: str,
    splits: Mapping[str, Images],
    names: Sequence[str],
    expected: str,
    messages: tuple[str, ...] = (),
    left_out: LeftOut | None = None,
) -> Source:
    """The data set of these splits, checked; without `names` its classes are the numbers up to the highest label.

    where: of the source, for messages; expected: what a reader looks for. left_out: what it does not use. Test is the
    labelled split `test`, else `validation`. A missing or empty split, a label out of range, a class without a training
    image, or fewer than two classes are a `DataError`.
    """
    if "train" not in splits:
        there = f"; there is {' and '.join(sorted(splits))}" if splits else ""
        raise DataError(f"{where}: no train split{there}; expected {expected}")
    test = next((name for name in ("test", "validation") if name in splits and _labelled(splits[name])), None)
    found = {"train": splits["train"]} | ({test: splits[test]} if test is not None else {})
    for name, images in found.items():
        if not len(images):
            raise DataError(f"{where}: the {name} split is empty; expected {expected}")
        _check_labels(where, name, images, names, len(splits["train"]))
    if not names:
        names = tuple(str(label) for label in range(1 + max(int(images.labels_N.max()) for images in found.values())))
    missing = np.setdiff1d(np.arange(len(names)), splits["train"].labels_N)
    if len(missing):
        label = int(missing[0])
        raise DataError(
            f"{where}: train has no image of class {label} ({printable(names[label])!r}; there are {len(names)}); "
            "add some, or number the labels without gaps"
        )
    if len(names) < 2:
        raise DataError(
            f"{where}: there is one class only ({printable(names[0])!r}), a classifier needs two; expected {expected}"
        )
    unused = dict(left_out or {})
    for name, images in splits.items():
        if name not in found and len(images):
            why = f"{test} is the test split" if _labelled(images) else "without labels"
            unused[f"images of {name} ({why})"] = [images.name(position) for position in range(len(images))]
    held_out = splits[test] if test is not None else None
    return Source(tuple(names), splits["train"], held_out, messages, left_out=unused, test_name=test or "test")


def _labelled(images: Images) -> bool:
    """False for splits published without labels, which are all -1 in the Hugging Face layout."""
    return not len(images) or bool((images.labels_N != -1).any())


def _check_labels(where: str, split: str, images: Images, names: Sequence[str], most: int) -> None:
    """Raises a `DataError` if a label is negative, or not below the number of classes, which is at most `most`."""
    top = len(names) or most
    bad = np.flatnonzero((images.labels_N < 0) | (images.labels_N >= top))
    if len(bad):
        label, name = int(images.labels_N[bad[0]]), images.name(int(bad[0]))
        may = f"0 to {top - 1}" if names else f"0 or more, below the {most} training images"
        raise DataError(f"{where}: {name}: label {label} is out of range, may be {may} ({len(bad)} such in {split})")
