"""Images as people have them: Parquet shards and class folders, in directories and buckets, with what can be wrong."""

import io
import random
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import content, encoded, experiment, loaded, picture, spoilt, with_test, write_folders, write_parquet
from PIL import Image, ImageOps

from cluster.errors import InputError
from cluster.store import open_store
from jobs.config import load
from jobs.images.decoding import DataError
from jobs.images.source import open_source
from jobs.images.streaming import read_piece
from ofa.decode import CorruptImage, centre, decode, random_crop


@pytest.fixture
def here(tmp_path):
    return open_store(str(tmp_path / "images"))


def test_parquet_shards_are_read_in_order_with_their_labels(here):
    rows = content(50)
    write_parquet(here, "data/train-00000-of-00002.parquet", rows[:30])
    write_parquet(here, "data/train-00001-of-00002.parquet", rows[30:])
    write_parquet(here, "data/test-00000-of-00001.parquet", content(9), names=["a", "b", "c"])
    source = open_source(here.url)
    assert source.classes == ("a", "b", "c")
    assert len(source.train) == 50 and len(source.test) == 9
    assert dict(source.train.read(np.arange(50))) == {n: b for n, (b, _) in enumerate(rows)}
    assert dict(source.train.read(np.array([44, 3, 31]))) == {n: rows[n][0] for n in (3, 31, 44)}
    assert source.train.labels_N.tolist() == [label for _, label in rows]
    assert source.train.name(31) == "data/train-00001-of-00002.parquet row 1"
    assert [len(group) for group in source.train.groups()] == [7, 7, 7, 7, 2, 7, 7, 6]


def test_class_folders_give_the_same_images_as_parquet(here, tmp_path):
    rows = content(30)
    tables = open_store(str(tmp_path / "tables"))
    write_parquet(tables, "train-0.parquet", sorted(rows, key=lambda row: row[1]))
    write_folders(here, rows)
    here.write("class0/.DS_Store", b"no image")
    one, other = open_source(here.url).train, open_source(tables.url).train
    assert sorted(b for _, b in one.read(np.arange(30))) == sorted(b for _, b in other.read(np.arange(30)))
    assert one.labels_N.tolist() == other.labels_N.tolist()


def test_folders_may_have_splits_and_val_is_the_test(here):
    write_folders(here, content(12), "train/")
    write_folders(here, content(6), "val/")
    source = open_source(here.url)
    assert source.classes == ("class0", "class1", "class2")
    assert len(source.train) == 12 and len(source.test) == 6


def test_a_test_split_without_labels_is_left_alone(here):
    write_parquet(here, "train-0.parquet", content(12))
    write_parquet(here, "validation-0.parquet", content(6))
    write_parquet(here, "test-0.parquet", [(b, -1) for b, _ in content(5)])
    assert len(open_source(here.url).test) == 6


@pytest.mark.parametrize("where", ["directory", pytest.param("bucket", marks=pytest.mark.server)])
def test_images_are_decoded_and_divided_alike_wherever_they_are(where, tmp_path, request, monkeypatch):
    url = str(tmp_path / "images")
    if where == "bucket":
        url = "s3://results/some/images"
        for name, value in request.getfixturevalue("mock_s3").items():
            monkeypatch.setenv(name, value)
    write_parquet(open_store(url), "train-0.parquet", content(60))
    found = loaded(url)
    assert found.sizes == {"train": 38, "selection": 10, "test": 12}
    assert found.train.pixels.shape[1:] == (3, 32, 32)
    splits = with_test(found).values()
    for split in splits:  # the colour says the class
        assert torch.equal(split.labels, (split.pixels[:, 0, 16, 16].long() - 40) // 60)
    together = torch.cat([split.pixels[:, 1, 16, 16] for split in splits])
    assert sorted(together.tolist()) == sorted(5 * n % 256 for n in range(60))


def test_its_own_test_split_is_kept_whole_and_selection_may_be_a_number(here):
    write_parquet(here, "train-0.parquet", content(40))
    write_parquet(here, "test-0.parquet", content(11))
    assert loaded(here.url, selection=6).sizes == {"train": 34, "selection": 6, "test": 11}


def as_parquet(store):
    write_parquet(store, "train-0.parquet", content(60), names=["class0", "class1", "class2"])
    write_parquet(store, "test-0.parquet", content(12), names=["class0", "class1", "class2"])


def as_folders(store):
    write_folders(store, content(60), "train/")
    write_folders(store, content(12), "test/")


@pytest.mark.parametrize("write", [as_parquet, as_folders])
@pytest.mark.parametrize("memory_mib", [2048, 0.01])
def test_some_classes_of_a_source_are_a_source_of_their_own(here, write, memory_mib):
    """In memory, and where the training images stream; the colour says the class."""
    write(here)
    whole, found = loaded(here.url), loaded(here.url, classes=("class2", "class0"), memory_mib=memory_mib)
    assert found.classes == 2 and found.sizes == {"train": 32, "selection": 8, "test": 8}
    assert str(found.description) == (
        f"{here.url}: 2 classes (class2, class0), images: 32 train, 8 selection, 8 test; left out: 1 class (class1)"
    )
    assert found.description.to_json()["left_out"] == {"classes": {"count": 1, "first": ["class1"]}}
    for name, split in with_test(found).items():
        assert set(split.labels.tolist()) == {0, 1}
        assert torch.equal(split.pixels[:, 0, 16, 16].long(), torch.where(split.labels == 0, 160, 40)), name
    assert (found.stored is not None) == (memory_mib < 1)
    if found.stored is not None:
        piece = (0, np.concatenate(found.stored.groups()), 0)
        columns = read_piece(found.stored, experiment(here.url).data, 32, "names", piece)
        assert np.bincount(columns["label"]).tolist() == [16, 16]
        assert np.array_equal(columns["pixels"][:, 0, 16, 16], np.where(columns["label"] == 0, 160, 40))
    again = loaded(here.url, classes=("class2", "class0"), memory_mib=memory_mib)
    assert torch.equal(again.selection.pixels, found.selection.pixels)
    everything = loaded(here.url, classes=("class0", "class1", "class2"))
    assert torch.equal(everything.train.pixels, whole.train.pixels)


def test_classes_may_be_given_by_their_labels_where_no_name_is_a_number(here):
    as_parquet(here)
    assert open_source(here.url).only(["2", "class0"], "here").classes == ("class2", "class0")
    digits = open_source("digits")
    some = digits.only(["7", "3"], "digits")
    assert some.classes == ("7", "3") and some.joint_holdout
    old = digits.train.labels_N
    assert some.train.labels_N.tolist() == [int(label == 3) for label in old if label in (3, 7)]
    assert np.array_equal(some.train.pixels_NCHW, digits.train.pixels_NCHW[np.isin(old, (3, 7))])


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (["class3", "class0"], "there is no class 'class3'; there are class0, class1, class2"),
        (["3", "class0"], "there is no class '3'; there are"),
        (["class1", "class1"], "has the class 'class1' twice; give each once; there are class0, class1, class2"),
        (["class1", "1"], "has the class 'class1' twice"),
        (["class1"], "has one class only, a classifier needs two; there are"),
        (["class0", "class1"], "validation has no image of the classes in data.classes; give others; there are"),
    ],
)
def test_classes_that_cannot_be_used_are_one_line_with_those_that_there_are(here, classes, says):
    write_folders(here, content(12), "train/")
    write_folders(here, [row for row in content(12) if row[1] == 2], "val/")
    with pytest.raises(DataError, match=says) as caught:
        loaded(here.url, classes=tuple(classes))
    assert str(caught.value).startswith(f"{here.url}: data.classes") or "validation" in says
    assert "\n" not in str(caught.value)


def test_images_of_classes_that_are_not_used_are_neither_decoded_nor_missed(here, capsys):
    rows = [(b"not an image", label) if label == 1 else (data, label) for data, label in content(60)]
    write_folders(here, rows, "train/")
    write_folders(here, [row for row in content(12) if row[1] != 1], "test/")
    found = loaded(here.url, classes=("class0", "class2"), max_corrupt=0)
    assert found.description.left_out == {"classes": ["class1"]}
    shown = capsys.readouterr()
    assert "skipped" not in shown.out + shown.err and "has no image" not in shown.out + shown.err


BAD = {
    "nothing there": (lambda s: s.write("notes.txt", b"x"), "no images there; expected train-.*parquet"),
    "no train": (lambda s: write_parquet(s, "test-0.parquet", content(6)), "no train split"),
    "unknown split": (lambda s: write_parquet(s, "part-0.parquet", content(6)), "part-0.parquet: which split is this"),
    "an empty split": (lambda s: write_parquet(s, "train-0.parquet", []), "the train split is empty"),
    "no parquet": (lambda s: s.write("train-0.parquet", b"PAR1 broken"), "train-0.parquet: is no Parquet file"),
    "no labels": (lambda s: write_parquet(s, "train-0.parquet", content(6), column="kind"), "no integer column 'label'"),
    "a class missing": (
        lambda s: write_parquet(s, "train-0.parquet", [row for row in content(12) if row[1] != 1]),
        r"train has no image of class 1 \('1'; there are 3\)",
    ),
    "a negative label": (
        lambda s: write_parquet(s, "train-0.parquet", [*content(8), (encoded(picture(0, 0)), -4)]),
        "train-0.parquet row 8: label -4 is out of range, may be 0 or more",
    ),
    "a label beyond the names": (
        lambda s: write_parquet(s, "train-0.parquet", [*content(8), (encoded(picture(0, 0)), 7)], names=["a", "b", "c"]),
        "row 8: label 7 is out of range, may be 0 to 2",
    ),
    "a class only in test": (
        lambda s: (write_folders(s, content(9), "train/"), s.write("test/classX/1.png", content(1)[0][0])),
        "test/classX/1.png: train has no such class; its 3 are class0, class1, class2",
    ),
    "an image beside the classes": (
        lambda s: (write_folders(s, content(9), "train/"), s.write("train/loose.png", content(1)[0][0])),
        "train/loose.png: is in no class's folder",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_gets_its_line(case, here):
    spoil, says = BAD[case]
    spoil(here)
    with pytest.raises(DataError, match=says) as caught:
        open_source(here.url)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_too_few_images_of_a_class_to_divide_get_a_line(here):
    write_parquet(here, "train-0.parquet", [*content(30), (encoded(picture(0, 0)), 3)])
    with pytest.raises(DataError, match="the rarest has 1"):
        loaded(here.url)


def test_corrupt_images_are_named_and_skipped_up_to_the_limit(here, capsys):
    write_parquet(here, "train-0.parquet", spoilt(4))
    found = loaded(here.url, max_corrupt=4)
    assert sum(map(len, with_test(found).values())) == 56
    said = capsys.readouterr().err
    assert "4 images skipped, cannot be decoded: train-0.parquet row" in said
    assert "(no known image format)" in said and "runcated" in said
    with pytest.raises(DataError, match=r"4 images cannot be decoded, data.max_corrupt allows 3: train-0.parquet row"):
        loaded(here.url, max_corrupt=3, test=3)  # most are not in the test split, which is not decoded


def test_grey_and_transparent_images_become_rgb_and_are_counted(here, capsys):
    rows = content(60)
    rows[0] = (encoded(picture(0, 0, mode="L")), 0)
    rows[1] = (encoded(picture(1, 1, mode="RGBA")), 1)
    write_parquet(here, "train-0.parquet", rows)
    assert sum(loaded(here.url).sizes.values()) == 60
    assert "made RGB: 1 grey, 1 with transparency" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "RGB"])
def test_every_mode_decodes_to_what_pillow_makes_rgb_of(mode):
    image = picture(1, 20, mode=mode)
    found, stored = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert stored == mode
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_upper_byte():
    deep = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32))
    found, _ = decode(encoded(deep))
    assert np.array_equal(np.asarray(found)[:, :, 0], np.arange(0, 65536, 64).reshape(32, 32) >> 8)


def test_a_photo_is_turned_upright():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    assert decode(file.getvalue())[0].size == (20, 30)


def test_sixteen_bit_pgm_is_grey_and_not_white():
    deep = np.arange(0, 65536, 64, dtype=np.uint16)
    found, _ = decode(b"P5\n32 32\n65535\n" + deep.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(found)[:, :, 0], deep.reshape(32, 32) >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert np.array_equal(np.asarray(decode(file.getvalue())[0]), np.asarray(expected))


def test_an_image_with_damaged_metadata_is_decoded_all_the_same():
    """A date of type double, on which Pillow's own transposition ends with an AttributeError."""
    entries = (
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x0132, 12, 1, 38) + struct.pack("<Id", 0, 1.0)
    )
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries
    jpeg = encoded(picture(1, 3), "JPEG")
    found, _ = decode(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:])
    assert found.size == (36, 40)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_decoded_without_a_warning():
    file = io.BytesIO()
    picture(1, 3).convert("P").save(file, "PNG", transparency=bytes([0, 255] * 10))
    assert np.array_equal(np.asarray(decode(file.getvalue())[0]), np.asarray(picture(1, 3).convert("P").convert("RGB")))


@pytest.mark.parametrize("size", [(1, 65000), (65000, 1)])
def test_a_very_thin_image_needs_little_memory(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + 2**29, hard))
    try:
        assert centre(Image.new("RGB", size, (9, 8, 7)), 224)[:, 100, 100].tolist() == [9, 8, 7]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def virtual_bytes():
    """The address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_what_is_no_image_says_why():
    for bad, why in ((b"", "no known image format"), (encoded(picture(0, 0), "JPEG")[:200], "runcated")):
        with pytest.raises(CorruptImage, match=why):
            decode(bad)


def test_the_centre_is_square_and_keeps_what_it_should():
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (50, 1, 3)))  # 100 wide, 50 high
    assert np.array_equal(centre(ramp, 50)[0, 0], np.arange(25, 75))
    cropped = centre(ramp, 50, crop=0.5)[0, 0]  # of twice the size
    assert cropped.min() >= 37 and cropped.max() <= 62
    small = centre(Image.fromarray(np.zeros((8, 9, 3), np.uint8)), 32)
    assert small.shape == (3, 32, 32)


def test_a_random_crop_is_its_streams_and_has_the_area():
    ramp = Image.fromarray(
        np.stack(np.broadcast_arrays(np.arange(200)[None], np.arange(200)[:, None], 0), 2).astype(np.uint8)
    )
    crops = [random_crop(ramp, 32, 0.5, False, random.Random(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(crops[0], crops[1]) and not np.array_equal(crops[0], crops[2])
    shares = []
    for seed in range(200):
        crop = random_crop(ramp, 32, 0.25, False, random.Random(seed)).astype(float)
        wide, high = np.ptp(crop[0].mean(0)) / 200 * 32 / 31, np.ptp(crop[1].mean(1)) / 200 * 32 / 31
        shares.append(wide * high)
    assert 0.2 < min(shares) < 0.35 and 0.85 < max(shares) < 1.05
    mirrored = [random_crop(ramp, 32, 1.0, True, random.Random(seed))[0, 0] for seed in range(100)]
    assert 30 < sum(row[0] > row[-1] for row in mirrored) < 70


def test_resolutions_that_the_strides_cannot_take_get_a_line(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text('space = "ofa_mbv3_w0.5_32px"\n[choices]\nresolutions = [4, 32]\n'
                    '[train]\n[[train.phases]]\nname = "a"\nepochs = 1\nlr = 0.1\n')  # fmt: skip
    with pytest.raises(InputError, match=r"resolution 4 is given; its strides divide by 8, use at least that"):
        load(str(path))
