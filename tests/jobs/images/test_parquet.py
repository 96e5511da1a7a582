"""Parquet shards as people have them: names, columns and labels of many kinds, metadata, damage."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import content, encoded, experiment, loaded, picture, write_parquet

from cluster.store import open_store
from jobs.images.dataset import divided
from jobs.images.decoding import DataError, Unreadable
from jobs.images.source import open_source

ROWS = content(12)
NAMES = ["a", "b", "c"]


@pytest.fixture
def here(tmp_path):
    return open_store(str(tmp_path / "images"))


def images(rows=ROWS, kind=None):
    """A column of images: structs of bytes and path, or of another type for the bytes."""
    fields = [("bytes", kind or pa.binary()), ("path", pa.string())]
    return pa.array([{"bytes": data, "path": None} for data, _ in rows], pa.struct(fields))


def table(store, key, notes=None, group=5, **columns):
    """Writes a Parquet file of these columns; labels 0, 1, 2 in turn where there is none."""
    found = pa.table({"label": pa.array([label for _, label in ROWS]), **columns})
    if notes is not None:
        found = found.replace_schema_metadata({"huggingface": notes})
    file = io.BytesIO()
    pq.write_table(found, file, row_group_size=group)
    store.write(key, file.getvalue())


def plain(store, key="train-0.parquet", **columns):
    table(store, key, **{"image": images(), **columns})


def shared(store, *keys, **settings):
    for key in keys:
        write_parquet(store, key, ROWS, **settings)


def notes_of(names):
    return json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})


def dictionary(values):
    return pa.array(values).dictionary_encode()


def plain_bytes(kind):
    return pa.array([data for data, _ in ROWS], kind)


READ = {  # what is written, and the number of training images
    "splits by folders": (lambda s: shared(s, "train/0000.parquet", "test/0000.parquet"), 12),
    "a folder called as a file": (lambda s: shared(s, "train.parquet/part-0.parquet", "test.parquet/part-0.parquet"), 12),
    "names with other words": (lambda s: shared(s, "Training_data-0.parquet", "eval.parquet"), 12),
    "a suffix in capitals": (lambda s: shared(s, "TRAIN.PARQUET"), 12),
    "a data folder": (lambda s: shared(s, "data/train-0.parquet", "data/test-0.parquet"), 12),
    "two shards": (lambda s: shared(s, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"), 24),
    "a column called img": (lambda s: table(s, "train-0.parquet", img=images()), 12),
    "a column with a dot": (lambda s: table(s, "train-0.parquet", **{"my.image": images()}), 12),
    "image beside a mask": (lambda s: plain(s, mask=images()), 12),
    "image beside binary values": (lambda s: plain(s, sha=plain_bytes(pa.binary())), 12),
    "a column of bytes": (lambda s: table(s, "train-0.parquet", image=plain_bytes(pa.binary())), 12),
    "large bytes": (lambda s: plain(s, image=images(kind=pa.large_binary())), 12),
    "a column of large bytes": (lambda s: table(s, "train-0.parquet", image=plain_bytes(pa.large_binary())), 12),
    "bytes in a dictionary": (lambda s: plain(s, image=dictionary([data for data, _ in ROWS])), 12),
    "labels in a dictionary": (lambda s: plain(s, label=dictionary([label for _, label in ROWS])), 12),
    "labels of eight bits": (lambda s: plain(s, label=pa.array([label for _, label in ROWS], pa.uint8())), 12),
    "an empty shard": (lambda s: (shared(s, "train-0.parquet"), write_parquet(s, "train-1.parquet", [])), 12),
    "metadata that is null": (lambda s: plain(s, notes="null"), 12),
    "metadata that is a list": (lambda s: plain(s, notes="[]"), 12),
    "no features": (lambda s: plain(s, notes='{"info": null}'), 12),
    "features without names": (lambda s: plain(s, notes=notes_of(None)), 12),
    "a test without labels": (lambda s: (plain(s), plain(s, "test-0.parquet", label=pa.array([None] * 12, pa.int64()))), 12),
    "a test with labels of no type": (lambda s: (plain(s), plain(s, "test-0.parquet", label=pa.nulls(12))), 12),
    "names in one shard only": (lambda s: (shared(s, "train-0.parquet", names=NAMES), shared(s, "train-1.parquet")), 24),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_can_be_read_is_read(case, here):
    make, count = READ[case]
    make(here)
    train = open_source(here.url).train
    assert len(train) == count
    data = [content for content, _ in ROWS]
    assert all(found == data[position % 12] for position, found in train.read(np.arange(count)))
    assert train.labels_N.tolist() == [label for _, label in ROWS] * (count // 12)


def of_labels(values, kind=None):
    return lambda store: plain(store, label=pa.array(values, kind))


def other_names(found, key="train-1.parquet"):
    return lambda store: (shared(store, "train-0.parquet", names=NAMES), shared(store, key, names=found))


def twice(store):
    file = io.BytesIO()
    label = pa.array([label for _, label in ROWS])
    pq.write_table(pa.Table.from_arrays([images(), label, label], names=["image", "label", "label"]), file)
    store.write("train-0.parquet", file.getvalue())


BAD = {
    "labels of text": (of_labels(["cat", "dog"] * 6), "no integer column 'label'; there are label: string, image: struct<"),
    "labels of floats": (of_labels([0.0, 1.5] * 6), "no integer column 'label'; there are label: double"),
    "labels of booleans": (of_labels([True, False] * 6), "there are label: bool"),
    "labels of lists": (of_labels([[0], [1]] * 6), "there are label: list<"),
    "labels of no type": (of_labels([None] * 12), "there are label: null"),
    "text in a dictionary": (lambda s: plain(s, label=dictionary(["a", "b"] * 6)), "there are label: dictionary<"),
    "no label at all": (of_labels([None] * 12, pa.int64()), "12 of 12 rows have no 'label', the first is row 0"),
    "a row without a label": (of_labels([0, 1, None, 2] * 3), "3 of 12 rows have no 'label', the first is row 2"),
    "a negative label": (of_labels([0, 1, -4] * 4), "row 2: label -4 is out of range"),
    "only hidden labels": (of_labels([-1] * 12), "row 0: label -1 is out of range"),
    "the largest label": (of_labels([0, 1, 2**64 - 1] * 4, pa.uint64()), "row 2: label 9223372036854775807 is out of range"),
    "the column twice": (twice, "no integer column 'label'; there are image"),
    "two columns of images": (lambda s: table(s, "train-0.parquet", left=images(), right=images()),
                              "which of left, right are the images\\? Call one image: "),
    "images of text": (lambda s: table(s, "train-0.parquet", image=pa.array(["x"] * 12)),
                        "no column of images; expected image"),
    "bytes of text": (lambda s: plain(s, image=pa.array([{"bytes": "x"}] * 12)),
                        "there are label: int64, image: struct<bytes"),
    "images in a list": (lambda s: plain(s, image=pa.array([[{"bytes": b"x"}]] * 12)), "no column of images"),
    "images in a struct": (lambda s: plain(s, image=pa.array([{"image": {"bytes": b"x"}}] * 12)), "no column of images"),
    "another column in a shard": (lambda s: (plain(s), table(s, "train-1.parquet", label=pa.nulls(12), labels=images())),
                                  "no column of images|no integer column"),
    "labels in another column": (lambda s: (plain(s), write_parquet(s, "train-1.parquet", ROWS, column="labels")),
                                 "train-1.parquet: its labels are in 'labels', those of train-0.parquet in 'label'"),
    "names in another order": (other_names(["a", "c", "b"]),
                               "train-1.parquet: its class names from class 1 on are c, b, those of .* are b, c"),
    "other names in test": (other_names(["x", "b", "c"], "test-0.parquet"),
                        "train-0.parquet: its class names are a, b, c, those"),
    "fewer names": (other_names(["a", "b"]), "train-1.parquet: it has 2 class names, train-0.parquet has 3"),
    "a name twice": (lambda s: plain(s, notes=notes_of(["a", "b", "a"])), "has the class name 'a' twice"),
    "more names than labels": (lambda s: plain(s, notes=notes_of([*NAMES, "d"])), r"train has no image of class 3 \('d'"),
    "metadata that is no JSON": (lambda s: plain(s, notes="nope"), "its metadata 'huggingface' is not JSON"),
    "metadata that is not UTF-8": (lambda s: plain(s, notes=b"\xff\xfe{"), "its metadata 'huggingface' is not JSON"),
    "metadata without an end": (lambda s: plain(s, notes="[" * 100_000), "its metadata 'huggingface' is not JSON"),
    "two configurations": (lambda s: shared(s, "one/train-0.parquet", "two/train-0.parquet"),
                           r"of 2 data sets: one/ \(one/train-0.parquet\), two/ \(two/train-0.parquet\); let data.source"),
    "configurations of splits": (lambda s: shared(s, "one/train/0.parquet", "two/train/0.parquet"), "of 2 data sets: one/"),
    "two exports": (lambda s: shared(s, "train-00000-of-00001.parquet", "train-00000-of-00002.parquet"),
                        "are of two exports"),
    "another split": (lambda s: shared(s, "train-0.parquet", "train_extra-0.parquet"),
                        "train_extra-0.parquet: which split is"),
    "no split": (lambda s: shared(s, "0000.parquet"), "0000.parquet: which split is this"),
    "no bytes": (lambda s: s.write("train-0.parquet", b""), "train-0.parquet: is no Parquet file: .*; restore the file"),
    "other bytes": (lambda s: s.write("train-0.parquet", b"\0" * 5000), "train-0.parquet: is no Parquet file: "),
    "a text": (lambda s: s.write("train-0.parquet", b"<html>Not found</html>"), "train-0.parquet: is no Parquet file: "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_one_line(case, here):
    make, reason = BAD[case]
    make(here)
    with pytest.raises(DataError, match=reason) as caught:
        open_source(here.url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_named(here, end):
    shared(here, "train-0.parquet")
    whole = here.read("train-0.parquet")
    here.write("train-0.parquet", whole[: int(len(whole) * end)])
    with pytest.raises(DataError, match=r"train-0.parquet: is no Parquet file: .*; restore the file"):
        open_source(here.url)


def test_any_damaged_byte_is_read_or_named(here):
    shared(here, "train-0.parquet", names=NAMES)
    whole = here.read("train-0.parquet")
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] = rng.integers(0, 256)
        here.write("train-0.parquet", bytes(damaged))
        try:
            train = open_source(here.url).train
            list(train.read(np.arange(len(train))))
        except DataError as error:
            reason = str(error)
        else:
            continue
        assert here.url in reason and "\n" not in reason


def test_images_with_a_path_only_are_read_from_it(here):
    column = pa.array([{"bytes": None, "path": f"../x/{n}.png" if n == 11 else f"files/{n}.png"} for n in range(12)])
    plain(here, "data/train-0.parquet", image=column)
    for number, (data, _) in enumerate(ROWS[:6]):
        here.write(f"{'data/' if number % 2 else ''}files/{number}.png", data)
    here.write("x/11.png", ROWS[11][0])
    found = dict(open_source(here.url).train.read(np.arange(12)))
    assert [found[number] for number in range(6)] == [data for data, _ in ROWS[:6]]
    assert found[6] == Unreadable("no image bytes are stored, and there is no file at its path 'files/6.png'")
    assert isinstance(found[11], Unreadable)  # no path leads out of the folder of the file


def test_rows_without_an_image_are_counted(here, capsys):
    rows = content(60)
    column = images(rows).to_pylist()
    column[7], column[20]["bytes"], column[33]["bytes"] = None, None, b""
    plain(here, image=pa.array(column), label=pa.array([label for _, label in rows]))
    assert sum(loaded(here.url).sizes.values()) == 57
    shown = capsys.readouterr().err
    assert "3 images skipped, cannot be decoded: " in shown
    for reason in ("row 7 (no image bytes are stored)", "row 20 (no image bytes", "row 33 (the file is empty)"):
        assert f"train-0.parquet {reason}" in shown


def test_other_files_and_splits_and_missing_shards_are_shown(here, capsys):
    shared(here, "validation-0.parquet", "test-0.parquet")
    write_parquet(here, "train-00000-of-00003.parquet", content(60))
    for key in (".train-1.parquet", "README.md", "cat/1.png"):
        here.write(key, b"x")
    loaded(here.url)
    shown = capsys.readouterr().err
    assert "data: train has 1 of 3 shards; the first that is missing is number 1" in shown
    end = "validation-0.parquet row 2 and 9 more), 1 hidden (.train-1.parquet)"
    assert "left out: 1 .md (README.md), 1 .png (cat/1.png), 12 images of validation (test is the test split)" in shown
    assert end in shown


def test_hidden_labels_of_the_test_split_are_shown(here):
    write_parquet(here, "train-0.parquet", content(60))
    write_parquet(here, "test-0.parquet", [(encoded(picture(0, 0)), -1)] * 4)
    source = open_source(here.url)
    assert source.test is None and len(source.left_out["images of test (without labels)"]) == 4
    assert len(divided(source, experiment(here.url))["test"]) == 12
