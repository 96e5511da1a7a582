"""Files that commands write under a new name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster import address
from cluster.errors import InputError
from cluster.reading import shortened
from cluster.stores.directory import check_directory


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


def output_file(option: str, given: str) -> Path:
    """The file that a command writes at its end, which may exist; an `InputError` before any work if it cannot be."""
    if given and address.split(given)[0]:
        raise InputError(f"{option} {shortened(given)}: is an address; give the path of the file to write")
    place = address.directory(given)
    try:
        if not given or given.endswith("/") or place.is_dir():
            raise InputError(f"{option} {shortened(repr(given))}: is a directory; name the file to write")
        check_directory(place.parent)
        place.stat()
    except FileNotFoundError:
        pass
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{option} {shortened(given)}: cannot write: {reason}; choose another place") from None
    return place


def write_output(option: str, place: Path, data: bytes) -> None:
    """Writes that file, in a new directory where there is none; an `InputError` if it cannot be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    except OSError as error:
        raise unwritable(option, str(place), error) from None


def unwritable(option: str, given: str, error: OSError) -> InputError:
    """The error of a file that cannot be written."""
    return InputError(f"{option} {shortened(given)}: cannot write: {error.strerror}; choose another place")
