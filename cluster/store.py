"""Where results live: a directory or an S3 bucket, with the same layout and the same guarantees.

Objects appear whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from cluster.stores.directory import DirectoryStore
from cluster.stores.errors import StoreError
from cluster.stores.s3 import S3Store


class Store(Protocol):
    """Objects by key; keys are relative paths with forward slashes."""

    url: str

    def read(self, key: str) -> bytes:
        """The whole object; `MissingObject` if there is none."""

    def open(self, key: str) -> IO[bytes]:
        """The object as a file to read parts of; `MissingObject` if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Publishes an object, replacing an earlier one, in one atomic step."""

    def publish(self, key: str, path: Path) -> None:
        """As `write`, of a file's content, which is never in memory as a whole."""

    def create(self, key: str, data: bytes) -> bool:
        """Publishes an object unless one is there already (then False): of many that try at once one succeeds."""

    def keys(self, prefix: str = "") -> list[str]:
        """Every key that starts with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is fine."""


def open_store(url: str) -> Store:
    """The store at a directory or at `s3://bucket/prefix`; one that cannot be used is a `StoreError`."""
    if not url.strip():
        raise StoreError("the store is ''; a store is a directory or s3://bucket/prefix")
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise StoreError(f"{url}: no bucket; a bucket is written s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme not in ("", "file") or (parts.scheme == "file" and parts.netloc):
        raise StoreError(f"{url}: a store is a directory or s3://bucket/prefix, not {parts.scheme}://")
    return DirectoryStore(Path(parts.path if parts.scheme else url))
