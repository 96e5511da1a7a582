"""The context of a step: its config, its run, a reporter, and Ray on demand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import dump
from cluster.errors import InputError, StepError
from cluster.progress import LOG, Reporter
from cluster.run import Run
from cluster.runtime.machine import check_environment
from jobs.config import Experiment
from jobs.operate.scale import Scale

if TYPE_CHECKING:  # commands that open a run without working on it load neither torch nor Ray
    from cluster.runtime.pool import Pool
    from jobs.images.dataset import Dataset
    from ofa.images import Split
    from ofa.timings import BatchTimes
    from search.costs.devices import DeviceCosts


@dataclass
class Job:
    """The work of one command on one run."""

    config: Experiment
    run: Run
    reporter: Reporter
    asked: str  # the arguments of a command on this run, for the commands that a report suggests
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def data(self) -> Dataset:
        """The images, loaded at first use; an `InputError` if they are not those that the supernet was trained on."""
        from jobs.images.dataset import load

        record = self.run.done("train")
        data = load(self.config, self.reporter, check_test=record is None)  # test images are checked before training alone
        before = (record or {}).get("data")
        now = data.description.to_json() if data.description is not None else None
        if isinstance(before, dict) and now is not None:
            for what in ("class_names", "classes", "images"):
                if before.get(what, now[what]) != now[what]:
                    raise InputError(
                        f"{self.config.data.source}: its {what.replace('_', ' ')} are {_text(now[what])}, the supernet was "
                        f"trained with {_text(before[what])}; restore the images, or train on these in another --store"
                    )
        return data

    @cached_property
    def test(self) -> Split:
        """The held-out test split, read and decoded at first use; nothing may be trained, searched or chosen by it."""
        assert self.data.held_out is not None, "the images of this job have no test split"
        return self.data.held_out.open(self.reporter)

    def need_ray(self, gpus: int = 0) -> None:
        """Connects to Ray, at the first call. gpus: of a training, one for each of the fewest workers.

        An `InputError` without these, or without those of the evaluators and scorers of the run.
        """
        if self._connected:
            return
        from cluster.runtime import metrics
        from cluster.runtime.session import session

        self._connected = True
        train, readers = self.config.train, self.config.data.readers if self.data.stored is not None else 0
        pool = self.config.ray.evaluators + self.config.ray.scorers
        least = train.least_workers + readers
        cpus = least + pool if self.config.adapt.iterations else max(least, pool)
        gpus = self.config.gpus(gpus)
        shared = sum(array.nbytes for array in self.data.arrays().values())
        shared += self.data.held_out.nbytes if self.data.held_out is not None else 0  # the step `predict` shares them too
        ray, wait_s = self.config.ray, self.config.kube.starting_s or None
        if gpus and ray.autoscales:
            self.reporter.say(f"{gpus} GPUs are requested of the cluster, which may add nodes for them")
        self.stack.enter_context(session(ray.address, cpus, shared, gpus=gpus, grows=ray.autoscales, wait_s=wait_s,
                    on_lost=self._report_lost))  # fmt: skip
        metrics.of_run(self.run.id)
        self.reporter.observe = metrics.record_progress

    def _report_lost(self, error: StepError) -> None:
        """Reports an error as the command line does, from a thread."""
        print(LOG.error(str(error)), file=sys.stderr)
        self.reporter.event("error", message=str(error), exit=1)

    def pool(self, start: Callable[[], Pool]) -> Pool:
        """The command's pool of actors: `start` makes it at the first call, with Ray connected; closed with the job."""
        if self._pool is None:
            self.need_ray()
            self._pool = start()
            self.stack.callback(self._pool.close)
        return self._pool

    def close_pool(self) -> None:
        """Ends the actors of the command's pool, whose CPUs and GPUs a training then has; `pool` would start new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @cached_property
    def scale(self) -> Scale:
        """Overrides of settings of the running search."""
        return Scale(self.run)

    costs: DeviceCosts | None = field(default=None, init=False)  # by the run's latency tables; see `jobs.costs`
    batches: BatchTimes | None = field(default=None, init=False)  # of evaluations; see `jobs.batches`
    _connected: bool = field(default=False, init=False)
    _pool: Pool | None = field(default=None, init=False)


def _text(value: Any) -> str:
    """A value of a description of images, for messages."""
    if isinstance(value, dict):
        return ", ".join(f"{count} {split}" for split, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def opened(
    config: Experiment, store_url: str, reporter: Reporter, asked: str, attempt: int = 0, *, begins: bool = True
) -> Iterator[Job]:
    """A job on the run of `config`; Ray and the pool, where used, are released at the end.

    begins: whether the run may be a new one; otherwise it must have begun before.
    """
    check_environment()
    LOG.run = config.id
    if begins:
        run = Run.open(store_url, config.id, dump(config), code_version(), attempt)
    else:
        run = Run.existing(store_url, config.id, code_version(), attempt)
    with ExitStack() as stack:
        if not attempt:
            run = stack.enter_context(run.exclusive(reporter.say, reporter.progress))
        yield Job(config, run, reporter, asked, stack)


@cache
def code_version() -> str:
    """The package's version, and the commit if it runs from a checkout."""
    try:
        number = version("ofa-cluster")
    except PackageNotFoundError:
        number = "unknown"
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{number} ({commit.stdout.strip()})" if commit.returncode == 0 else number
