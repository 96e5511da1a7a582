"""Files that commands write under a new name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster import address
from cluster.errors import InputError
from cluster.reading import shortened


def new_file(option: str, given: str, suffixes: Sequence[str], example: str) -> Path:
    """The file that does not exist yet; an `InputError` that names the option if it does or cannot be written.

    suffixes: the ends that its name may have. example: what to give instead, for the error.
    """
    where = f"{option} {shortened(given)}"
    if address.split(given)[0] not in ("", "file"):
        raise InputError(f"{where}: is an address; give the path of the file to write")
    place = address.directory(given)
    if place.suffix not in suffixes:
        raise InputError(f"{where}: give {example}")
    try:
        if place.exists() or place.is_symlink():
            raise InputError(f"{where}: is there already; give another name, or delete it")
        if not place.parent.is_dir():
            raise InputError(f"{where}: there is no directory {shortened(str(place.parent))}; make it first")
    except OSError as error:
        raise unwritable(option, given, error) from None
    return place


def unwritable(option: str, given: str, error: OSError) -> InputError:
    """The error of a file that cannot be written."""
    return InputError(f"{option} {shortened(given)}: cannot write: {error.strerror}; choose another place")
