"""The measured search and its baselines: rate and quality of an island, the guided search, and evaluators on Ray.

    python -m bench.measured_search [--only rate,quality,guided,speedup,kills] [--seeds N]

`rate`      trials a second of one island on one core, beside plain Optuna and rustuna (where installed), in turns
`quality`   hypervolume of that island and of their NSGA-II at the same number of evaluations
`guided`    hypervolume on real accuracies (a surrogate of DyNAS-T's measurements), beside its LINAS and NSGA-II
`speedup`   evaluations that sleep half a second, on 8 and 32 workers, beside evaluations x 0.5 s / workers
`kills`     the same on 8 workers, two of which are killed and two added midway: every trial must be present once
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna

from bench.imagenet import COSTS, GENES, SPACE, Surrogate, rows, volume
from cluster.runtime.pool import Pool, Remote
from cluster.runtime.session import session
from ofa.arch import Arch
from ofa.record import Measured
from search import asynchronous, measured
from search.islands.breeder import Individual, Packed
from search.islands.island import Island
from search.objective import MACS, TOP1

OBJECTIVES = (TOP1, MACS)
POPULATION = 50
INTERVAL = 2_000  # trials whose time is one rate
SLEEP_S = 0.5
# Published means on such a surrogate at 100, 150, 250 and 500 evaluations.
PUBLISHED = {
    "random": (0.4405, 0.4485, 0.4542, 0.4612),
    "pymoo 0.6.2 NSGA-II": (0.4348, 0.4443, 0.4616, 0.4852),
    "Optuna NSGA-II": (0.4351, 0.4446, 0.4603, 0.4801),
    "DyNAS-T LINAS": (0.4527, 0.4788, 0.4946, 0.5167),
}
AT = (100, 150, 250, 500)
GOAL = {100: 0.490, 250: 0.512, 500: 0.520}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="rate,quality,guided,speedup,kills")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20_000, help="number of trials of the part `rate`")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts: dict[str, Callable[[], None]] = {
        "rate": lambda: rate(arguments.trials),
        "quality": lambda: quality(arguments.seeds),
        "guided": lambda: guided(arguments.seeds),
        "speedup": speedup,
        "kills": lambda: kills(arguments.seeds),
    }
    for name in arguments.only.split(","):
        parts[name]()


class Plain:
    """NSGA-II of Optuna, or of its port to Rust, in its usual form: one categorical parameter for each gene."""

    def __init__(self, library: Any, seed: int) -> None:
        sampler = library.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        self.study = library.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self.names = [(f"gene{g}", list(range(size))) for g, size in enumerate(GENES.sizes_G.tolist())]
        self.open: list[Any] = []

    def ask(self, count: int) -> np.ndarray:
        self.open = [self.study.ask() for _ in range(count)]
        return np.array([[trial.suggest_categorical(name, may) for name, may in self.names] for trial in self.open])

    def tell(self, values: Sequence[tuple[float, float]]) -> None:
        for trial, value in zip(self.open, values, strict=True):
            self.study.tell(trial.number, list(value))


class Packs:
    """One island of the measured search."""

    def __init__(self, seed: int) -> None:
        self.island = Island(SPACE, ("maximize", "minimize"), algorithm="nsga2", population=POPULATION, seed=str(seed))
        self.open: list[Packed] = []

    def ask(self, count: int) -> np.ndarray:
        self.open = self.island.ask(count)
        return GENES.unpack_all(self.open)

    def tell(self, values: Sequence[tuple[float, float]]) -> None:
        self.island.tell([Individual(p, v) for p, v in zip(self.open, values, strict=True)])


def searchers() -> dict[str, Callable[[int], Plain | Packs]]:
    """What makes each searcher from a seed, by its name; rustuna's only where it is installed."""
    found: dict[str, Callable[[int], Plain | Packs]] = {"our island": Packs, "Optuna": partial(Plain, optuna)}
    if find_spec("rustuna"):
        found["rustuna"] = partial(Plain, import_module("rustuna"))
    return found


def rate(trials: int, rounds: int = 3) -> None:
    """Prints the trials a second; only the time of ask and tell is counted, not that of evaluations."""
    print("\n## Trials a second on one core (CPU time of the last 2,000), median of turns (lowest to highest)\n")
    effect_G = np.random.default_rng(0).normal(size=len(GENES.sizes_G))

    def rates(searcher: Plain | Packs, trials: int) -> list[float]:
        found = []
        for _ in range(trials // INTERVAL):
            seconds = 0.0
            for _ in range(INTERVAL // POPULATION):
                started = time.process_time()
                genes_BG = searcher.ask(POPULATION)
                seconds += time.process_time() - started
                worth = (GENES.canonical(genes_BG) @ effect_G).tolist()
                costs = genes_BG.sum(axis=1).astype(float).tolist()
                values = list(zip(worth, costs, strict=True))
                started = time.process_time()
                searcher.tell(values)
                seconds += time.process_time() - started
            found.append(INTERVAL / seconds)
        return found

    rates(Packs(1), INTERVAL)  # loads compiled loops
    gc.freeze()  # a collection of everything that is imported takes 0.1 s
    found: dict[str, list[list[float]]] = {name: [] for name in searchers()}
    for turn in range(rounds):
        for name, make in searchers().items():
            found[name].append(rates(make(turn + 1), INTERVAL if name == "Optuna" else trials))
    at = [n for n in (2_000, 10_000, 20_000) if n <= trials]
    _head(["search", *(f"until {n:,}" for n in at)])
    for name, turns in found.items():
        cells = [name]
        for n in at:
            here = [turn[n // INTERVAL - 1] for turn in turns if len(turn) >= n // INTERVAL]
            cells.append(f"{median(here):,.0f} ({min(here):,.0f} to {max(here):,.0f})" if here else "")
        _row(cells)
    ours = found["our island"]
    print(f"\nslowest of our intervals: {min(min(turn) for turn in ours):,.0f} (goal 12,000)")
    print(f"ours, last over first: {median(turn[-1] / turn[0] for turn in ours):.2f}")


def quality(seeds: int) -> None:
    print(f"\n## Hypervolume of one island and of plain NSGA-II, all from random archs, {seeds} seeds\n")
    surrogate, at = Surrogate(rows()), (250, 500, 1000, 2000)

    def volumes(searcher: Plain | Packs) -> list[float]:
        macs: list[float] = []
        top1: list[float] = []
        archs: set[bytes] = set()
        while len(macs) < at[-1]:
            genes_BG = GENES.canonical(searcher.ask(POPULATION))
            macs += COSTS(genes_BG)[0].astype(float).tolist()
            top1 += surrogate(genes_BG).tolist()
            searcher.tell(list(zip(top1[-POPULATION:], macs[-POPULATION:], strict=True)))
            archs.update(row.tobytes() for row in genes_BG)
        return [*(volume(np.array(macs[:n]), np.array(top1[:n])) for n in at), len(archs)]

    _head(["search", *map(str, at), f"different archs of {at[-1]}"])
    for name, make in searchers().items():
        found = np.array([volumes(make(100 + seed)) for seed in range(seeds)])
        mean, spread = found.mean(axis=0), found.std(axis=0, ddof=1)
        _row([name, *(f"{m:.4f} ± {s:.4f}" for m, s in zip(mean[:-1], spread[:-1], strict=True)), f"{mean[-1]:.0f}"])


def guided(seeds: int) -> None:
    print(f"\n## Hypervolume on real accuracies, mean of {seeds} seeds\n")
    data = rows()
    _head(["search", *map(str, AT), "least at 250", "CPU s"])
    for name, means in PUBLISHED.items():
        _row([f"published: {name}", *(f"{mean:.4f}" for mean in means), "", ""])
    _row(["goal", *(f"{GOAL[n]:.3f}" if n in GOAL else "" for n in AT), "", ""])
    for kind in ("ridge+svr", "boosting"):
        surrogate = Surrogate(data, kind)
        for algorithm, batch in (("guided", 25), ("nsga2", 50), ("random", 50)):
            started = time.process_time()
            found = np.array([_volumes(surrogate, algorithm, batch, 200 + seed) for seed in range(seeds)])
            seconds = (time.process_time() - started) / seeds
            name = f"{algorithm}, batches of {batch}, surrogate {kind}"
            _row([name, *(f"{mean:.4f}" for mean in found.mean(axis=0)), f"{found[:, 2].min():.4f}", f"{seconds:.0f}"])


def _volumes(surrogate: Surrogate, algorithm: str, batch: int, seed: int) -> list[float]:
    def evaluate(archs: Sequence[Arch]) -> list[Measured]:
        return _measured(surrogate, archs)

    found = measured.search(
        SPACE, OBJECTIVES, evaluate, algorithm=algorithm, evaluations=AT[-1], batch=batch, seed=seed
    ).history
    macs, top1 = np.array([m.macs for m in found]), np.array([100 * m.top1 for m in found])
    return [volume(macs[:n], top1[:n]) for n in AT]


def _measured(surrogate: Surrogate, archs: Sequence[Arch]) -> list[Measured]:
    genes_BG = GENES.encode(archs)
    macs, params = COSTS(genes_BG)
    top1 = surrogate(genes_BG) / 100
    return [Measured(a, float(t), int(m), int(p)) for a, t, m, p in zip(archs, top1, macs, params, strict=True)]


class Sleeper:
    """A measurement that takes half a second, returns a computed record, and writes its start and end to a log."""

    def __init__(self, folder: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.log = Path(folder) / f"{os.getpid()}.log"
        self.coef_G = arrays["coef"]

    def measure(self, arch: Arch) -> Measured:
        with self.log.open("a") as file:
            print(f"begins {arch.key}", file=file, flush=True)
        time.sleep(SLEEP_S)
        genes_BG = GENES.encode([arch])
        macs, params = COSTS(genes_BG)
        top1 = 0.7 + 0.1 * float(np.tanh((GENES.used(genes_BG) @ self.coef_G)[0]))
        with self.log.open("a") as file:
            print(f"ends {arch.key}", file=file, flush=True)
        return Measured(arch, top1, int(macs[0]), int(params[0]))


class Workers:
    """The pool with the interface that the search needs; `midway` is called once, after that number of results."""

    def __init__(self, pool: Pool, midway: tuple[int, Callable[[], None]] | None = None) -> None:
        self.pool, self.midway, self.done = pool, midway, 0
        self.started = 0.0  # when the first arch was submitted

    @property
    def workers(self) -> int:
        return self.pool.workers

    @property
    def free(self) -> int:
        return self.pool.free

    def submit(self, arch: Arch) -> None:
        self.started = self.started or time.monotonic()
        self.pool.submit("measure", arch)

    def finished(self, timeout_s: float) -> list[Measured]:
        results = [result for _, result in self.pool.finished(timeout_s)]
        self.done += len(results)
        if self.midway is not None and self.done >= self.midway[0]:
            (_, act), self.midway = self.midway, None
            act()
        return results


def _searched(
    pool: Pool, evaluations: int, seed: int, midway: tuple[int, Callable[[], None]] | None = None
) -> tuple[measured.Result, float]:
    """The result of a search on two islands, and its seconds from the first evaluation; processes start before that."""
    pool.wait_until_built()
    workers, ports = Workers(pool, midway), []

    def open_port(build: Callable[[], Any]) -> Remote:
        port = Remote(build)
        port.call("exchange", [], [], 0)  # the island exists once it replies
        assert port.finished(timeout_s=300) and port.answer() == []
        ports.append(port)
        return port

    found = asynchronous.search(
        SPACE, OBJECTIVES, workers, evaluations=evaluations, population=POPULATION, seed=seed, islands=2, open_port=open_port
    )
    seconds = time.monotonic() - workers.started
    for port in ports:
        port.close()
    return found, seconds


def _pool(folder: str, workers: int) -> Pool:
    coef_L = np.random.default_rng(0).normal(0.1, 0.1, len(SPACE.slots))
    return Pool(partial(Sleeper, folder), {"coef": coef_L}, workers)


def speedup() -> None:
    print(f"\n## Evaluations that sleep {SLEEP_S} s, two islands in Ray actors\n")
    _head(["workers", "evaluations", "seconds", "ideal", "share of ideal"])
    for workers in (8, 32):
        with session("local", cpus=workers, shared_bytes=0), tempfile.TemporaryDirectory() as folder:
            pool = _pool(folder, workers)
            evaluations = 40 * workers
            _, seconds = _searched(pool, evaluations, seed=1)
            pool.close()
        ideal = evaluations * SLEEP_S / workers
        _row([str(workers), str(evaluations), f"{seconds:.1f}", f"{ideal:.1f}", f"{ideal / seconds:.3f} (goal 0.9)"])


def kills(seeds: int) -> None:
    print("\n## Eight workers, two of which are killed and two added midway\n")
    _head(["seed", "disturbed", "evaluations", "lost", "twice", "begun again", "hypervolume"])
    volumes: dict[bool, list[float]] = {False: [], True: []}
    evaluations = 240
    with session("local", cpus=10, shared_bytes=0):
        for seed in range(seeds):
            for disturbed in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    pool = _pool(folder, 8)

                    def disturb(pool: Pool = pool, folder: str = folder) -> None:
                        for log in sorted(Path(folder).iterdir())[:2]:
                            os.kill(int(log.stem), signal.SIGKILL)
                        pool.resize(10)

                    found, _ = _searched(pool, evaluations, seed, (evaluations // 2, disturb) if disturbed else None)
                    pool.close()
                    lines = [line for log in Path(folder).iterdir() for line in log.read_text().splitlines()]
                ended = [line.split()[1] for line in lines if line.startswith("ends")]
                begun = [line.split()[1] for line in lines if line.startswith("begins")]
                keys = {m.arch.key for m in found.history}
                macs, top1 = (np.array([getattr(m, name) for m in found.history]) for name in ("macs", "top1"))
                volumes[disturbed].append(volume(macs, 100 * top1))
                _row([str(seed), "yes" if disturbed else "no", str(len(keys)), str(evaluations - len(keys)),
                      str(len(ended) - len(set(ended))), str(len(begun) - len(set(begun))),
                      f"{volumes[disturbed][-1]:.4f}"])  # fmt: skip
    for disturbed, found_volumes in volumes.items():
        spread = f"{min(found_volumes):.4f} to {max(found_volumes):.4f}"
        print(f"{'disturbed' if disturbed else 'undisturbed'}: mean {np.mean(found_volumes):.4f}, {spread}")


def _head(cells: Sequence[str]) -> None:
    _row(cells)
    print(f"|{'---|' * len(cells)}")


def _row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
