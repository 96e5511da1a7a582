"""Weak scaling of the measured search: one driver, and evaluators that only sleep.

    python -m bench.scaling [--workers 10 100 1000] [--seconds 0.5 0] [--generations]

The driver is that of a run: `jobs.search.search_asynchronously` with two islands in Ray actors, the pool of evaluators, the
ledger in a store, the hypervolume and the metrics of every evaluation. Only the evaluators are simulated: a worker of the
pool is not an actor with a process of its own but a number in one of a few asynchronous Ray actors, which sleeps, and then
returns a record that it computes from the arch. Calls and results are those of the real pool, two calls a worker, the second
one waiting for the first. What is missing is the start of actors, the network, and the machines of the workers.

With evaluations of 0 s the rate is the highest of the driver. That rate times the seconds of an evaluation is the number of
workers at which the driver is saturated. `--generations` runs `search.measured` instead, with a generation as large as the
number of workers.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ray

from cluster.config import dump
from cluster.progress import Reporter
from cluster.run import Run
from cluster.runtime import metrics
from cluster.runtime.pool import Pool
from cluster.runtime.session import session
from cluster.runtime.tasks import ray_map
from jobs import search as step_search
from jobs.config import load
from jobs.costs import objectives_of
from jobs.evaluators import measure_all
from jobs.job import Job
from ofa.arch import Arch
from ofa.record import Measured
from search import measured
from search.history import Curve
from search.objective import values

CONFIG = Path(__file__).parent.parent / "configs/imagenet.toml"
HOSTS = 2  # asynchronous actors, among which the workers are divided
EVALUATIONS_A_WORKER = 40
MOST_S = 60.0  # a run has fewer evaluations if it would take longer ideally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 128, 1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 0.0], help="of an evaluation")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS_A_WORKER, help="of a worker, on average")
    parser.add_argument("--generations", action="store_true", help="search by generations, not asynchronously")
    arguments = parser.parse_args()
    row("workers", "s", "evaluations", "wall s", "of ideal", "asks/s", "tells/s", "driver CPU ms", "islands' CPU ms",
        "RSS MiB", "KiB an evaluation", "islands' KiB", "ledger parts/s")  # fmt: skip
    row(*["---"] * 13)
    with session("local", cpus=1, shared_bytes=0):
        for workers in arguments.workers:
            for seconds in arguments.seconds:
                evaluations = arguments.evaluations * workers
                if seconds:
                    evaluations = min(evaluations, int(workers * MOST_S / seconds))
                found = searched(workers, seconds, evaluations, arguments.generations)
                ideal = evaluations * seconds / workers
                share = f"{ideal / found.wall_s:.3f}" if seconds else ""
                row(workers, f"{seconds:g}", evaluations, f"{found.wall_s:.1f}", share, f"{found.asked / found.wall_s:.0f}",
                    f"{found.told / found.wall_s:.0f}", f"{1000 * found.driver_s / evaluations:.2f}",
                    f"{1000 * found.islands_s / evaluations:.2f}", f"{found.rss / 2**20:.0f}",
                    f"{found.grown / 1024 / evaluations:.1f}", f"{found.islands_grown / 1024 / evaluations:.1f}",
                    f"{found.parts / found.wall_s:.2f}")  # fmt: skip


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


@dataclass
class Found:
    """What one search took: seconds of wall and CPU, archs that islands proposed and got reported, bytes of the driver."""

    wall_s: float = 0.0
    driver_s: float = 0.0
    islands_s: float = 0.0
    asked: int = 0
    told: int = 0
    rss: int = 0
    grown: int = 0
    islands_grown: int = 0
    parts: int = 0


class Host:
    """An asynchronous actor that stands for many evaluators; each does its calls one after another.

    An evaluation begins when its call is there and the one before it has had its seconds. That this process, which the
    others share, may return a result late delays no later evaluation.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.free = seconds, dict[int, float]()  # when an evaluator will be free, by its number

    async def ready(self) -> None:
        """Returns at once."""

    async def call(self, number: int, method: str, arguments: tuple[Arch], *rest: Any) -> tuple[float, Measured]:
        """The record of an arch, after the seconds of an evaluation."""
        now = time.monotonic()
        self.free[number] = max(now, self.free.get(number, now)) + self.seconds
        await asyncio.sleep(self.free[number] - now)
        [arch] = arguments
        size = sum(arch.depth) + sum(arch.expand) + sum(arch.kernel) / 10
        noise = zlib.crc32(arch.key.encode()) / 2**32
        return self.seconds, Measured(
            arch, 0.6 + 0.002 * size + 0.05 * noise, int(1e6 * size * arch.resolution), int(1e5 * size)
        )


class Timed:
    """An island that also returns the CPU seconds and the bytes of its process."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.island = build()

    def exchange(self, *arguments: Any) -> tuple[Any, float, int]:
        """The proposals, the seconds and the bytes."""
        return self.island.exchange(*arguments), time.process_time(), _rss()


class Method:
    """A remote method of a simulated worker."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function


class SimulatedPool(Pool):
    """The pool, with workers that share a few asynchronous actors."""

    def __init__(self, seconds: float, workers: int) -> None:
        actor: Any = ray.remote(num_cpus=0)(Host)
        self.hosts = [actor.options(max_concurrency=4 * workers).remote(seconds) for _ in range(HOSTS)]
        self.numbers, self.began = 0, 0.0
        super().__init__(lambda arrays: None, {}, workers)

    def _actor(self) -> Any:
        number, host = self.numbers, self.hosts[self.numbers % HOSTS]
        self.numbers += 1
        return SimpleNamespace(
            ready=Method(host.ready.remote), call=Method(lambda *arguments: host.call.remote(number, *arguments))
        )

    def submit(self, method: str, argument: Any, further: Any = None) -> int:
        self.began = self.began or time.monotonic()
        return super().submit(method, argument, further)

    def close(self) -> None:
        for host in self.hosts:
            ray.kill(host)
        self.members, self._running = [], {}


def searched(workers: int, seconds: float, evaluations: int, generations: bool = False) -> Found:
    """One search, from the first evaluation to the last, in a store on this machine."""
    found = Found()
    settings = [f"search.evaluations={evaluations}", f"ray.evaluators={workers}", "search.mode=asynchronous"]
    settings += ["search.islands=2", f"search.population={max(20, workers if generations else 50)}"]
    config = load(str(CONFIG), settings)

    islands: dict[object, tuple[float, int]] = {}

    class Counted(step_search.RemotePort):
        """An island's port, which counts."""

        def __init__(self, build: Callable[[], Any]) -> None:
            super().__init__(partial(Timed, build))
            self.first: tuple[float, int] | None = None
            self.call("exchange", [], [], 0)  # the island exists once it replies
            assert self.finished(timeout_s=300) and self.answer() == []

        def call(self, method: str, *arguments: Any) -> None:
            found.told += len(arguments[0])
            super().call(method, *arguments)

        def answer(self) -> Any:
            proposed, now, size = super().answer()
            self.first = self.first or (now, size)
            islands[self] = (now - self.first[0], size - self.first[1])
            found.asked += len(proposed)
            return proposed

    with tempfile.TemporaryDirectory() as folder:
        run = Run.open(folder, config.id, dump(config), "bench")
        job = Job(config, run, Reporter("plain", every_s=1e9), "")
        job.data, job._connected = SimpleNamespace(classes=1000), True  # type: ignore[assignment]
        step = run.begin("search")
        pool = SimulatedPool(seconds, workers)
        pool.wait_until_built()
        job.pool(lambda: pool)
        objectives, known = objectives_of(job, step), dict[str, Measured]()
        curve = Curve(objectives, (0.0, 1e12), every=True)

        def note(one: Measured) -> None:
            curve.add(values(objectives, [one]))
            metrics.record("ofa_hypervolume", curve.volume)
            tracker.advance(note="best top-1 1.0000")

        rss, cpu = _rss(), time.process_time()
        with job.reporter.track("search", evaluations, "evaluations") as tracker:
            if generations:
                space, seed = config.search_space, config.seed

                def evaluate(archs: Sequence[Arch]) -> list[Measured]:
                    found.told = found.asked = found.asked + len(archs)
                    return measure_all(job, step, archs, known, note)

                measured.search(space, objectives, evaluate, evaluations=evaluations, batch=config.search.population,
                                seed=seed, islands=2, run_islands=ray_map)  # fmt: skip
            else:
                with mock.patch.object(step_search, "RemotePort", Counted):
                    step_search.search_asynchronously(job, step, [], known, lambda: evaluations, note)
        found.wall_s, found.driver_s = time.monotonic() - pool.began, time.process_time() - cpu
        found.islands_s = sum(seconds for seconds, _ in islands.values())
        found.islands_grown = sum(size for _, size in islands.values())
        found.rss = _rss()
        found.grown = found.rss - rss
        found.parts = step.ledger.parts
        assert len(known) == evaluations, (len(known), evaluations)
        job.stack.close()
    return found


def _rss() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
