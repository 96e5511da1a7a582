"""Resolves `data.source` to a labelled data set: the readers of images, by name.

A source is "digits", or a directory or s3://bucket/prefix with Parquet shards or a folder for each class. Nothing is
decoded here, and nothing heavy is imported before a reader opens a source.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
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
        """The keys of the store, sorted, without the hidden ones."""
        return [key for key in self._all_keys if not _hidden(key)]

    @cached_property
    def hidden(self) -> list[str]:
        """The keys that have a part that starts with a dot."""
        return [key for key in self._all_keys if _hidden(key)]

    @cached_property
    def image_keys(self) -> list[str]:
        """The keys of image files."""
        from jobs.images.folders import image_keys

        return image_keys(self.store, self.keys)

    def empty_folders(self) -> list[str]:
        """Folders without a file, of a directory and of its splits' folders; a bucket has none."""
        from jobs.images.stored import split_named

        root, used = Path(self.store.url), {"/".join(key.split("/")[:depth]) for key in self._all_keys for depth in (1, 2)}
        found = []
        for name in _folders_in(root):
            found += [name] if name not in used else []
            if split_named(name) and name in used:
                found += [f"{name}/{one}" for one in _folders_in(root / name) if f"{name}/{one}" not in used]
        return found

    @cached_property
    def _all_keys(self) -> list[str]:
        return self.store.keys()


def _hidden(key: str) -> bool:
    return key.startswith(".") or "/." in key


def _folders_in(path: Path) -> list[str]:
    """The folders in a directory that are not hidden, sorted."""
    if not path.is_dir():
        return []
    return sorted(name for name in os.listdir(path) if not name.startswith(".") and (path / name).is_dir())


def _no_text(text: str) -> bool:
    return False


def _nowhere(location: Location) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Reader:
    """One way in which labelled images are stored.

    open: the data set at a location, or a `DataError`. expects: the objects in a store that it reads,
    for messages; "" if it reads no store.
    A reader is chosen if it accepts the text of `data.source`, or else the location there.
    embedded: the images are part of a package, so that every pod has them, and they have no splits of their own:
    `data.selection` and `data.test` must be shares of them.
    """

    open: Callable[[Location], Source]
    expects: str
    accepts_text: Callable[[str], bool] = _no_text
    accepts: Callable[[Location], bool] = _nowhere
    embedded: bool = False


def _digits(location: Location) -> Source:
    from jobs.images.digits import read

    return read()


def _parquet(location: Location) -> Source:
    from jobs.images.parquet import read

    return read(location.store, location.keys)


def _folders(location: Location) -> Source:
    from jobs.images.folders import read

    return read(location.store, location.keys, location.image_keys, location.empty_folders())


def _has_parquet(location: Location) -> bool:
    return any(key.lower().endswith(".parquet") for key in location.keys)


def _has_image_files(location: Location) -> bool:
    return any("/" in key for key in location.image_keys)


READERS: dict[str, Reader] = {
    "digits": Reader(_digits, "", accepts_text=lambda text: text == "digits", embedded=True),
    "parquet": Reader(_parquet, "train-*.parquet (and test-*.parquet) with image and label", accepts=_has_parquet),
    "folders": Reader(_folders, "a folder for each class", accepts=_has_image_files),
}


def reader_of_text(text: str) -> Reader | None:
    """The reader that accepts the text of `data.source`, without opening a store; None if it names a store."""
    return next((reader for reader in READERS.values() if reader.accepts_text(text)), None)


def open_source(text: str) -> Source:
    """The data set that `data.source` names; raises a `DataError` with the place and the reason if it cannot be used."""
    location = Location(text)
    reader = reader_of_text(text)
    if reader is not None:
        return reader.open(location)
    reader = next((reader for reader in READERS.values() if reader.accepts(location)), None)
    if reader is None:
        from jobs.images.decoding import DataError

        expected = ", or ".join(reader.expects for reader in READERS.values() if reader.expects)
        raise DataError(f"{location.store.url}: no images there; expected {expected}; {_there(location)}")
    source = reader.open(location)
    return replace(source, left_out={**source.left_out, "hidden": location.hidden}) if location.hidden else source


def _there(location: Location) -> str:
    """What is at a location without images, for messages."""
    if not location.keys:
        if location.hidden:
            return "there are only hidden files"
        return "it is empty" if Path(location.store.url).is_dir() else "there is nothing at that place"
    suffixes = Counter(os.path.splitext(key)[1].lower() or "without a suffix" for key in location.keys)
    loose = f", {len(location.image_keys)} of them images in no folder" if location.image_keys else ""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    return f"there are {len(location.keys)} files{loose}: {counts}"
