"""Opens the store at a URL: a directory or an S3 bucket, with the same layout and the same guarantees.

Objects are published atomically: a reader sees the whole object or none. A scheme's code is imported when one of its stores
is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from cluster.stores.errors import StoreError


class Store(Protocol):
    """Objects by key; keys are relative paths with forward slashes."""

    url: str

    def read(self, key: str) -> bytes:
        """The whole object; raises `MissingObject` if there is none."""

    def open(self, key: str) -> IO[bytes]:
        """The object as a file to read parts of; raises `MissingObject` if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Publishes an object atomically, replacing an earlier one."""

    def publish(self, key: str, path: Path) -> None:
        """Publishes a file's content like `write`, without loading the whole file into memory."""

    def create(self, key: str, data: bytes) -> bool:
        """Publishes an object unless it exists (then False); of concurrent calls one succeeds."""

    def keys(self, prefix: str = "") -> list[str]:
        """Every key that starts with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Removes an object, if it exists."""


def _always(url: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of store.

    open: the store at a URL, or a `StoreError`. example: the form of its URLs, for messages; "" omits it there.
    exists: whether there is a store to read at a URL; True where only opening it shows this.
    shared: whether every machine, such as a pod, finds the same objects at the same URL.
    """

    open: Callable[[str], Store]
    example: str = ""
    exists: Callable[[str], bool] = _always
    shared: bool = False


def directory_of(url: str) -> Path:
    """The directory of a path or a `file://` URL, absolute; `~` is the home directory."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "file":
        return Path(os.path.expanduser(url)).absolute()
    path = unquote(rest.removeprefix("//"))
    if rest.startswith("//") and not path.startswith("/"):
        raise StoreError(f"{url}: a store is {_examples()}, not file:// of another machine")
    return Path(path).absolute()


def _open_directory(url: str) -> Store:
    from cluster.stores.directory import DirectoryStore

    root = directory_of(url)
    if root.exists() and not root.is_dir():
        raise StoreError(f"{url}: is a file; a store is {_examples()}")
    return DirectoryStore(root)


def _directory_exists(url: str) -> bool:
    return directory_of(url).exists()


def _open_s3(url: str) -> Store:
    from cluster.stores.s3 import S3Store

    bucket, _, prefix = url.partition("://")[2].partition("/")  # not urlsplit, which cuts a prefix at # and ?
    if not bucket:
        raise StoreError(f"{url}: no bucket; a bucket is written s3://bucket/prefix")
    return S3Store(bucket, prefix.strip("/"))


SCHEMES: dict[str, Scheme] = {
    "": Scheme(_open_directory, "a directory", _directory_exists),
    "file": Scheme(_open_directory, "", _directory_exists),
    "s3": Scheme(_open_s3, "s3://bucket/prefix", shared=True),
}


def scheme_of(url: str) -> Scheme:
    """The kind of store that a URL names; raises a `StoreError` if there is none."""
    if not url.strip():
        raise StoreError(f"the store is ''; a store is {_examples()}")
    name = urlsplit(url).scheme
    if name not in SCHEMES:
        raise StoreError(f"{url}: a store is {_examples()}, not {name}://")
    return SCHEMES[name]


def open_store(url: str) -> Store:
    """The store at a directory or at `s3://bucket/prefix`; raises a `StoreError` if it cannot be used."""
    return scheme_of(url).open(url)


def _examples() -> str:
    return " or ".join(scheme.example for scheme in SCHEMES.values() if scheme.example)
