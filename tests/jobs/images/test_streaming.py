"""Training images that stay where they are and stream through Ray Data."""

import json
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from pictures import content, experiment, loaded, spoilt, write_parquet

from cluster.runtime.workers import Worker
from cluster.store import open_store
from jobs.images.decoding import DataError, DecodingCounts
from jobs.images.source import open_source
from jobs.images.streaming import pieces_of, streamed
from jobs.train import plan_of

ROOT = Path(__file__).parent.parent.parent.parent

pytestmark = pytest.mark.usefixtures("ray_cluster")


def worker(rank=0, world=1):
    return Worker(rank, world, lambda event: None)


@pytest.fixture
def stored(tmp_path):
    store = open_store(str(tmp_path / "images"))
    write_parquet(store, "train-0.parquet", content(60))
    return open_source(store.url).train


def epoch(stored, config, rank=0, world=1, start=0, number=0, limit=0):
    counts = DecodingCounts("here", limit)
    batches = list(streamed(stored, plan_of(config, 3), config.data, "a", number, worker(rank, world), counts, start))
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


def test_workers_read_groups_of_their_own_and_make_the_same_number_of_steps(stored):
    """With nine groups of seven, one worker has five and one four of them, too few for its part."""
    pieces = [pieces_of(stored, 1, "a", 0, worker(rank, 2), skip=0, rows=29) for rank in (0, 1)]
    mine, others = ({int(i) for _, positions, _ in part for i in positions} for part in pieces)
    assert not mine & others
    assert mine | others == set(range(60))
    config = experiment(stored.url)
    counts = [[len(labels) for _, _, labels in epoch(stored, config, rank, 2)[0]] for rank in (0, 1)]
    assert counts == [[4] * 7, [4] * 7]


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
        iter(again.batches(plan_of(config, 3), config.data, "a", 0, worker(), DecodingCounts("here", 0), 70))
    )
    assert step == 70 and len(pixels) == len(labels) == 8
    assert again.augment(config.data).crop is False


@pytest.mark.whole_run
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
