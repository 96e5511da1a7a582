"""Objects as files in a directory: each is written under a temporary name, synced, and renamed."""

from __future__ import annotations

import errno
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from cluster.errors import NoSpace
from cluster.stores.errors import MissingObject, StoreError, UnreadableObject
from cluster.stores.leftover import Leftover
from cluster.stores.observed import timed

_TEMPORARY = ".tmp"


def check_directory(root: Path) -> None:
    """Raises a `StoreError` if files cannot be written to this directory, which need not be there yet. Nothing is made.

    For results of long work, whose place is checked before it.
    """
    for folder in (root, *root.parents):
        try:
            if not folder.is_dir():
                folder.stat()
                reason = errno.ENOTDIR
            else:
                reason = 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = error.errno or errno.EIO
        if reason:
            raise StoreError(f"{root}: cannot be written to: {os.strerror(reason)}; choose another place")
        return


class DirectoryStore:
    """Objects as files; each is written under a temporary name, synced, and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)  # absolute, since workers with other working directories open it too
        self._swept = False

    @timed
    def read(self, key: str) -> bytes:
        """The whole object; raises `MissingObject` if there is none."""
        with self.open(key) as file:
            try:
                return file.read()
            except OSError as error:
                raise self._no_read(key, error.strerror) from None

    def open(self, key: str) -> IO[bytes]:
        """The object as a file to read parts of; raises `MissingObject` if there is none."""
        path = self._path(key)
        try:
            if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # opening a pipe waits for its writer
                raise self._no_read(key, "it is no regular file")
            return path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise MissingObject(f"{self.url}: there is no {key}") from None
        except OSError as error:
            raise self._no_read(key, error.strerror) from None

    @timed
    def write(self, key: str, data: bytes) -> None:
        """Publishes an object atomically, replacing an earlier one; raises `NoSpace` if the store is full."""
        with self._temporary(key, data) as (temporary, path):
            temporary.replace(path)

    @timed
    def publish(self, key: str, path: Path) -> None:
        """Publishes a file's content like `write`, without loading the whole file into memory."""
        with self._temporary(key, path) as (temporary, target):
            temporary.replace(target)

    @timed
    def create(self, key: str, data: bytes) -> bool:
        """Publishes an object unless there is one of that key (then False); of concurrent calls one succeeds."""
        with self._temporary(key, data) as (temporary, path):
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
            return True

    @timed
    def keys(self, prefix: str = "") -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        if prefix.startswith("/") or ".." in prefix.split("/"):  # no key does
            return []
        top = self.root / PurePosixPath(prefix).parent if prefix and not prefix.endswith("/") else self.root / prefix
        found = []
        for directory, names, files in os.walk(top, followlinks=True, onerror=self._unreadable):
            names[:] = [name for name in names if name != _TEMPORARY and not _is_loop(self.root, Path(directory, name))]
            here = Path(directory).relative_to(self.root)
            found += [(here / name).as_posix() for name in files]
        return sorted(key for key in found if key.startswith(prefix))

    @timed
    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, NotADirectoryError):  # there is no such object
            return
        except OSError as error:
            raise StoreError(f"{self.url}: cannot delete {key}: {error.strerror}") from None
        for parent in path.parents:  # a bucket has no empty directories either
            if parent == self.root:
                break
            try:
                parent.rmdir()
            except OSError:  # not empty, or another process works there
                break

    def leftovers(self, prefix: str = "") -> list[Leftover]:
        """Temporary files of writers that are not known to live; they do not have the keys, so `prefix` has to be ""."""
        found, now = [], time.time()
        for path in sorted((self.root / _TEMPORARY).glob("*")) if not prefix else []:
            with suppress(FileNotFoundError):
                if _writer_lives(path.name) is not True and path.is_file():
                    status = path.stat()
                    age_s = math.inf if _writer_lives(path.name) is False else now - status.st_mtime
                    found.append(Leftover(f"{_TEMPORARY}/{path.name}", path.name, status.st_size, age_s))
        return found

    def discard(self, leftover: Leftover) -> None:
        """Removes a temporary file."""
        try:
            (self.root / _TEMPORARY / leftover.handle).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.url}: cannot delete {leftover.name}: {error.strerror}") from None

    def _no_read(self, key: str, reason: str | None) -> UnreadableObject:
        """The error for an object that is there and cannot be read."""
        hint = "; give this user the right to read it" if reason == os.strerror(errno.EACCES) else ""
        return UnreadableObject(f"{self.url}: cannot read {key}: {reason}{hint}", str(reason))

    def _unreadable(self, error: OSError) -> None:
        """Ignores a missing directory, which has no keys; raises a `StoreError` for one that cannot be listed."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoreError(f"{error.filename}: cannot be listed: {error.strerror}; give this user the right to read it")

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..", _TEMPORARY) for part in parts) or "\0" in key:
            raise StoreError(f"{self.url}: {key!r} is not a key; keys are relative paths inside the store")
        return self.root.joinpath(*parts)

    @contextmanager
    def _temporary(self, key: str, data: bytes | Path) -> Iterator[tuple[Path, Path]]:
        path = self._path(key)
        temporary: Path | None = None
        try:
            folder = self.root / _TEMPORARY
            folder.mkdir(parents=True, exist_ok=True)
            self._sweep(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{os.uname().nodename}-{os.getpid()}-", dir=folder)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(handle)
            yield temporary, path
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                size = data.stat().st_size if isinstance(data, Path) else len(data)
                raise NoSpace(
                    f"{self.url}: no space left for {key} ({size / 2**20:.1f} MiB); "
                    "free some and run the same command again, what is finished is kept"
                ) from None
            raise StoreError(f"{self.url}: cannot write {key}: {error.strerror}; choose another --store") from None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def _sweep(self, folder: Path) -> None:
        """Removes, once, the temporary files of killed processes of this machine."""
        if self._swept or not Path("/proc/self").exists():
            return
        self._swept = True
        for left in folder.glob(f"{os.uname().nodename}-*"):
            if _writer_lives(left.name) is False:
                left.unlink(missing_ok=True)


def _writer_lives(name: str) -> bool | None:
    """Whether the process that made a temporary file of this name lives; None where that is not known here."""
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    if host != os.uname().nodename or not rest.isdigit() or not Path("/proc/self").exists():
        return None
    return Path(f"/proc/{rest}").exists()


def _is_loop(root: Path, path: Path) -> bool:
    """Whether a path below `root` is a symbolic link to a directory that contains it."""
    if not path.is_symlink():
        return False
    target, above = path.resolve(), [parent.resolve() for parent in path.parents if parent.is_relative_to(root)]
    return any(parent.is_relative_to(target) for parent in above)
