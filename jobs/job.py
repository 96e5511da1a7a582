"""What every step gets: its config, its run, somebody to report to, and Ray once it asks for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.config import dump
from cluster.progress import Reporter
from cluster.run import Run
from cluster.runtime.pool import Pool
from cluster.runtime.session import session
from jobs.config import Experiment
from jobs.images import dataset as data
from jobs.operate.scale import Scale


@dataclass
class Job:
    """One command's work on one run."""

    config: Experiment
    run: Run
    reporter: Reporter
    asked: str  # the arguments of a command on this run, for the commands that a report suggests
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def data(self) -> data.Dataset:
        return data.load(self.config, self.reporter)

    def need_ray(self) -> None:
        """Connects to Ray, the first time it is called."""
        if not self._connected:
            self._connected.append(True)
            train, readers = self.config.train, self.config.data.readers if self.data.shelf is not None else 0
            cpus = max(train.workers + readers, self.config.ray.evaluators + self.config.ray.scorers)
            shared = sum(array.nbytes for array in self.data.arrays().values())
            ray = self.config.ray
            self.stack.enter_context(session(ray.address, cpus, shared, grows=ray.autoscales))

    def evaluators(self) -> Pool:
        """The pool of actors that hold the trained supernet; steps of one command share it."""
        if not self._pool:
            from jobs.evaluators import evaluators

            self.need_ray()
            self._pool.append(evaluators(self))
            self.stack.callback(self._pool[0].close)
        return self._pool[0]

    @cached_property
    def scale(self) -> Scale:
        """What somebody asks of the run while it is under way."""
        return Scale(self.run)

    def rescale(self) -> None:
        """As many evaluators as `ofa scale` asked for, if it did; looks at the store now and then."""
        wanted, pool = self.scale.asked().evaluators, self.evaluators()
        if wanted is not None and wanted != pool.workers:
            pool.resize(wanted)

    _connected: list[bool] = field(default_factory=list)
    _pool: list[Pool] = field(default_factory=list)


@contextmanager
def opened(config: Experiment, store_url: str, reporter: Reporter, asked: str, attempt: int = 0) -> Iterator[Job]:
    """A job on the run that `config` asks for; Ray and the pool, where used, are given back in the end."""
    run = Run.open(store_url, config.id, dump(config), code_version(), attempt)
    with ExitStack() as stack:
        yield Job(config, run, reporter, asked, stack)


@cache
def code_version() -> str:
    """The package's version, and the commit where it runs from a checkout."""
    try:
        number = version("ofa-cluster")
    except PackageNotFoundError:
        number = "unknown"
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{number} ({commit.stdout.strip()})" if commit.returncode == 0 else number
