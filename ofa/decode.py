"""Decodes image files to RGB pixels; a file that cannot be decoded is a `CorruptImage`.

Shape letter: S side in pixels.
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image, UnidentifiedImageError

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


class CorruptImage(Exception):
    """Bytes that are not a complete image; the message has the reason."""


def decode(data: bytes) -> tuple[Image.Image, str]:
    """The upright image in RGB, and the mode that it was stored in (`L` is grey, `RGBA` has transparency).

    Grey becomes three equal colours, transparency is dropped, 16-bit grey keeps its upper byte.
    """
    try:
        with Image.open(io.BytesIO(data)) as stored:
            stored.load()
            mode = stored.mode
            upright = _upright(stored)
    except UnidentifiedImageError:
        raise CorruptImage("no known image format") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__) from None
    if mode.startswith("I"):  # I;16, or I for 16-bit PGM
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
    if mode == "P":
        upright.info.pop("transparency", None)  # it is dropped below; without this Pillow warns
    return (upright if upright.mode == "RGB" else upright.convert("RGB")), mode


def _upright(stored: Image.Image) -> Image.Image:
    """The image rotated or mirrored by its EXIF orientation; unchanged if there is none or it cannot be read."""
    try:
        orientation = stored.getexif().get(0x0112)
        turn = TURNED.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # Pillow raises many kinds for the damaged metadata that some cameras and editors write
        turn = None
    return stored.copy() if turn is None else stored.transpose(turn)


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
