"""The open list of image readers, and what they refuse."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictures import content, loaded, with_test, write_folders, write_parquet

from cluster.errors import InputError
from cluster.store import open_store
from jobs.config import ConfigError, load
from jobs.images import source
from jobs.images.decoding import DataError
from jobs.images.source import Location, Reader, open_source
from jobs.images.stored import ArrayImages, source_of


@pytest.fixture
def here(tmp_path):
    return open_store(str(tmp_path / "images"))


def read_npz(location: Location):
    """A reader as somebody else would write it: one file with `pixels` [N, 3, H, W] and `labels` [N]."""
    file = np.load(location.text)
    return source_of(location.text, {"train": ArrayImages(file["pixels"], file["labels"])}, (), "pixels and labels")


@pytest.fixture
def npz(monkeypatch, tmp_path):
    monkeypatch.setitem(source.READERS, "npz", Reader(read_npz, "", accepts_text=lambda text: text.endswith(".npz")))
    path = tmp_path / "images.npz"
    labels = np.arange(60) % 3
    pixels = np.broadcast_to((60 * labels + 30)[:, None, None, None], (60, 3, 20, 20)).astype(np.uint8)
    np.savez(path, pixels=pixels, labels=labels)
    return str(path)


def test_a_reader_is_added_by_one_entry_and_a_data_set_is_loaded_with_it(npz):
    found = loaded(npz)
    assert found.classes == 3
    assert found.sizes == {"train": 38, "selection": 10, "test": 12}
    assert found.train.pixels.shape == (38, 3, 32, 32) and found.train.pixels.dtype == torch.uint8
    for split in found.splits.values():
        assert torch.equal(split.pixels[:, 0, 16, 16].long(), 60 * split.labels + 30)


def test_checks_of_labels_hold_for_an_added_reader(npz):
    np.savez(npz, pixels=np.zeros((4, 3, 8, 8), np.uint8), labels=np.array([0, 0, 2, 2]))
    with pytest.raises(DataError, match="train has no image of class 1"):
        open_source(npz)


def test_embedded_images_need_shares_and_other_sources_do_not(monkeypatch, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[data]\nselection = 100\n[train]\n[[train.phases]]\nname = "a"\nepochs = 1\nlr = 0.1\n')
    with pytest.raises(ConfigError, match="selection and test together leave nothing"):
        load(str(path))
    assert load(str(path), ["data.source=somewhere"]).data.selection == 100
    monkeypatch.setitem(source.READERS, "faces", Reader(read_npz, "", lambda text: text == "faces", embedded=True))
    with pytest.raises(ConfigError, match="selection and test together leave nothing"):
        load(str(path), ["data.source=faces"])


def names(*classes):
    return {"names": list(classes)}


BAD = {
    "one class": (lambda s: write_folders(s, [(b, 0) for b, _ in content(9)]), r"one class only \('class0'\)"),
    "a label beyond the number of images": (
        lambda s: write_parquet(s, "train-0.parquet", [*content(8), (content(1)[0][0], 10**9)]),
        "row 8: label 1000000000 is out of range",
    ),
    "class names in another order": (
        lambda s: (write_parquet(s, "train-0.parquet", content(9), **names("a", "b", "c")),
                   write_parquet(s, "test-0.parquet", content(9), **names("b", "a", "c"))),
        "train-0.parquet: its class names are a, b, c, those of test-0.parquet are b, a, c",
    ),
    "a folder beside the splits": (
        lambda s: (write_folders(s, content(9), "train/"), write_folders(s, content(9), "test/"),
                   s.write("docs/figure.png", content(1)[0][0])),
        "docs/figure.png: is in no split; beside test/ and train/ no other folder may have images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_source_that_cannot_be_meant_gets_its_line(case, here):
    spoil, says = BAD[case]
    spoil(here)
    with pytest.raises(DataError, match=says) as caught:
        open_source(here.url)
    assert "\n" not in str(caught.value) and isinstance(caught.value, InputError)


def test_split_folders_may_be_written_in_capitals(here):
    write_folders(here, content(12), "Train/")
    write_folders(here, content(6), "TEST/")
    found = open_source(here.url)
    assert found.classes == ("class0", "class1", "class2")
    assert len(found.train) == 12 and len(found.test) == 6


def test_a_class_may_be_called_train(here):
    for number, (data, label) in enumerate(content(9)):
        here.write(f"{('car', 'plane', 'train')[label]}/{number}.png", data)
    assert open_source(here.url).classes == ("car", "plane", "train")


def test_files_that_are_no_images_are_listed(here, capsys):
    write_folders(here, content(60))
    here.write("class1/notes.txt", b"x")
    here.write("bird/1.xyz", b"x")
    loaded(here.url)
    assert (
        "left out: 1 .xyz (bird/1.xyz), 1 .txt (class1/notes.txt), 1 folder without images (bird/)"
        in capsys.readouterr().err
    )


def test_a_split_or_class_without_a_decodable_image_gets_its_line(here):
    write_folders(here, content(30), "train/")
    for label in range(3):
        here.write(f"test/class{label}/1.png", b"no image")
    with pytest.raises(DataError, match="no image of the test split can be decoded"):
        with_test(loaded(here.url))
    write_folders(here, content(30), "test/")
    for key in here.keys("test/class2/"):
        here.write(key, b"no image")
    with pytest.raises(DataError, match=r"no test image of class 2 \('class2'\) can be decoded"):
        with_test(loaded(here.url, max_corrupt=100))
    for key in here.keys("train/class1/"):
        here.write(key, b"no image")
    with pytest.raises(DataError, match=r"no training image of class 1 \('class1'\) can be decoded"):
        loaded(here.url, max_corrupt=100)


def test_rows_without_bytes_and_damaged_pages_are_named(here):
    rows = content(60)
    write_parquet(here, "train-0.parquet", [(None, label) for _, label in rows])
    with pytest.raises(DataError, match=r"train-0.parquet row \d+ \(no image bytes are stored\)"):
        loaded(here.url)
    write_parquet(here, "train-0.parquet", rows, group=60)
    damaged = bytearray(here.read("train-0.parquet"))
    page = pq.ParquetFile(io.BytesIO(damaged)).metadata.row_group(0).column(0).dictionary_page_offset
    damaged[page + 60 : page + 1000] = bytes(940)
    here.write("train-0.parquet", bytes(damaged))
    with pytest.raises(DataError, match=r"train-0.parquet: is damaged: .*; restore the file"):
        loaded(here.url)
