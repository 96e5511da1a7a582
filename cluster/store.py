"""Opens the store at a URL: a directory or an S3 bucket, with the same layout and the same guarantees.

Objects are published atomically: a reader sees the whole object or none. A scheme's code is imported when one of its stores
is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from cluster import address
from cluster.errors import StepError
from cluster.stores.errors import StoreError, Unreachable
from cluster.stores.leftover import Leftover
from cluster.stores.outages import Outage


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

    def leftovers(self, prefix: str = "") -> list[Leftover]:
        """What unfinished writes of keys that start with `prefix` have left, where a store has such things.

        Those of this machine's living processes are left out; others may still be in progress while they are young.
        """

    def discard(self, leftover: Leftover) -> None:
        """Removes a leftover."""


def _always(url: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of store.

    open: the store at a URL, or a `StoreError`. example: the form of its URLs, for messages; "" omits it there.
    url: the one spelling of an address, or a `StoreError`; the other functions are called with it.
    exists: whether there is a store to read at a URL; True where only opening it shows this.
    shared: whether every machine, such as a pod, finds the same objects at the same URL.
    check: raises a `StoreError` if nothing can be written at a URL, where that is known without writing.
    """

    open: Callable[[str], Store]
    example: str = ""
    exists: Callable[[str], bool] = _always
    shared: bool = False
    url: Callable[[str], str] = address.portable
    check: Callable[[str], object] = _always


def _directory_url(text: str) -> str:
    return str(address.directory(text))


def _open_directory(url: str) -> Store:
    from cluster.stores.directory import DirectoryStore

    if _directory_exists(url) and not Path(url).is_dir():
        raise StoreError(f"{address.shown(url)}: is a file; a store is {_examples()}")
    return DirectoryStore(Path(url))


def _check_directory(url: str) -> None:
    from cluster.stores.directory import check_directory

    check_directory(Path(url))


def _directory_exists(url: str) -> bool:
    try:
        Path(url).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(f"{address.shown(url)}: {error.strerror}; a store is {_examples()}") from None
    return True


def _s3_url(text: str) -> str:
    bucket, prefix = address.bucket(text)
    return f"s3://{bucket}/{prefix}".rstrip("/")


def _open_s3(url: str) -> Store:
    from cluster.stores.s3 import S3Store

    return S3Store(*address.bucket(url))


SCHEMES: dict[str, Scheme] = {
    "": Scheme(_open_directory, "a directory", _directory_exists, url=_directory_url, check=_check_directory),
    "file": Scheme(_open_directory, "", _directory_exists, url=_directory_url, check=_check_directory),
    "s3": Scheme(_open_s3, "s3://bucket/prefix", shared=True, url=_s3_url),
}
# What users of other tools write for the same things.
_ALIASES = {
    **dict.fromkeys(("s3a", "s3n"), "a bucket is written s3://bucket/prefix"),
    "gs": "a bucket of Google is written s3://bucket/prefix, with AWS_ENDPOINT_URL_S3=https://storage.googleapis.com",
    **dict.fromkeys(("http", "https"), "a server of buckets is named by AWS_ENDPOINT_URL_S3"),
}


def scheme_of(text: str) -> Scheme:
    """The kind of store that an address names; raises a `StoreError` if there is none."""
    if not text.strip():
        raise StoreError(f"the store is {text!r}; a store is {_examples()}")
    name, rest = address.split(text)
    if name not in SCHEMES:
        found = f"{name}://" if rest.startswith("//") else f"{name}:"
        hint = _ALIASES.get(name)
        if hint is None and not rest.startswith("//"):
            hint = f"a directory of this name is ./{address.shown(text)}"
        raise StoreError(f"{address.shown(text)}: a store is {_examples()}, not {found}{f'; {hint}' if hint else ''}")
    return SCHEMES[name]


def canonical(text: str) -> str:
    """The one spelling of the address of a store: an absolute path, or scheme://place/prefix; or a `StoreError`."""
    return scheme_of(text).url(text)


def exists(text: str) -> bool:
    """Whether there is a store to read at an address; True where only opening it shows this."""
    scheme = scheme_of(text)
    return scheme.exists(scheme.url(text))


def open_store(text: str) -> Store:
    """The store at a directory or at `s3://bucket/prefix`; raises a `StoreError` if it cannot be used."""
    scheme = scheme_of(text)
    return scheme.open(scheme.url(text))


def open_known(text: str) -> Store:
    """The store that another process of the same command has opened: an outage is waited for, and then a `StepError`."""
    outage = Outage()
    while True:
        try:
            return open_store(text)
        except Unreachable as error:
            if not outage.wait():
                raise StepError(f"{error}; run the same command again, what is finished is kept") from None


def open_output(text: str) -> Store:
    """The store to which the result of long work will be written; a `StoreError` before that work if it cannot be."""
    store = open_store(text)
    check_output(text)
    return store


def check_output(text: str) -> None:
    """Raises a `StoreError` if nothing can be written at an address, where that is known without writing."""
    scheme = scheme_of(text)
    scheme.check(scheme.url(text))


def read_object(text: str) -> bytes:
    """The object at a path or at `s3://bucket/key`."""
    url = canonical(text)
    place, _, key = url.rpartition("/")
    if not key or place.endswith("/"):
        raise StoreError(f"{address.shown(text)}: names no object; give its whole address")
    return open_store(place or "/").read(key)


def _examples() -> str:
    return " or ".join(scheme.example for scheme in SCHEMES.values() if scheme.example)
