"""Named arrays as bytes, without objects: what is read is never unpickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class NpzError(ValueError):
    """Bytes that do not hold the arrays that were expected; the message is one line without the file's name."""


def pack(**arrays: np.ndarray | float | str) -> bytes:
    """The arrays as the content of a compressed npz file."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def save(path: Path, **arrays: np.ndarray) -> None:
    """The arrays as a compressed npz file at `path`; arrays that lie on disk are copied in small steps."""
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **named)


def unpack(data: bytes, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names; whatever stands in the way of that is an `NpzError`."""
    arrays = unpack_all(data)
    if (missing := next((name for name in names if name not in arrays), None)) is not None:
        raise NpzError(f"it has no {missing!r}; expected {', '.join(names)}")
    return [arrays[name] for name in names]


def unpack_all(data: bytes) -> dict[str, np.ndarray]:
    """Every array by its name; a file that cannot be read is an `NpzError`."""
    if not data.startswith(b"PK"):
        raise NpzError("it is not an npz file")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # on damaged data zipfile, zlib and numpy raise a dozen kinds
        raise NpzError(f"it is not a readable npz file: {error}") from None
