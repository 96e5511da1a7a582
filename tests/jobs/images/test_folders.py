"""Folders of images as people have them: names of splits, links, other files, and what is refused."""

import os
import socket
import unicodedata
from pathlib import Path

import pytest
from pictures import content, encoded, loaded, picture, with_test, write_folders

from cluster.store import open_store
from jobs.images.decoding import DataError
from jobs.images.folders import image_keys, read
from jobs.images.source import open_source

PNG = encoded(picture(0, 0))
CAFE = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


def tree(root, *folders, images=4):
    """Folders with a few images each, of which all are different."""
    for label, folder in enumerate(folders):
        path = root / folder
        path.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            (path / f"{number}.png").write_bytes(encoded(picture(label % 3, number)))


def line_on(root, capsys, **settings):
    """The line on the source that is shown when it is loaded."""
    loaded(str(root), **settings)
    return next(line for line in capsys.readouterr().err.splitlines() if "left out: " in line)


@pytest.mark.parametrize(
    "train", ["train", "Train", "TRAINING", "trn", "train_set", "TrainingSet", "train-images", "traindata"]
)
@pytest.mark.parametrize("test", ["test", "TESTING", "val", "Validation", "valid", "dev", "eval", "test set", "testdata"])
def test_splits_have_their_usual_names(root, train, test):
    tree(root, f"{train}/cat", f"{train}/dog", images=3)
    tree(root, f"{test}/cat", f"{test}/dog", images=2)
    found = open_source(str(root))
    assert (found.classes, len(found.train), len(found.test)) == (("cat", "dog"), 6, 4)


def test_validation_beside_test_is_left_out_and_named(root, capsys):
    tree(root, *(f"{split}/{name}" for split in ("train", "val", "test") for name in ("cat", "dog")), images=8)
    assert "left out: 16 images of validation (test is the test split) (val/cat/0.png, " in line_on(root, capsys)


@pytest.mark.parametrize("name", ["train", "test", "Valid", "dev"])
def test_a_folder_of_images_may_be_called_as_a_split(root, name):
    tree(root, "cat", name)
    assert set(open_source(str(root)).classes) == {"cat", name}


def link(root, target, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, root / name)


READ = {  # what a directory holds, and the classes and number of its training images
    "a linked class": (lambda r: (tree(r, "cat"), tree(r.parent, "else"), link(r, r.parent / "else", "dog")), "cat dog", 8),
    "a linked image": (lambda r: (tree(r, "cat", "dog"), tree(r.parent, "x"), link(r, r.parent / "x/0.png", "cat/9.png")),
                       "cat dog", 9),
    "a link to the root": (lambda r: (tree(r, "cat", "dog"), link(r, "..", "cat/self"), link(r, ".", "all")), "cat dog", 8),
    "links to each other": (lambda r: (tree(r, "cat", "dog"), link(r, "b", "a"), link(r, "a", "b")), "cat dog", 8),
    "folders in classes": (lambda r: tree(r, "cat/2020", "cat/2021", "dog/x/y"), "cat dog", 12),
    "splits with a prefix": (lambda r: tree(r, "seg_train/a", "seg_train/b", "seg-test/a", "my val/a"), "a b", 8),
    "a name that is not UTF-8": (lambda r: tree(r, os.fsdecode(b"caf\xe9"), "dog"), "caf\udce9 dog", 8),
    "a class with a line feed": (lambda r: tree(r, "a\nb", "dog"), "a\nb dog", 8),
    "suffixes in capitals": (lambda r: (tree(r, "cat", "dog"), (r / "cat/A.JPG").write_bytes(PNG)), "cat dog", 9),
    "no suffix": (lambda r: (tree(r, "cat", "dog"), (r / "cat/x").write_bytes(PNG)), "cat dog", 9),
    "another suffix": (lambda r: (tree(r, "cat", "dog"), (r / "cat/x.jpg_large").write_bytes(PNG)), "cat dog", 9),
    "only other suffixes": (lambda r: [p.rename(p.with_suffix(".dat")) for p in _trees(r).rglob("*.png")], "cat dog", 8),
    "a text that starts as an image": (lambda r: (tree(r, "cat", "dog"), (r / "cat/x").write_bytes(b"P5 is a format")),
                                       "cat dog", 8),
    "composed and decomposed names": (lambda r: (tree(r, f"train/{CAFE[0]}", "train/x", f"test/{CAFE[1]}", "test/x")),
                                      f"{CAFE[0]} x", 8),
    "names of other alphabets": (lambda r: tree(r, "猫", "собака"), "собака 猫", 8),
    "hidden files and folders": (lambda r: (tree(r, "cat", "dog", ".cache"), (r / "cat/._0.png").write_bytes(b"x")),
                                 "cat dog", 8),
    "a folder for a Mac": (lambda r: (tree(r, "cat", "dog", "__MACOSX/cat"), [p.rename(p.with_name("._" + p.name))
                           for p in (r / "__MACOSX").rglob("*.png")]), "cat dog", 8),
}  # fmt: skip


def _trees(root):
    tree(root, "cat", "dog")
    return root


@pytest.mark.parametrize("case", READ)
def test_what_can_be_read_is_read(case, root):
    make, classes, count = READ[case]
    make(root)
    found = open_source(str(root))
    assert (" ".join(found.classes), len(found.train)) == (classes, count)


def fifo(root, name):
    os.mkfifo(root / name)


def listening(root, name):
    here = os.open(root, os.O_RDONLY)  # a socket's address is at most 107 bytes long
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{here}/{name}")
    server.close()
    os.close(here)


NAMED = {  # what is left out of a source with classes cat and dog, and the end of its line
    "nothing": (lambda r: None, "left out: nothing"),
    "texts": (lambda r: (r / "cat/a.txt").write_text("x"), "left out: 1 .txt (cat/a.txt)"),
    "many files": (lambda r: [(r / f"cat/{n}.xml").write_text("x") for n in range(9)],
                   "left out: 9 .xml (cat/0.xml, cat/1.xml, cat/2.xml and 6 more)"),
    "no suffix": (lambda r: (r / "LICENSE").write_text("x"), "left out: 1 without a suffix (LICENSE)"),
    "hidden": (lambda r: (r / "cat/.DS_Store").write_text("x"), "left out: 1 hidden (cat/.DS_Store)"),
    "of Windows": (lambda r: (r / "dog/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1"), "1 .db (dog/Thumbs.db)"),
    "an image beside the classes": (lambda r: (r / "cover.png").write_bytes(PNG), "1 image in no folder (cover.png)"),
    "an archive": (lambda r: (r / "cat/more.zip").write_bytes(b"PK\3\4"), "left out: 1 .zip (cat/more.zip)"),
    "documents": (lambda r: ((r / "cat/a.pdf").write_bytes(b"%PDF-1.4"), (r / "cat/b.svg").write_text("<svg/>")),
                  "left out: 1 .pdf (cat/a.pdf), 1 .svg (cat/b.svg)"),
    "a folder of texts": (lambda r: ((r / "docs").mkdir(), (r / "docs/a.md").write_text("x")),
                          "left out: 1 .md (docs/a.md), 1 folder without images (docs/)"),
    "an empty folder": (lambda r: (r / "bird").mkdir(), "left out: 1 folder without images (bird/)"),
    "a pipe without a suffix": (lambda r: fifo(r, "cat/pipe"), "left out: 1 without a suffix (cat/pipe)"),
    "a line feed in a name": (lambda r: (r / "cat/a\nb.txt").write_text("x"), r"left out: 1 .txt (cat/a\nb.txt)"),
    "a name that is not UTF-8": (lambda r: Path(os.fsdecode(os.fsencode(r) + b"/cat/\xe9.txt")).write_text("x"),
                                 r"left out: 1 .txt (cat/\udce9.txt)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_what_is_left_out_is_counted_and_named(case, root, capsys):
    make, end = NAMED[case]
    tree(root, "cat", "dog", images=12)
    make(root)
    line = line_on(root, capsys)
    assert line.endswith(end)
    assert "2 classes (cat, dog), images: " in line


UNDECODABLE = {  # files of the class cat that are no images, and their names
    "a link to nothing": (lambda r: link(r, "nowhere", "cat/gone.png"), "gone.png"),
    "a link to itself": (lambda r: link(r, "self.png", "cat/self.png"), "self.png"),
    "a pipe": (lambda r: fifo(r, "cat/pipe.png"), "pipe.png"),
    "a socket": (lambda r: listening(r / "cat", "s.png"), "s.png"),
    "an empty image": (lambda r: (r / "cat/e.png").write_bytes(b""), "e.png"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDECODABLE)
def test_a_file_that_cannot_be_decoded_is_counted_and_named(case, root, capsys):
    """In the line on the source; of test images again when they are opened."""
    make, name = UNDECODABLE[case]
    tree(root, "train/cat", "train/dog", "test/cat", "test/dog", images=12)
    make(root / "train")
    line = line_on(root, capsys)
    assert line.endswith(f"left out: 1 that cannot be decoded (train/cat/{name})")
    (root / "train/cat" / name).unlink()
    make(root / "test")
    data = loaded(str(root))
    assert f"left out: 1 that cannot be decoded (test/cat/{name})" in capsys.readouterr().err and data.sizes["test"] == 25
    assert len(with_test(data)["test"]) == 24
    assert f"1 image skipped, cannot be decoded: test/cat/{name} (" in capsys.readouterr().err


BAD = {
    "two folders of a split": (lambda r: tree(r, "train/a", "train/b", "Training/a"), "both the train split; keep one"),
    "train beside classes": (lambda r: tree(r, "train/a", "train/b", "c", "d"), "c/0.png: is in no split; beside train/"),
    "test beside classes": (lambda r: tree(r, "a", "b", "test/a", "test/b"), "a/0.png: is in no split; beside test/"),
    "a further folder": (lambda r: tree(r, "train/a", "train/b", "test/a", "extra/a"), "extra/a/0.png: is in no split"),
    "no folder for a class": (lambda r: tree(r, "train", "test"), "test/0.png: is in no class's folder"),
    "test images without classes": (lambda r: tree(r, "train/a", "train/b", "test"), "test/0.png: is in no class's folder"),
    "no train": (lambda r: tree(r, "test/a", "val/a"), "no train split; there is test and validation"),
    "a folder too deep": (lambda r: tree(r, "set/train/a", "set/test/a"), r"one class only \('set'\).*"
                          r"is data.source .*/set, with test, train\?"),
    "a folder twice": (lambda r: tree(r, "train/train/a", "train/train/b"), "is that one folder too many, with a, b"),
    "another class in test": (lambda r: tree(r, "train/a", "train/b", "test/c"), "test/c/0.png: train has no such class"),
    "other capitals in test": (lambda r: tree(r, "train/Cat", "train/dog", "test/cat"), "'cat' differs from 'Cat'"),
    "the same name twice": (lambda r: tree(r, CAFE[0], CAFE[1], "x"), "another folder has the same name 'café'"),
    "images in no folder": (lambda r: tree(r, "."), "there are 4 files, 4 of them images in no folder: 4 .png"),
    "archives": (lambda r: (r.mkdir(), (r / "a.zip").write_bytes(b"PK")), "no images there; .* there are 1 files: 1 .zip"),
    "nothing": (lambda r: r.mkdir(), "no images there; .* it is empty"),
    "no directory": (lambda r: None, "no images there; .* there is nothing at that place"),
    "hidden files": (lambda r: tree(r, ".cache"), "no images there; .* there are only hidden files"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_one_line(case, root):
    make, reason = BAD[case]
    make(root)
    with pytest.raises(DataError, match=reason) as caught:
        open_source(str(root))
    assert "\n" not in str(caught.value)


def test_classes_without_a_test_image_and_nearly_equal_names_are_shown(root, capsys):
    tree(root, "train/Cat", "train/cat/a", "train/cat/b/c", "train/dog", "test/cat", images=6)
    loaded(str(root))
    shown = capsys.readouterr().err
    assert "12 of 30 images are in folders inside their class's folder: train/cat/a/, train/cat/b/" in shown
    assert "test has no image of 2 of 3 classes: Cat, dog" in shown
    assert "nearly the same name of different classes: 'Cat' and 'cat'" in shown


def test_a_class_without_a_readable_image_is_refused(root):
    tree(root, "train/cat", "train/dog", "train/bird", "test/cat", images=9)
    for path in (root / "train/bird").iterdir():
        path.unlink()
        path.symlink_to("nowhere")
    with pytest.raises(DataError, match=r"no training image of class 0 \('bird'\) can be decoded"):
        loaded(str(root), max_corrupt=100)


def test_many_files_are_listed_quickly(root):
    store = open_store(str(root))
    keys = [f"train/class{number % 100}/{number}.jpg" for number in range(100_000)]
    store.keys = lambda: keys
    assert image_keys(store, keys) == keys
    assert len(read(store, keys, keys).train) == 100_000


@pytest.mark.server
def test_folders_in_a_bucket_are_read_alike(root, mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/images-in-folders")
    write_folders(store, content(12), "Train/")
    write_folders(store, content(6), "Testing/")
    store.write("Train/class0/x", PNG)
    store.write("Train/class0/notes.txt", b"x")
    found = open_source(store.url)
    assert (len(found.train), len(found.test)) == (13, 6)
    assert found.left_out == {".txt": ["Train/class0/notes.txt"]}
