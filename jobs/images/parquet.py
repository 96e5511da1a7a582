"""Reads Parquet shards in the Hugging Face image layout: `image: {bytes, path}` and an integer `label`.

    train-00000-of-00005.parquet, test-00000-of-00001.parquet

A split called validation (val, valid) is the test split where there is no labelled test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.store import Store
from jobs.images.decoding import DataError
from jobs.images.stored import SPLIT_NAMES, Source, StoredImages, image_column, source_of

LABEL_NAMES = ("label", "labels", "fine_label")
EXPECTED = "train-*.parquet (and test-*.parquet) with image and label"


def read(store: Store, keys: Sequence[str]) -> Source:
    """The data set in the Parquet files among `keys`; raises a `DataError` if it cannot be used."""
    by_split: dict[str, list[str]] = {}
    for key in keys:
        if not key.endswith(".parquet"):
            continue
        stem = re.match(r"[a-z]+", PurePosixPath(key).name.lower())
        split = SPLIT_NAMES.get(stem[0] if stem else "")
        if split is None:
            raise DataError(f"{store.url}/{key}: which split is this? Call it train-*.parquet, validation-* or test-*")
        by_split.setdefault(split, []).append(key)
    names: tuple[str, ...] = ()
    named_by = ""
    splits = {}
    for split, files in by_split.items():
        parts = []
        groups = 0
        for number, key in enumerate(files):
            labels, group_R, found = _read_labels(store, key)
            if found and names and found != names:
                raise DataError(
                    f"{store.url}/{key}: its class names are {', '.join(found[:5])}, those of {named_by} are "
                    f"{', '.join(names[:5])}; all files need the same names in the same order"
                )
            if found:
                names, named_by = found, named_by or key
            parts.append((np.full(len(labels), number, np.int32), np.arange(len(labels), dtype=np.int32),
                          group_R + groups, labels))  # fmt: skip
            groups += int(group_R.max(initial=-1)) + 1
        file_N, row_N, group_N, labels_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        splits[split] = StoredImages(store.url, tuple(files), file_N, row_N, group_N.astype(np.int32), labels_N)
    return source_of(store.url, splits, names, EXPECTED)


def _read_labels(store: Store, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels [R], each row's group [R], and the class names, if the file has them."""
    where = f"{store.url}/{key}"
    try:
        with store.open(key) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            image_column(schema, where)
            column = next((name for name in LABEL_NAMES if name in schema.names), None)
            if column is None or not pa.types.is_integer(schema.field(column).type):
                there = ", ".join(
                    f"{name}: {kind}" for name, kind in zip(schema.names, map(_kind, schema.types), strict=True)
                )
                raise DataError(
                    f"{where}: no integer column {LABEL_NAMES[0]!r}; there are {there}; number the classes from 0 on"
                )
            labels = file.read(columns=[column]).column(column)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            notes = (schema.metadata or {}).get(b"huggingface", b"{}")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where}: is no Parquet file: {str(error).splitlines()[0]}") from None
    if labels.null_count:
        raise DataError(f"{where}: {labels.null_count} rows have no label")
    names = _class_names(notes, column, where)
    return labels.to_numpy().astype(np.int64), np.repeat(np.arange(len(sizes)), sizes), names


def _kind(kind: pa.DataType) -> str:
    """The name of a type in messages."""
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _class_names(notes: bytes, column: str, where: str) -> tuple[str, ...]:
    """Class names of the features that Hugging Face's `datasets` writes into a schema's metadata; () if there are none."""
    try:
        doc = json.loads(notes)
        for name in ("info", "features", column, "names"):
            doc = doc.get(name) if isinstance(doc, dict) else None
    except ValueError:
        raise DataError(
            f"{where}: its metadata 'huggingface' is not JSON; write the file again, or without this metadata"
        ) from None
    return tuple(str(name) for name in doc) if isinstance(doc, list) else ()
