"""Decodes image files to RGB pixels; a file that cannot be decoded is a `CorruptImage`.

Shape letter: S side in pixels.
"""

from __future__ import annotations

import ctypes
import io
import logging
import math
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

TURNED = {  # the operation that makes an image of each EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LONGEST = 64  # ratio of the sides: the centre of a longer image is cut first, so that resizing does not need gigabytes
MOST_PIXELS = 178_956_970  # Pillow's own limit; 0.7 GB in RGB
LARGE_PIXELS = 2**24  # larger images are decoded one at a time, whatever the number of threads
HEAD = 32  # bytes from which a file's format is known
# Pillow registers these formats, but decodes them with other programs, or not at all.
NOT_DECODED = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"}
CERTAIN = {"AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "WEBP"}  # no other file starts as these do
LONGEST_REASON = 200  # characters
ORIENTATION, BITS, SAMPLE_FORMAT = 0x0112, 258, 339  # tags of EXIF and TIFF
SIGNED = 2  # a sample format
TOPS = [2**bits - 1 for bits in range(8, 17)]  # of integers whose upper byte is kept

# What is wrong with an image is in `CorruptImage`; Pillow's warnings and log lines have no file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
logging.getLogger("PIL").propagate = False

_one_large = threading.Lock()


def _silence_libtiff() -> None:
    """Removes the handlers with which libtiff prints to stderr what is wrong with a compressed TIFF."""
    with suppress(OSError, AttributeError):  # a Pillow without a libtiff that can be reached
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            function(None)


_silence_libtiff()


class CorruptImage(Exception):
    """Bytes that are not a complete image; the message has the reason."""


def format_of(head: bytes) -> str:
    """The image format that a file's first `HEAD` bytes show, by Pillow's name; "" if it is none that can be decoded.

    The few formats without a signature, such as TGA, are not found.
    """
    for name in _formats():
        accept = Image.OPEN[name][1]
        try:
            if accept is not None and accept(head) is True:  # a text names what is missing to decode the format
                return name
        except Exception:  # some expect a whole header
            continue
    return ""


def is_image(file: IO[bytes]) -> bool:
    """Whether a file starts as an image that can be decoded; its pixels are not read."""
    head = file.read(HEAD)
    kind = format_of(head)
    if not kind or kind in CERTAIN:
        return bool(kind)
    file.seek(0)
    try:
        return bool(Image.open(file, formats=_formats()).size)
    except Exception:  # a text may start as an image, too
        return False


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in NOT_DECODED]


def decode(data: bytes) -> tuple[Image.Image, str]:
    """The upright image in RGB, and the mode that it was stored in (`L` is grey, `RGBA` has transparency).

    Grey becomes three equal colours, and transparency is dropped. More than 8 bits are scaled to 8, see `_eight_bits`.
    Any error of the decoder is a `CorruptImage`, and so is an image of more than `MOST_PIXELS` pixels.
    """
    try:
        stored = Image.open(io.BytesIO(data), formats=_formats())
        pixels = stored.width * stored.height
        if not 0 < pixels <= MOST_PIXELS:
            raise CorruptImage(f"has {stored.width} x {stored.height} pixels, may have 1 to {MOST_PIXELS}")
        with _one_large if pixels > LARGE_PIXELS else nullcontext(), np.errstate(all="ignore"):
            return _rgb(stored), stored.mode
    except CorruptImage:
        raise
    except UnidentifiedImageError:
        kind = format_of(data[:HEAD])
        raise CorruptImage(f"{kind} of an unknown kind, or damaged" if kind else "no known image format") from None
    except Exception as error:  # Pillow's plugins raise nearly every kind for damaged files
        reason = str(error).strip()
        raise CorruptImage(reason.splitlines()[0][:LONGEST_REASON] if reason else type(error).__name__) from None


def _rgb(stored: Image.Image) -> Image.Image:
    """The upright image in RGB; loads `stored`."""
    stored.load()
    upright = _upright(stored)
    if upright.mode == "RGB":
        return upright
    tags = getattr(stored, "tag_v2", {})
    bits, signed = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if stored.mode.startswith("I;16"):
        return _eight_bits(upright, "", 2 ** min(bits, 16) - 1)
    if stored.mode == "I" and (stored.format in ("PPM", "PNG") or (bits == 16 and tags)):
        return _eight_bits(upright, "", 2**15 - 1 if signed else 2**16 - 1)
    if stored.mode == "I":
        return _eight_bits(upright, "u4" if tags and not signed else "")
    if stored.mode == "F":
        return _eight_bits(upright)
    if stored.mode == "L" and signed:
        return _eight_bits(upright, "i1", 2**7 - 1)
    if stored.mode == "P":
        upright.info.pop("transparency", None)  # it is dropped below; without this Pillow warns
    return upright.convert("RGB")


def _eight_bits(image: Image.Image, dtype: str = "", top: int | None = None) -> Image.Image:
    """A grey image as RGB of 8 bits, scaled so that the range of its number format is 0 to 255.

    dtype: of the values, where it is not the one of the image's mode. top: the highest value of the format. Where the
    format sets none (32-bit integers, floats), it is the first of 1 (floats), 255 and 65,535 that is not exceeded, else the
    image's highest value. With negative values, the image's own range is scaled. Values that are not finite become black; a
    `CorruptImage` if all are.
    """

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:  # values are in memory some rows at a time
        rows = max(1, LARGE_PIXELS // (4 * image.width))
        for y in range(0, image.height, rows):
            part_HW = np.asarray(image.crop((0, y, image.width, min(image.height, y + rows))))
            part_HW = part_HW.view(dtype) if dtype else part_HW
            yield part_HW, np.isfinite(part_HW)

    ends = [(part_HW[finite_HW].min(), part_HW[finite_HW].max()) for part_HW, finite_HW in parts() if finite_HW.any()]
    if not ends:
        raise CorruptImage("has no finite value")
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    floats = image.mode == "F"
    usual = [one for one in (1, 255, 65535) if high <= one and (floats or one > 1)]
    top = top or (usual[0] if usual else max(1, int(high)))
    scaled = []
    for part_HW, finite_HW in parts():
        if low < 0:
            part_HW = (part_HW.astype(np.float64) - float(low)) * (255 / max(float(high) - float(low), 1e-300))
        elif not floats and top in TOPS:
            part_HW = part_HW >> (top.bit_length() - 8)  # the upper byte
        else:
            part_HW = part_HW * (255 / top)
        scaled.append(np.where(finite_HW, part_HW, 0).clip(0, 255).astype(np.uint8))
    return Image.fromarray(np.concatenate(scaled)).convert("RGB")


def _upright(stored: Image.Image) -> Image.Image:
    """The image rotated or mirrored by its EXIF orientation; unchanged if there is none or it cannot be read."""
    try:
        orientation = stored.getexif().get(ORIENTATION)
        turn = TURNED.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # Pillow raises many kinds for the damaged metadata that some cameras and editors write
        turn = None
    return stored if turn is None else stored.transpose(turn)


def centre(image: Image.Image, side: int, crop: float = 1.0) -> np.ndarray:
    """The centre of an image: the shorter side resized to side / crop, then the central square, uint8 [3, S, S]."""
    short = max(side, math.ceil(side / crop))
    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        middle = 4 * min(width, height)
        left, top = max(0, (width - middle) // 2), max(0, (height - middle) // 2)
        image = image.crop((left, top, min(width, left + middle), min(height, top + middle)))
        width, height = image.size
    scale = short / min(width, height)
    if scale != 1:
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _pixels(image.crop((left, top, left + side, top + side)))


def resized(pixels_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    """An RGB image (uint8) in another size, by bicubic interpolation: uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling.BICUBIC))


def central_square(pixels_HW3: np.ndarray, side: int, crop: float) -> np.ndarray:
    """What `centre` gives for an RGB image (uint8): uint8 [3, S, S]."""
    return centre(Image.fromarray(pixels_HW3), side, crop)


def random_crop(image: Image.Image, side: int, min_area: float, flip: bool, rng: random.Random) -> np.ndarray:
    """A random crop of at least `min_area` of the image, 3:4 to 4:3, resized to uint8 [3, S, S] and mirrored half the time.

    The published crop (arXiv:1512.00567, sec. 9): ten attempts at an area and a shape that fit, else the central square.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
            found = _pixels(image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)))
            break
    else:
        found = centre(image, side)
    return np.ascontiguousarray(found[:, :, ::-1]) if flip and rng.random() < 0.5 else found


def _pixels(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
