"""Named arrays as bytes, without pickled objects."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


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
    """The arrays of these names; bytes that do not hold them are an `NpzError`."""
    arrays = unpack_all(data)
    if (missing := next((name for name in names if name not in arrays), None)) is not None:
        raise NpzError(f"it has no {missing!r}; expected {', '.join(names)}")
    return [arrays[name] for name in names]


def unpack_all(data: bytes) -> dict[str, np.ndarray]:
    """Every array by its name; bytes that are not an npz file are an `NpzError`."""
    if not data.startswith(b"PK"):
        raise NpzError("it is not an npz file")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # on damaged data zipfile, zlib and numpy raise a dozen kinds
        raise NpzError(f"it is not a readable npz file: {error}") from None
