"""Decodes image files to pixels on several threads, and counts the files that cannot be decoded.

Shape letters: N images, S side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL.Image import Image

from cluster.errors import InputError
from ofa.decode import CorruptImage, centre, decode

MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "RGBA": "with transparency", "P": "palette",
    "I;16": "16-bit grey", "I;16B": "16-bit grey", "I": "32-bit grey", "F": "floating-point grey",
}  # fmt: skip
LISTED = 5  # files that a message names


class DataError(InputError):
    """Images or labels that cannot be used."""


def printable(name: str) -> str:
    """A name in one line: what cannot be printed, such as a line feed or a byte that is not UTF-8, is escaped."""
    if name.isprintable():
        return name
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return "".join(escaped)


def first_names(names: Sequence[str], most: int = LISTED) -> str:
    """The first names, printable, and the number of further ones."""
    more = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the content of an image file that cannot be read."""

    reason: str


@dataclass
class DecodingCounts:
    """The files of a source that could not be decoded, and the colour modes of those that could.

    source: `data.source`, for messages. limit: number of files that may be skipped.
    """

    source: str
    limit: int
    failed: dict[str, str] = field(default_factory=dict)  # reason of every file that was skipped, by its name
    modes: dict[str, int] = field(default_factory=dict)  # number of images by the mode that they were stored in

    def add_failure(self, name: str, reason: str) -> None:
        """Counts a file once; raises a `DataError` if more than `limit` were skipped."""
        self.failed[name] = reason
        if len(self.failed) > self.limit:
            raise DataError(
                f"{self.source}: {len(self.failed)} images cannot be decoded, data.max_corrupt allows {self.limit}: "
                f"{self.failures()}; repair or remove them, or raise data.max_corrupt"
            )

    def failures(self) -> str:
        """The first skipped files with their reasons, and the number of further ones."""
        shown = [f"{name} ({reason})" for name, reason in list(self.failed.items())[:LISTED]]
        more = len(self.failed) - LISTED
        return ", ".join(shown) + (f", and {more} more" if more > 0 else "")

    def messages(self) -> list[str]:
        """Lines for the user: which files were skipped, and which colour modes were converted to RGB."""
        lines = []
        if self.failed:
            count = "1 image" if len(self.failed) == 1 else f"{len(self.failed)} images"
            lines.append(f"data: {count} skipped, cannot be decoded: {self.failures()}")
        other: dict[str, int] = {}
        for mode, images in sorted(self.modes.items()):
            if mode != "RGB":
                other[MODES.get(mode, mode)] = other.get(MODES.get(mode, mode), 0) + images
        if other:
            lines.append("data: made RGB: " + ", ".join(f"{images} {kind}" for kind, images in other.items()))
        return lines


def decode_file(content: bytes | Unreadable) -> tuple[Image, str]:
    """The image, upright and in RGB, and its stored mode; raises a `CorruptImage` if it cannot be read or decoded."""
    if isinstance(content, Unreadable):
        raise CorruptImage(content.reason)
    if not content:
        raise CorruptImage("the file is empty")
    return decode(content)


def decode_central_squares(
    files: Iterable[Iterable[tuple[int, bytes | Unreadable]]],
    count: int,
    name: Callable[[int], str],
    side: int,
    crop: float,
    counts: DecodingCounts,
) -> tuple[np.ndarray, np.ndarray]:
    """The central squares of N images as uint8 [N, 3, S, S], and which of them could be decoded as bool [N].

    files: (position, file content) of every image, in parts; the files of one part are in memory together.
    name: of the image at a position, for messages. crop: share of the shorter side that is kept.
    Raises a `DataError` if more images than `counts` allows cannot be decoded.
    """
    pixels_N3SS, decoded_N = np.empty((count, 3, side, side), np.uint8), np.ones(count, bool)

    def one(item: tuple[int, bytes | Unreadable]) -> tuple[int, np.ndarray | str, str]:
        try:
            image, mode = decode_file(item[1])
        except CorruptImage as error:
            return item[0], str(error), ""
        return item[0], centre(image, side, crop), mode

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for part in files:
            for position, image, mode in threads.map(one, part):
                if isinstance(image, str):
                    decoded_N[position] = False
                    counts.add_failure(name(position), image)
                else:
                    pixels_N3SS[position] = image
                    counts.modes[mode] = counts.modes.get(mode, 0) + 1
    return pixels_N3SS, decoded_N


def chunks(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`order` in consecutive parts of `size` entries; the last one may be shorter."""
    for start in range(0, len(order), size):
        yield order[start : start + size]
