"""Writes what a training reports as event files for TensorBoard, into the run: `logs/tensorboard/<folder of the training>/`.

    ofa train configs/digits.toml --set train.tensorboard=true
    tensorboard --logdir runs/<id>/logs/tensorboard

Every command that trains leaves one file; TensorBoard shows the files of one folder as one curve.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.errors import InputError, StepError
from cluster.run import Run
from jobs import files
from ofa.phases import Phase

UPLOAD_S = 10.0  # seconds between uploads
TAGS = {"loss": "train/loss", "lr": "train/learning_rate", "largest": "top1/largest", "smallest": "top1/smallest"}


class Events:
    """The event file of one process, written locally and uploaded as a whole.

    at: the folder of the training. phases: of its plan; the step of a value is its epoch, counted over all phases.
    """

    def __init__(self, run: Run, at: str, phases: Sequence[Phase], folder: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's own queue loses what was added last

        self.run, self.at, self.folder, self.uploaded = run, at, Path(folder), time.monotonic()
        self.writer = EventsWriter(str(self.folder / "events"))
        self.before = {phase.name: sum(p.epochs for p in phases[:number]) for number, phase in enumerate(phases)}

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds the report of an epoch; any thread may call it, and a store that is away is left to the training."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        epoch = self.before[row["phase"]] + row["epoch"]
        for name, tag in TAGS.items():
            if name in row:
                self.writer.write_event(Event(wall_time=time.time(), step=epoch, summary=scalar(tag, row[name])))
        if time.monotonic() - self.uploaded > UPLOAD_S:
            with suppress(InputError, StepError):
                self.upload()

    def upload(self) -> None:
        """Writes the file to the run's store."""
        self.writer.flush()
        self.uploaded = time.monotonic()
        for path in self.folder.iterdir():
            self.run.store.publish(f"{self.run.id}/{files.events(self.at, path.name)}", path)


@contextmanager
def written(run: Run, at: str, phases: Sequence[Phase]) -> Iterator[Events]:
    """The event file of a training; uploaded at the end, also of a training that fails."""
    with tempfile.TemporaryDirectory(prefix="ofa-events-") as folder:
        events = Events(run, at, phases, folder)
        try:
            yield events
        except BaseException:
            with suppress(InputError, StepError):
                events.upload()
            raise
        else:
            events.upload()
        finally:
            events.writer.close()
