"""Resolves `data.source` to a labelled data set: the readers of images, by name.

A source is "digits", or a directory or s3://bucket/prefix with Parquet shards or a folder for each class. Nothing is
decoded here, and nothing heavy is imported before a reader opens a source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cluster.store import Store, open_store

if TYPE_CHECKING:
    from jobs.images.stored import Source


class Location:
    """The location of a source. text: `data.source`; its store is opened and listed only when a reader needs it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def store(self) -> Store:
        """The store at this location; raises a `StoreError` if it cannot be one."""
        return open_store(self.text)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the store, sorted, without those that have a part that starts with a dot."""
        return [key for key in self.store.keys() if not any(part.startswith(".") for part in PurePosixPath(key).parts)]


def _no_text(text: str) -> bool:
    return False


def _no_keys(keys: Sequence[str]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reader:
    """One way in which labelled images are stored.

    open: the data set at a location, or a `DataError`. expects: the objects in a store that it reads,
    for messages; "" if it reads no store.
    A reader is chosen if it accepts the text of `data.source`, or else the keys of the store there.
    embedded: the images are part of a package, so that every pod has them, and they have no splits of their own:
    `data.selection` and `data.test` must be shares of them.
    """

    open: Callable[[Location], Source]
    expects: str
    accepts_text: Callable[[str], bool] = _no_text
    accepts_keys: Callable[[Sequence[str]], bool] = _no_keys
    embedded: bool = False


def _digits(location: Location) -> Source:
    from jobs.images.digits import read

    return read()


def _parquet(location: Location) -> Source:
    from jobs.images.parquet import read

    return read(location.store, location.keys)


def _folders(location: Location) -> Source:
    from jobs.images.folders import read

    return read(location.store, location.keys)


def _has_parquet(keys: Sequence[str]) -> bool:
    return any(key.endswith(".parquet") for key in keys)


def _has_image_files(keys: Sequence[str]) -> bool:
    from jobs.images.folders import is_image

    return any(is_image(key) for key in keys)


READERS: dict[str, Reader] = {
    "digits": Reader(_digits, "", accepts_text=lambda text: text == "digits", embedded=True),
    "parquet": Reader(_parquet, "train-*.parquet (and test-*.parquet) with image and label", accepts_keys=_has_parquet),
    "folders": Reader(_folders, "a folder for each class", accepts_keys=_has_image_files),
}


def reader_of_text(text: str) -> Reader | None:
    """The reader that accepts the text of `data.source`, without opening a store; None if it names a store."""
    return next((reader for reader in READERS.values() if reader.accepts_text(text)), None)


def open_source(text: str) -> Source:
    """The data set that `data.source` names; raises a `DataError` with the place and the reason if it cannot be used."""
    location = Location(text)
    reader = reader_of_text(text)
    if reader is None:
        reader = next((reader for reader in READERS.values() if reader.accepts_keys(location.keys)), None)
    if reader is None:
        from jobs.images.decoding import DataError

        expected = ", or ".join(reader.expects for reader in READERS.values() if reader.expects)
        raise DataError(f"{location.store.url}: no images there; expected {expected}")
    return reader.open(location)
