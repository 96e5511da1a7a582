"""Images of every bit depth, number format and damage."""

import io
import logging
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ofa import decode as module
from ofa.decode import CorruptImage, centre, decode, format_of, is_image, random_crop

R = np.random.default_rng(0)
SHAPE = (20, 24)


def noise(top, dtype, low=0, shape=SHAPE):
    """Values that are uniform over a range, both ends among them."""
    values = R.integers(low, top, shape, dtype=np.int64, endpoint=True).astype(dtype)
    values.flat[:2] = low, top
    return values


def tiff(values, bits=None, kind=1, order="<", compression=1, data=None):
    """An uncompressed TIFF; kind: the sample format, 1 unsigned, 2 signed, 3 float. data: of packed values."""
    size = values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes() if data is None else data
    height, width = values.shape[:2]
    tags = [(256, width), (257, height), (258, bits or size), (259, compression), (262, 2 if values.ndim == 3 else 1),
            (273, 8 + 2 + 12 * 10 + 4), (277, values.shape[2] if values.ndim == 3 else 1), (278, height), (279, len(data)),
            (339, kind)]  # fmt: skip
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 10) + entries + bytes(4) + data


def png(values, colour, bits, data):
    """A PNG whose rows are packed in `data`."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row for row in data)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(values, colour):
    """A PNG of 16 bits."""
    return png(values, colour, 16, [row.astype(">u2").tobytes() for row in values])


def packed(values, bits):
    """Rows of values of 1, 2 or 4 bits, each row in whole bytes."""
    parts = [values[:, at :: 8 // bits] << (8 - bits * (at + 1)) for at in range(8 // bits)]
    return [row.tobytes() for row in np.bitwise_or.reduce(parts).astype(np.uint8)]


def low(bits):
    """A PNG and a TIFF of few bits."""
    values = noise(2**bits - 1, np.uint8)
    rows = packed(values, bits)
    return [png(values, 0, bits, rows), tiff(values, bits, data=b"".join(rows))]


def packed12(values):
    pairs = values.reshape(-1, 2).astype(np.uint32)
    first, second = pairs[:, 0], pairs[:, 1]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def pnm(kind, top, values):
    height, width = values.shape[:2]
    return f"P{kind}\n{width} {height}\n{top}\n".encode() + values.tobytes()


def encoded(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def both(make):
    """The same file in both byte orders."""
    return [make("<"), make(">")]


FLOATS = R.random(SHAPE, np.float32)
SPOILT = FLOATS.copy()
SPOILT[3, 4], SPOILT[5, 6], SPOILT[7, 8] = np.nan, np.inf, -np.inf
RANGES = {  # files whose values cover the range of their format
    "of 1 bit": low(1),
    "of 2 bits": low(2),
    "of 4 bits": low(4),
    "PNG of 16 bits": [png16(noise(65535, np.uint16), 0)],
    "PNG of 16 bits with transparency": [png16(noise(65535, np.uint16, shape=(20, 24, 2)), 4)],
    "PNG of 48 bits": [png16(noise(65535, np.uint16, shape=(20, 24, 3)), 2)],
    "PGM of 100": [pnm(5, 100, noise(100, np.uint8))],
    "PGM of 12 bits": [pnm(5, 4095, noise(4095, ">u2"))],
    "PGM of 16 bits": [pnm(5, 65535, noise(65535, ">u2"))],
    "PGM in digits": [b"P2\n24 20\n65535\n" + b" ".join(b"%d" % value for value in noise(65535, np.uint16).flat)],
    "PPM of 10 bits": [pnm(6, 1023, noise(1023, ">u2", shape=(20, 24, 3)))],
    "PFM": [pnm("f", -1.0, FLOATS.astype("<f4")), pnm("f", 1.0, FLOATS.astype(">f4"))],
    "TIFF of 8 bits": both(lambda order: tiff(noise(255, np.uint8), order=order)),
    "TIFF of 8 bits, signed": both(lambda order: tiff(noise(127, np.int8), kind=2, order=order)),
    "TIFF of 8 bits, negative": both(lambda order: tiff(noise(127, np.int8, -128), kind=2, order=order)),
    "TIFF of 12 bits": [(lambda v: tiff(v, 12, data=packed12(v)))(noise(4095, np.uint16))],
    "TIFF of 16 bits": both(lambda order: tiff(noise(65535, np.uint16), order=order)),
    "TIFF of 16 bits, signed": both(lambda order: tiff(noise(32767, np.int16), kind=2, order=order)),
    "TIFF of 16 bits, negative": both(lambda order: tiff(noise(32767, np.int16, -32768), kind=2, order=order)),
    "TIFF of 48 bits": both(lambda order: tiff(noise(65535, np.uint16, shape=(20, 24, 3)), order=order)),
    "TIFF of 32 bits": [tiff(noise(2**32 - 1, np.uint32))],
    "TIFF of 32 bits, signed": both(lambda order: tiff(noise(2**31 - 1, np.int32), kind=2, order=order)),
    "TIFF of 32 bits, small values": both(lambda order: tiff(noise(255, np.int32), kind=2, order=order)),
    "TIFF of 32 bits, medium values": both(lambda order: tiff(noise(65535, np.int32), kind=2, order=order)),
    "floats to 1": both(lambda order: tiff(FLOATS, kind=3, order=order)),
    "floats to 255": both(lambda order: tiff(FLOATS * 255, kind=3, order=order)),
    "floats to 65535": both(lambda order: tiff(FLOATS * 65535, kind=3, order=order)),
    "floats to a million": both(lambda order: tiff(FLOATS * 1e6, kind=3, order=order)),
    "floats below 0": both(lambda order: tiff(FLOATS * 2 - 1, kind=3, order=order)),
    "floats beyond numbers": both(lambda order: tiff(SPOILT, kind=3, order=order)),
    "compressed floats": [encoded(Image.fromarray(FLOATS), "TIFF", compression="tiff_deflate")],
    "JPEG 2000 of 16 bits": [encoded(Image.fromarray(noise(65535, np.uint16)), "JPEG2000")],
}  # fmt: skip


@pytest.mark.parametrize("case", RANGES)
def test_the_range_of_a_format_becomes_eight_bits(case):
    for data in RANGES[case]:
        pixels = np.asarray(decode(data)[0])
        assert pixels.shape == (*SHAPE, 3)
        assert 110 < pixels.mean() < 145
        assert pixels.min() <= 10 and pixels.max() >= 245


def test_the_upper_byte_is_kept_exactly():
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for data in (png16(deep, 0), tiff(deep), tiff(deep, order=">"), pnm(5, 65535, deep.astype(">u2"))):
        assert np.array_equal(np.asarray(decode(data)[0])[:, :, 0], deep >> 8)


def test_values_that_are_no_numbers_are_black_and_an_image_without_any_number_is_corrupt():
    pixels = np.asarray(decode(tiff(SPOILT, kind=3))[0])[:, :, 0]
    assert (pixels[3, 4], pixels[5, 6], pixels[7, 8]) == (0, 0, 0)
    with pytest.raises(CorruptImage, match="has no finite value"):
        decode(tiff(FLOATS * np.nan, kind=3))


def test_a_constant_image_is_decoded():
    for value in (-3.5, 0, 1, 7, 1e30):
        assert len(np.unique(np.asarray(decode(tiff(np.full(SHAPE, value, np.float32), kind=3))[0]))) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGB", "CMYK", "YCbCr", "LAB"])
def test_every_mode_is_converted_as_pillow_does_it(mode):
    image = Image.fromarray(noise(255, np.uint8, shape=(20, 24, 3)))
    image = image.convert("P").convert("PA") if mode == "PA" else image if mode == "LAB" else image.convert(mode)
    image = Image.merge("LAB", image.split()) if mode == "LAB" else image
    found, stored = decode(encoded(image, "TIFF"))
    assert stored == mode
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
def test_every_orientation_is_turned_as_pillow_turns_it_in_every_format(kind, orientation):
    exif = Image.Exif()
    exif[module.ORIENTATION] = orientation
    data = encoded(Image.fromarray(noise(255, np.uint8, shape=(20, 24, 3))), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode(data)[0]), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_of_several_pictures_is_taken(kind):
    pictures = [Image.new("RGB", (24, 20), colour) for colour in ((250, 0, 0), (0, 0, 250), (0, 250, 0))]
    found = np.asarray(decode(encoded(pictures[0], kind, save_all=True, append_images=pictures[1:]))[0])
    assert found[10, 10, 0] > 200 > 50 > found[10, 10, 2]


@pytest.mark.parametrize("icc", [b"", b"broken", bytes(500)])
def test_a_broken_colour_profile_is_not_used(icc):
    image = Image.new("RGB", (24, 20), (200, 100, 50))
    assert np.array_equal(np.asarray(decode(encoded(image, "PNG", icc_profile=icc))[0]), np.asarray(image))


@pytest.mark.parametrize(
    "error", [SyntaxError("x"), struct.error("x"), OverflowError("x"), MemoryError(), RecursionError("x"), KeyError("x"),
              AssertionError(), NotImplementedError("a\nb"), ZeroDivisionError("x"), UnicodeDecodeError("a", b"", 0, 1, "x")]
)  # fmt: skip
def test_any_error_of_the_decoder_is_a_corrupt_image_with_a_reason(error, monkeypatch):
    def fail(stored):
        raise error

    data = encoded(Image.new("L", (8, 8)), "PNG")
    monkeypatch.setattr(module, "_upright", fail)
    with pytest.raises(CorruptImage) as caught:
        decode(data)
    assert str(caught.value) and "\n" not in str(caught.value)


def bomb(width, height):
    """A PNG with these sides and hardly any data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, 2**30), (13_500, 13_500)])
def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(size):
    with pytest.raises(CorruptImage, match=r"pixels"):
        decode(bomb(*size))


def test_a_format_is_known_by_its_first_bytes():
    image = Image.new("RGB", (64, 64))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000", "ICO"):
        data = encoded(image, kind)
        assert format_of(data[: module.HEAD]) == kind
        assert is_image(io.BytesIO(data))
    post_script, office = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    texts = (b"", b"x", b"P", b"Python is a language", b"BM is short", b"#define X 1\n", b"{}")
    for other in (*texts, b"%PDF-1.4", b"PK\3\4", post_script, office, bytes(600)):
        assert not is_image(io.BytesIO(other))


def test_damaged_files_of_every_format_are_images_or_corrupt():
    image = Image.fromarray(noise(255, np.uint8, shape=(20, 24, 3)))
    kinds = (
        "JPEG",
        "PNG",
        "GIF",
        "WEBP",
        "BMP",
        "PPM",
        "TIFF",
        "AVIF",
        "JPEG2000",
        "TGA",
        "ICO",
        "PCX",
        "SGI",
        "DDS",
        "QOI",
    )
    files = [encoded(image, kind) for kind in kinds] + [data for some in RANGES.values() for data in some]
    rng = random.Random(0)
    for number in range(600):
        damaged = bytearray(files[number % len(files)])
        for _ in range(rng.choice((1, 3, 10))):
            damaged[min(len(damaged) - 1, int(rng.expovariate(1 / 60)))] = rng.randrange(256)
        damaged = damaged[: rng.randrange(len(damaged))] if number % 7 == 0 else damaged
        try:
            found, _ = decode(bytes(damaged))
        except CorruptImage as error:
            reason = str(error)
        else:
            assert centre(found, 8).shape == random_crop(found, 8, 0.1, True, rng).shape == (3, 8, 8)
            continue
        assert reason and "\n" not in reason


NOISY = """
import io, struct, warnings
from PIL import Image, TiffImagePlugin
from ofa.decode import CorruptImage, decode
def encoded(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
palette = encoded(Image.new("P", (9, 9)), "PNG", transparency=bytes([0, 255] * 10))
large = encoded(Image.new("1", (9500, 9500)), "PNG")
jpeg = encoded(Image.new("RGB", (9, 9)), "JPEG")
exif = b"Exif\\0\\0II*\\0" + struct.pack("<IHHHII", 8, 9, 0x8769, 4, 1, 99999)
cut = jpeg[:2] + b"\\xff\\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
mpo = jpeg[:2] + b"\\xff\\xe2\\0\\x20MPF\\0II*\\0\\x08\\0\\0\\0" + bytes(18) + jpeg[2:]
grey = Image.new("L", (9, 9))
tiff = encoded(grey, "TIFF", compression="tiff_lzw")
def samples(count):
    return tiff.replace(struct.pack("<HHIHH", 277, 3, 1, 1, 0), struct.pack("<HHIHH", 277, 3, 1, count, 0))
compressed = [encoded(grey, "TIFF", compression=f"tiff_{name}") for name in ("lzw", "jpeg", "deflate")]
many = [data[:n] + bytes([255]) + data[n + 1:] for data in compressed for n in range(8, len(data))]
for data in (palette, large, cut, mpo, samples(99), *many):
    try:
        decode(data)
    except CorruptImage:
        pass
"""


@pytest.mark.parametrize("filters", ["default", "always", "error"])
def test_no_warning_of_the_decoder_reaches_stderr(filters):
    command = [sys.executable, "-W", filters, "-c", NOISY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(module.__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_log_lines_of_the_decoder_reach_no_handler():
    assert not logging.getLogger("PIL").propagate
    with warnings.catch_warnings(record=True) as seen:
        decode(encoded(Image.new("P", (9, 9)), "PNG", transparency=bytes([0, 255] * 10)))
    assert seen == []
