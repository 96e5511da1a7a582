"""What a training reports is in event files of its run, as TensorBoard reads them."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from cluster.errors import StepError
from cluster.run import Run
from jobs import tensorboard
from ofa.phases import Phase
from ofa.spaces import get_space

SPACE = get_space("digits")
PHASES = (Phase("largest", space=SPACE, epochs=3, lr=0.1), Phase("all", space=SPACE, epochs=2, lr=0.05))
ROWS = [
    {"phase": "largest", "epoch": 3, "loss": 1.5, "lr": 0.1, "largest": 0.75, "smallest": 0.25},
    {"phase": "all", "epoch": 1, "loss": 1.25, "lr": 0.05},
]


def values(data):
    """The tag, step and value of every scalar in an event file: records of a length, its sum, the event, and its sum."""
    while data:
        [size] = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
        yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


@pytest.fixture
def run(tmp_path):
    return Run.open(str(tmp_path), "r", "title = 1\n", "test")


def events_of(run):
    [key] = run.keys("logs/tensorboard/supernet/")
    return list(values(run.raw(key)))


def test_every_number_of_an_epoch_is_a_scalar_at_its_epoch_of_the_whole_training(run):
    with tensorboard.written(run, "supernet", PHASES) as events:
        for row in ROWS:
            events.add(row)
    assert [(tag, step, round(value, 6)) for tag, step, value in events_of(run)] == [
        ("train/loss", 3, 1.5),
        ("train/learning_rate", 3, 0.1),
        ("top1/largest", 3, 0.75),
        ("top1/smallest", 3, 0.25),
        ("train/loss", 4, 1.25),
        ("train/learning_rate", 4, 0.05),
    ]


def test_what_was_reported_before_a_failure_is_there(run):
    def fail():
        with tensorboard.written(run, "supernet", PHASES) as events:
            events.add(ROWS[1])
            raise StepError("lost")

    with pytest.raises(StepError, match="lost"):
        fail()
    assert [(tag, step) for tag, step, _ in events_of(run)] == [("train/loss", 4), ("train/learning_rate", 4)]


def test_it_is_uploaded_meanwhile_and_a_store_that_is_away_is_left_to_the_training(run, monkeypatch):
    monkeypatch.setattr(tensorboard, "UPLOAD_S", 0.0)
    with tensorboard.written(run, "supernet", PHASES) as events:
        events.add(ROWS[0])
        assert len(events_of(run)) == 4
        with monkeypatch.context() as away:
            away.setattr(events, "upload", lambda: (_ for _ in ()).throw(StepError("away")))
            events.add(ROWS[1])
    assert len(events_of(run)) == 6


def test_objects_of_logs_are_no_defect_of_a_run(run):
    run.begin("train").finish(1)
    with tensorboard.written(run, "supernet", PHASES) as events:
        events.add(ROWS[0])
    assert list(run.problems()) == []
