"""Named arrays as bytes, without pickled objects."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ofa.checks import shown


class NpzError(ValueError):
    """Bytes that do not hold the expected arrays; the message is one line without the file's name."""


def pack(**arrays: np.ndarray | float | str) -> bytes:
    """The arrays as the content of a compressed npz file."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def save(path: Path, **arrays: np.ndarray) -> None:
    """Writes the arrays to `path` as a compressed npz file; arrays on disk are copied in small steps."""
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **named)


def unpack(data: bytes, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names; bytes that do not hold them are an `NpzError`. Other members are not read.

    Arrays are in C order and the machine's byte order; half floats are float32, and long doubles float64.
    """
    with _opened(data) as archive:
        there = _members(archive)
        if (missing := next((name for name in names if name not in there), None)) is not None:
            raise NpzError(f"it has no {missing!r}; expected {', '.join(names)}")
        return [_array(archive, there[name], name) for name in names]


def unpack_all(data: bytes) -> dict[str, np.ndarray]:
    """Every array by its name, as `unpack` reads them; bytes that are not an npz file are an `NpzError`."""
    with _opened(data) as archive:
        return {name: _array(archive, member, name) for name, member in _members(archive).items()}


def names(data: bytes) -> set[str]:
    """The names of the arrays; bytes that are not an npz file are an `NpzError`."""
    with _opened(data) as archive:
        return set(_members(archive))


def floats(array: np.ndarray, name: str, shape: Sequence[int | None]) -> np.ndarray:
    """`array` itself, of numbers in this shape (None: any length); one of another shape or not finite is an `NpzError`."""
    expected = f"numbers in the shape [{', '.join('any' if length is None else str(length) for length in shape)}]"
    if array.dtype.kind not in "iuf":
        raise NpzError(f"its {name!r} is of the type {array.dtype}; expected {expected}")
    if len(shape) != array.ndim or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise NpzError(f"its {name!r} has the shape {list(array.shape)}; expected {expected}")
    if not np.isfinite(array).all():
        raise NpzError(f"its {name!r} has values that are not finite; expected {expected}")
    return array


_KINDS = {b"\x93NUMPY": "one array (.npy)", b"\x1f\x8b": "compressed by gzip", b"\x80": "a pickle", b"\x89HDF": "HDF5"}


@contextmanager
def _opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    if not data.startswith(b"PK"):
        kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), "" if data else "empty")
        raise NpzError(f"it is not an npz file{kind and f', but {kind}'}; numpy.savez makes them")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # on damaged data zipfile raises a dozen kinds
        raise NpzError(f"it is not a readable npz file: {_reason(error)}") from None
    with archive:
        yield archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise NpzError(f"it has {shown(name)} twice; write the file again")
        if member.filename != name:
            found[name] = member
    if not found:
        raise NpzError("it is a zip file without arrays, not an npz file; numpy.savez makes them")
    return found


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if member.file_size > memory:
        raise NpzError(
            f"its {shown(name)} has {member.file_size / 2**30:.1f} GiB, this machine {memory / 2**30:.1f} GiB of memory"
        )
    try:
        with archive.open(member) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Python 2 wrote
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):
                raise NpzError(f"its {shown(name)} is longer than its shape; write the file again")
    except NpzError:
        raise
    except Exception as error:  # on damaged data zipfile, zlib and numpy raise a dozen kinds
        raise NpzError(f"its {shown(name)} cannot be read: {_reason(error)}") from None
    if array.dtype.kind not in "biufUS":
        raise NpzError(f"its {shown(name)} is of the type {shown(str(array.dtype))}; expected numbers or text")
    kinds: dict[str, np.dtype[Any]] = {"f2": np.dtype(np.float32), "f12": np.dtype(np.float64), "f16": np.dtype(np.float64)}
    kind: np.dtype[Any] = kinds.get(f"{array.dtype.kind}{array.dtype.itemsize}", array.dtype.newbyteorder("="))
    with np.errstate(over="ignore"):  # of long doubles: infinity, which readers refuse
        return np.asarray(array, dtype=kind, order="C")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
