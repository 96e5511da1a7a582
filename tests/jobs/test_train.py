"""Training in this process: the same loop that Ray Train's workers run."""

from dataclasses import replace

import helpers
import pytest
import safetensors.torch
import torch

from cluster import run as keys
from cluster.checkpoint import Checkpoints
from cluster.run import Run
from cluster.training import Worker
from jobs.config import load
from jobs.data import load as load_data
from jobs.train import train_loop

TINY = str(helpers.TINY)


class Stop(Exception):
    """What kills a training here."""


@pytest.fixture(scope="module")
def tiny():
    config = load(TINY, ["train.workers=1", "train.checkpoint_s=0", "data.selection=0.4", "data.test=0.4"])
    short = tuple(replace(phase, epochs=2) for phase in config.train.phases)
    config = replace(config, train=replace(config.train, phases=short))
    return config, load_data(config).arrays()


def train(config, arrays, store, stop_after=None):
    """Trains to the end, or until so many steps of this process are saved; the last phase's weights."""
    run = Run.open(str(store), config.id, "", code="test")
    torch_threads = torch.get_num_threads()
    saved = 0

    class Stopping(Checkpoints):
        def save(self, *arguments):
            nonlocal saved
            super().save(*arguments)
            saved += 1
            if saved == stop_after:
                raise Stop

    import jobs.train

    original, jobs.train.Checkpoints = jobs.train.Checkpoints, Stopping
    try:
        train_loop(config, str(store), "test", Worker(rank=0, world=1, report=lambda letter: None), arrays)
    finally:
        jobs.train.Checkpoints = original
        torch.set_num_threads(torch_threads)
    return safetensors.torch.load(run.raw(keys.supernet(config.phases[-1].name)))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_stopped_training_resumes_to_the_same_weights(tiny, tmp_path):
    """Stopped after every few steps, in every phase and at every epoch's end."""
    config, arrays = tiny
    straight = train(config, arrays, tmp_path / "straight")
    stops = 0
    while True:
        try:
            resumed = train(config, arrays, tmp_path / "stopped", stop_after=2)
        except Stop:
            stops += 1
            continue
        break
    assert stops >= 3
    assert same(straight, resumed)
    meta = [
        Run.at(str(tmp_path / name), config.id, "").raw(keys.supernet_meta(phase.name))
        for phase in config.phases
        for name in ("straight", "stopped")
    ]
    assert meta[0] == meta[1]
    assert meta[2] == meta[3]


def test_another_seed_trains_another_network(tiny, tmp_path):
    config, arrays = tiny
    one = train(config, arrays, tmp_path / "one")
    other = train(replace(config, seed=2), arrays, tmp_path / "other")
    assert not same(one, other)


def test_a_phase_says_how_it_went(tiny, tmp_path):
    import json

    config, arrays = tiny
    train(config, arrays, tmp_path)
    run = Run.at(str(tmp_path), config.id, "")
    for phase in config.phases:
        meta = json.loads(run.raw(keys.supernet_meta(phase.name)))
        assert [row["epoch"] for row in meta["history"]] == [1, 2]
        assert all(row["loss"] > 0 and 0 <= row["smallest"] <= 1 and 0 <= row["largest"] <= 1 for row in meta["history"])
        assert meta["choices"]["expands"] == list(phase.space.expands)
    assert 0 < meta["history"][-1]["lr"] < phase.lr
