"""Reads Parquet shards in the Hugging Face image layout: `image: {bytes, path}` and an integer `label`.

    train-00000-of-00005.parquet, test-00000-of-00001.parquet            or train/0000.parquet, test/0000.parquet

A split called validation (val, valid, dev, eval) is the test split where there is no labelled test.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from os.path import splitext
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import InputError
from cluster.store import Store
from jobs.images.decoding import DataError, first_line, first_names, printable
from jobs.images.stored import Source, StoredImages, columns_of, image_column, source_of, split_named

LABEL_NAMES = ("label", "labels", "fine_label")
EXPECTED = "train-*.parquet (and test-*.parquet) with image and label"


def read(store: Store, keys: Sequence[str]) -> Source:
    """The data set in the Parquet files among `keys`; raises a `DataError` if it cannot be used."""
    by_split: dict[str, list[str]] = {}
    folders: dict[str, str] = {}  # of every configuration, a file
    other: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        if not key.lower().endswith(".parquet"):
            other[splitext(key)[1].lower() or "without a suffix"].append(key)
            continue
        split, folder = _split_of(key)
        if split is None:
            raise DataError(
                f"{store.url}/{printable(key)}: which split is this? Call it train-*.parquet, validation-* or test-*, "
                "or move it"
            )
        by_split.setdefault(split, []).append(key)
        folders.setdefault(folder, key)
    if len(folders) > 1:
        some = first_names([f"{folder or '.'}/ ({key})" for folder, key in folders.items()])
        raise DataError(
            f"{store.url}: Parquet files of {len(folders)} data sets: {some}; let data.source be the folder of one of them"
        )
    names: tuple[str, ...] = ()
    named_by = labelled_by = label = ""
    splits = {}
    notes = []
    for split, files in by_split.items():
        notes += _missing_shards(store, files, split)
        parts = []
        groups = 0
        for number, key in enumerate(files):
            column, labels, group_R, found = _read_labels(store, key, split)
            where = f"{store.url}/{printable(key)}"
            if label and column != label:
                raise DataError(
                    f"{where}: its labels are in {column!r}, those of {labelled_by} in {label!r}; use one column"
                )
            if found and names and found != names:
                raise DataError(f"{where}: {_difference(found, names, printable(named_by))}")
            label, labelled_by = column, labelled_by or printable(key)
            if found:
                names, named_by = found, named_by or key
            parts.append((np.full(len(labels), number, np.int32), np.arange(len(labels), dtype=np.int32),
                          group_R + groups, labels))  # fmt: skip
            groups += int(group_R.max(initial=-1)) + 1
        file_N, row_N, group_N, labels_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        splits[split] = StoredImages(store.url, tuple(files), file_N, row_N, group_N.astype(np.int32), labels_N)
    return source_of(store.url, splits, names, EXPECTED, tuple(notes), other)


def _split_of(key: str) -> tuple[str | None, str]:
    """The split of a Parquet file, by its name or else by its folder's, and the folder of its data set."""
    path = PurePosixPath(key)
    folders = list(path.parts[:-1])
    split = _split_in(path.name)
    if folders and (above := _split_in(folders[-1])):
        folders.pop()
        split = split or above
    return split, "/".join(folders)


def _split_in(name: str) -> str | None:
    """The split in a name such as train-00000-of-00005.parquet."""
    stem = re.match(r"[a-z]+([_-][a-z]+)*", name.lower().removesuffix(".parquet"))
    word = re.sub(r"[_-]of$", "", stem[0]) if stem else ""
    return split_named(word)


def _missing_shards(store: Store, files: Sequence[str], split: str) -> list[str]:
    """A line on shards that are not there, by names such as train-00000-of-00005.

    Raises a `DataError` if the names are of two exports, whose images would be read twice.
    """
    numbers: dict[int, dict[int, str]] = defaultdict(dict)  # by the number of shards
    for key in files:
        if found := re.search(r"(\d+)-of-(\d+)", PurePosixPath(key).name):
            numbers[int(found[2])][int(found[1])] = key
    if len(numbers) > 1:
        both = " and ".join(next(iter(shards.values())) for shards in list(numbers.values())[:2])
        raise DataError(f"{store.url}: {both} are of two exports of the {split} split; keep one of them")
    for total, shards in numbers.items():
        if len(shards) < total:
            first = next(number for number in range(total + 1) if number not in shards)
            return [f"data: {split} has {len(shards)} of {total} shards; the first that is missing is number {first}"]
    return []


def _difference(found: Sequence[str], names: Sequence[str], named_by: str) -> str:
    """How the class names of a file differ from those of another one."""
    if len(found) != len(names):
        what = f"{len(found)} class names, {named_by} has {len(names)}"
        return f"it has {what}; all files need the same names in the same order"
    first = next(number for number, (a, b) in enumerate(zip(found, names, strict=True)) if a != b)
    here, there = first_names(found[first:]), first_names(names[first:])
    since = f" from class {first} on" if first else ""
    same = "all files need the same names in the same order"
    return f"its class names{since} are {here}, those of {named_by} are {there}; {same}"


def _read_labels(store: Store, key: str, split: str) -> tuple[str, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The column of labels, labels [R], each row's group [R], and the class names, if the file has them.

    Labels of a split other than train may all be null, as of images published without them; they are -1.
    """
    where = f"{store.url}/{printable(key)}"
    state = "is no Parquet file"
    try:
        with store.open(key) as stream:
            file = pq.ParquetFile(stream)
            state = "is damaged"
            schema = file.schema_arrow
            image_column(schema, where)
            column = next((name for name in LABEL_NAMES if schema.names.count(name) == 1), None)
            if column is None:
                raise DataError(f"{where}: no integer column {LABEL_NAMES[0]!r}; there are {columns_of(schema)}")
            labels = file.read(columns=[column]).column(column)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            notes = (schema.metadata or {}).get(b"huggingface", b"{}")
            if isinstance(labels.type, pa.DictionaryType):
                labels = labels.cast(labels.type.value_type)
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise DataError(f"{where}: {state}: {first_line(error)}; restore the file") from None
    group_R = np.repeat(np.arange(len(sizes)), sizes)
    names = _class_names(notes, column, where)
    if split != "train" and len(labels) and labels.null_count == len(labels):
        return column, np.full(len(labels), -1), group_R, names
    if not pa.types.is_integer(labels.type):
        raise DataError(
            f"{where}: no integer column {column!r}; there are {columns_of(schema)}; number the classes from 0 on"
        )
    if labels.null_count:
        row = next(row for row, value in enumerate(labels) if not value.is_valid)
        raise DataError(f"{where}: {labels.null_count} of {len(labels)} rows have no {column!r}, the first is row {row}")
    values_R = labels.to_numpy()
    if values_R.dtype == np.uint64:  # what is beyond int64 stays out of range
        values_R = np.minimum(values_R, np.uint64(np.iinfo(np.int64).max))
    return column, values_R.astype(np.int64), group_R, names


def _class_names(notes: bytes, column: str, where: str) -> tuple[str, ...]:
    """Class names of the features that Hugging Face's `datasets` writes into a schema's metadata; () if there are none."""
    try:
        doc = json.loads(notes)
        for name in ("info", "features", column, "names"):
            doc = doc.get(name) if isinstance(doc, dict) else None
    except (ValueError, RecursionError):
        raise DataError(
            f"{where}: its metadata 'huggingface' is not JSON; write the file again, or without this metadata"
        ) from None
    names = tuple(str(name) for name in doc) if isinstance(doc, list) else ()
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise DataError(f"{where}: its metadata 'huggingface' has the class name {printable(twice)!r} twice")
    return names
