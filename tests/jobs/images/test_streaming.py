"""Training images that stay where they are and stream through Ray Data."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from pictures import content, experiment, loaded, spoilt, write_folders, write_parquet

from cluster.progress import Reporter
from cluster.store import open_store
from jobs.images import dataset
from jobs.images.decoding import DataError, DecodingCounts
from jobs.images.source import open_source
from jobs.images.streaming import pieces_of, read_piece, streamed
from jobs.train import plan_of

ROOT = Path(__file__).parent.parent.parent.parent

pytestmark = pytest.mark.usefixtures("ray_cluster")


def shard(number=0, count=1):
    return number, count


@pytest.fixture
def stored(tmp_path):
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", content(60))
    return open_source(store.url).train


def epoch(stored, config, rank=0, world=1, start=0, number=0, limit=0):
    counts = DecodingCounts("here", limit)
    batches = list(streamed(stored, plan_of(config, 3), config.data, "a", number, shard(rank, world), counts, start))
    return batches, counts


def test_an_epoch_brings_every_image_once_with_its_label(stored):
    config = experiment(stored.url)
    batches, _ = epoch(stored, config)
    assert [step for step, _, _ in batches] == list(range(60 // 8))
    pixels = torch.cat([p for _, p, _ in batches])
    labels = torch.cat([la for _, _, la in batches])
    assert pixels.shape == (56, 3, 32, 32) and pixels.dtype == torch.uint8
    assert torch.equal(labels, (pixels[:, 0, 16, 16].long() - 40) // 60)  # the colour says the class
    numbers = pixels[:, 1, 16, 16].tolist()
    assert len(set(numbers)) > 48  # colours repeat after 51 numbers
    assert numbers != sorted(numbers)


def test_an_epoch_that_is_taken_up_in_its_middle_goes_on_with_the_same_batches(stored):
    config = experiment(stored.url)
    whole, _ = epoch(stored, config)
    for start in (1, 3, 6):
        rest, _ = epoch(stored, config, start=start)
        assert [step for step, _, _ in rest] == list(range(start, 7))
        for (_, ours, labels), (_, theirs, expected) in zip(rest, whole[start:], strict=True):
            assert torch.equal(ours, theirs) and torch.equal(labels, expected)
    other, _ = epoch(stored, config, number=1)
    assert not torch.equal(other[0][1], whole[0][1])


def test_an_alternating_flip_mirrors_the_other_images_in_the_next_epoch(stored):
    """The same piece with the same crops in two epochs: every image is mirrored in one of them."""
    data = replace(experiment(stored.url).data, flip=True, alternating_flip=True)
    piece = (0, np.arange(60), 0)
    first, second = (read_piece(stored, data, 32, "x", piece, turn=(5, epoch))["pixels"] for epoch in (0, 1))
    plain = read_piece(stored, replace(data, flip=False, alternating_flip=False), 32, "x", piece)["pixels"]
    assert np.array_equal(first, second[:, :, :, ::-1])
    kept = [np.array_equal(one, other) for one, other in zip(first, plain, strict=True)]
    assert np.array_equal(np.where(np.array(kept)[:, None, None, None], first, second), plain)


def test_workers_read_groups_of_their_own_and_make_the_same_number_of_steps(stored):
    """With nine groups of seven, one worker has five and one four of them, too few for its part."""
    pieces = [pieces_of(stored, 1, "a", 0, shard(rank, 2), skip=0, rows=29) for rank in (0, 1)]
    mine, others = ({int(i) for _, positions, _ in part for i in positions} for part in pieces)
    assert not mine & others
    assert mine | others == set(range(60))
    config = experiment(stored.url)
    counts = [[len(labels) for _, _, labels in epoch(stored, config, rank, 2)[0]] for rank in (0, 1)]
    assert counts == [[4] * 7, [4] * 7]
    counts = [[len(labels) for _, _, labels in epoch(stored, config, rank, 3)[0]] for rank in range(3)]
    assert counts == [[3] * 7, [3] * 7, [2] * 7]


def test_corrupt_images_are_named_and_others_stand_for_them(tmp_path):
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", spoilt(3))
    source = open_source(store.url).train
    config = experiment(store.url)
    batches, counts = epoch(source, config, limit=3)
    assert sum(len(labels) for _, _, labels in batches) == 56
    assert set(counts.failed) <= {f"train-0.parquet row {row}" for row in (0, 1, 2)} and len(counts.failed) >= 2
    with pytest.raises(DataError, match=r"images cannot be decoded, data\.max_corrupt allows 1"):
        epoch(source, config, limit=1)


def test_a_file_that_is_damaged_or_missing_while_it_streams_is_named(tmp_path):
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", content(60), group=60)
    source, config = open_source(store.url).train, experiment(store.url)
    damaged = bytearray(store.read("train-0.parquet"))
    damaged[100:1000] = bytes(900)
    store.write("train-0.parquet", bytes(damaged))
    with pytest.raises(DataError, match=r"train-0.parquet: is damaged: .*; restore the file"):
        epoch(source, config)
    store.delete("train-0.parquet")
    with pytest.raises(DataError, match=r"there is no train-0.parquet"):
        epoch(source, config)


def test_folders_with_unreadable_files_stream_as_they_are_decoded_in_memory(tmp_path):
    store = open_store(str(tmp_path / "images"))
    write_folders(store, content(60))
    (tmp_path / "images/class0/gone\n.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "images/class1/pipe.png")
    source, config = open_source(store.url).train, experiment(store.url)
    batches, counts = epoch(source, config, limit=2)
    assert [len(labels) for _, _, labels in batches] == [8] * 7
    expected = {
        r"class0/gone\n.png": "is missing, or a link to nothing",
        "class1/pipe.png": "cannot be read: it is no regular file",
    }
    assert counts.failed.items() <= expected.items()  # the rows of an incomplete batch are not seen
    counts = DecodingCounts("here", 2)
    assert len(source.decoded(32, 1.0, counts)[1]) == 60
    assert counts.failed == expected


def test_a_class_that_is_not_in_the_sample_has_an_image_that_can_be_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "STREAM_SAMPLE", 6)
    store, images = open_store(str(tmp_path / "images")), content(900)
    write_parquet(store, "train-0.parquet", images, group=50)
    trained_on = set(loaded(store.url, memory_mib=1).stored.row_N.tolist())  # which does not depend on the content
    spoilt_rows = [(b"x" if label == 2 and row in trained_on else data, label) for row, (data, label) in enumerate(images)]
    write_parquet(store, "train-0.parquet", spoilt_rows, group=50)
    with pytest.raises(DataError, match=r"no training image of class 2 \('2'\) can be decoded"):
        loaded(store.url, memory_mib=1, max_corrupt=900)


def test_images_larger_than_the_memory_setting_stream(tmp_path):
    """1.7 MiB of training pixels where one is allowed; what is not trained on is in memory all the same."""
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", content(900), group=100)
    data = loaded(store.url, memory_mib=1)
    assert data.sizes == {"train": 576, "selection": 144, "test": 180}
    assert "train" not in data.splits and len(data.sample) == 576
    again = type(data).of(data.arrays())
    assert np.array_equal(again.stored.labels_N, data.stored.labels_N) and again.stored.files == data.stored.files
    config = experiment(store.url, memory_mib=1)
    step, pixels, labels = next(
        iter(again.batches(plan_of(config, 3), config.data, "a", 0, shard(), DecodingCounts("here", 0), 70))
    )
    assert step == 70 and len(pixels) == len(labels) == 8
    assert again.augment(config.data).crop is False
    joined = dataset.load_joined(config, data.scale, Reporter("plain"))
    assert joined.sizes == {"train": 720} and joined.scale == data.scale
    assert not set(joined.stored.row_N.tolist()) & set(data.held_out.images.row_N.tolist())


@pytest.mark.whole_run
@pytest.mark.slow
def test_a_supernet_trains_on_a_stream(tmp_path):
    """The command, two workers, each with a Ray Data pipeline of its own; corrupt images on the way."""
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", [*spoilt(2), *content(840)], group=100)
    sets = [f"data.source={store.url}", "data.memory_mib=1", "train.batch=64",
            'train.phases=[{name="a",epochs=2,lr=0.05}]']  # fmt: skip
    asked = ["train", str(helpers.TINY), "--store", str(tmp_path / "runs"), *(w for s in sets for w in ("--set", s))]
    done = subprocess.run([sys.executable, "-m", "jobs", *asked], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "they stream through Ray Data" in done.stderr
    assert "skipped, cannot be decoded: train-0.parquet row" in done.stderr
    record = json.loads(next((tmp_path / "runs").glob("*/train.done.json")).read_text())
    assert record["images"]["train"] == 576  # of 900, the two corrupt ones among them
    assert record["data"]["images"] == record["images"] and record["data"]["classes"] == 3
