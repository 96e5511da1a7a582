"""Searches on the published problem (ofa_mbv3_w1.2, Note10 table, published predictor): quality, rate, targets.

    python -m bench.search                 # all parts, about ten minutes on two idle cores
    python -m bench.search --only front    # or reproduce, rate, long, targets

Hypervolume is of (latency, 100 % - predicted top-1) up to (100 ms, 25 %), of at most 100 members, so that it compares with
the published one. OFA_REFERENCE_DATA is the folder of tables, predictors and published fronts. Rows of pymoo run it on the
same objectives in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from jobs.tools.inputs import Loaded, load
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from search import targets
from search.front import hypervolume
from search.objective import LATENCY, MACS, PARAMS
from search.predicted import solve
from search.problem import Problem

DATA = Path(os.environ.get("OFA_REFERENCE_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "ofa"
NOTE10, I7 = DATA / "note10_latency_lut_w1.2.json", DATA / "i7_8700k_latency_lut.yaml"
PREDICTOR, RESNET = DATA / "ofa_acc_predictor_w1.2.npz", DATA / "ofa_resnet50_acc_predictor.npz"
# published at 100,000 evaluations with seed 1 (OFA², arXiv:2303.13683), and the range of three seeds of pymoo 0.6.2
PUBLISHED = {
    "nsga2": (751.6, "744.8 to 756.8"),
    "spea2": (758.3, "748.0 to 769.2"),
    "sms-emoa": (722.0, "719.9 to 744.5"),
}
FOUR = (
    "latency_ms.note10",
    "latency_ms.i7",
    "macs",
    "params",
)  # counts stand for two more devices: two tables are published
# Strategies, and the evaluations of `shared` for each cost: its default, and a fiftieth of those of `independent`.
DEFAULT = targets.SHARED_EVALUATIONS
STRATEGIES = (
    ("independent", DEFAULT),
    ("top-down", DEFAULT),
    ("bottom-up", DEFAULT),
    ("shared", DEFAULT),
    ("shared", 501_000 // 50),
)
TARGETS_MS = tuple(float(ms) for ms in range(15, 65, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*PARTS], nargs="+", default=[*PARTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no reference data at {DATA}; set OFA_REFERENCE_DATA to its folder")
    for name in arguments.only:
        PARTS[name](arguments.seeds)
        print(flush=True)


def published_problem() -> Loaded:
    return load("ofa_mbv3_w1.2", [str(NOTE10)], str(PREDICTOR), [], [], [])


def volume(values_NM: np.ndarray) -> float:
    """The hypervolume of rows (top-1, latency)."""
    points = np.stack([values_NM[:, 1], 100 - 100 * values_NM[:, 0]], axis=1)
    return hypervolume(points, np.array([100.0, 25.0]))


def reproduce(seeds: Sequence[int]) -> None:
    """Compares the 100 networks of the published front with their published values."""
    loaded = published_problem()
    doc = json.loads((DATA / "ofa2_population.json").read_text())
    rows = doc["population"]
    archs = [Arch(row["r"], tuple(row["d"]), tuple(row["ks"]), tuple(row["e"])) for row in rows]
    values = loaded.problem.evaluate(Genes(loaded.problem.space).encode(archs))
    ms = np.abs(values[:, 1] - [row["latency_ms"] for row in rows]).max()
    error = np.abs(100 - 100 * values[:, 0] - [row["top1_error_pred"] for row in rows]).max()
    print(f"published front: {len(rows)} networks, largest differences: latency {ms:.1e} ms (goal 1e-9),")
    print(f"  error {error:.1e} % (goal 1e-5), hypervolume {volume(values):.3f} ({doc['hv_ref_100_25']:.3f})")


def front(seeds: Sequence[int]) -> None:
    """Prints hypervolumes at 100,000 evaluations; the evolutionary algorithms with the first three seeds."""
    problem = published_problem().problem
    print("| 100,000 evaluations | hypervolume, mean | of each seed | published, seed 1 | pymoo, 3 seeds |")
    print("|---|---|---|---|---|")
    for name in ("archive", *PUBLISHED):
        mine = seeds if name == "archive" else seeds[:3]
        found = [volume(solve(problem, algorithm=name, evaluations=100_000, members=100, seed=s).values) for s in mine]
        one, three = PUBLISHED.get(name, ("(goal: 806)", "(no seed under 800)"))
        print(f"| {name} | {np.mean(found):.1f} | {' '.join(f'{v:.1f}' for v in found)} | {one} | {three} |", flush=True)


def long(seeds: Sequence[int]) -> None:
    """Prints hypervolumes at three million evaluations."""
    problem = published_problem().problem
    found = [volume(solve(problem, evaluations=3_000_000, members=100, seed=s).values) for s in seeds[:3]]
    print(f"archive, 3,000,000 evaluations: {np.mean(found):.1f} (goal 811; best known 812.5) {np.round(found, 1).tolist()}")


def rate(seeds: Sequence[int], rounds: int = 5) -> None:
    """Prints evaluations a second of whole searches, in turns with pymoo's and the predictor's matrix products alone."""
    problem = published_problem().problem
    sizes = (1000, 400, 400)  # a batch of the search, the hidden values of the predictor's second and third layer
    generator = np.random.default_rng(1)
    hidden_BH, weight_HH = (generator.random(shape, dtype=np.float32) for shape in (sizes[:2], sizes[1:]))

    def ours(algorithm: str, evaluations: int = 100_000) -> int:
        solve(problem, algorithm=algorithm, evaluations=evaluations, members=100, seed=1)
        return evaluations

    def peer(evaluations: int = 10_000) -> int:
        pymoo_nsga2(problem, evaluations)
        return evaluations

    def products(batches: int = 100) -> int:
        with threadpool_limits(1, "blas"):
            for _ in range(2 * batches):
                hidden_BH @ weight_HH
        return batches * sizes[0]

    ours("archive", 5_000)
    runs: dict[str, Callable[[], int]] = {
        "archive": partial(ours, "archive"), "nsga2": partial(ours, "nsga2"), "pymoo NSGA-II": peer
    }  # fmt: skip
    runs["the predictor's products alone"] = products
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            evaluations = run()
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            rates[name].append((evaluations / cpu_s, evaluations / seconds))
    print("| | evaluations a CPU second, median (highest) | a second, median | CPU: ratio to pymoo | to the products |")
    print("|---|---|---|---|---|")
    median = {name: np.median(found, axis=0) for name, found in rates.items()}
    for name, found in rates.items():
        cpu, wall = median[name]
        ratios = (cpu / median[other][0] for other in ("pymoo NSGA-II", "the predictor's products alone"))
        cells = [name, f"{cpu:,.0f} ({max(found)[0]:,.0f})", f"{wall:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| {' | '.join(cells)} |")
    gflops = median["the predictor's products alone"][0] * 2 * 2 * sizes[1] * sizes[2] / 1e9
    print(f"products: {gflops:.0f} GFLOP/s; published notebook 2,600/s; goal for the archive 125,000/s of one core")


def pymoo_nsga2(problem: Problem, evaluations: int) -> object:
    """Runs NSGA-II with OFA²'s settings: uniform crossover, a tenth of the genes sampled again, a population of 100."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.variable import Choice
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.rm import ChoiceRandomMutation
    from pymoo.operators.sampling.rnd import FloatRandomSampling
    from pymoo.optimize import minimize

    sizes = Genes(problem.space).sizes_G

    class Published(PymooProblem):
        def __init__(self) -> None:
            super().__init__(vars={i: Choice(options=list(range(size))) for i, size in enumerate(sizes)}, n_obj=2)

        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **settings: object) -> None:
            values = problem.evaluate(x.astype(np.int64))
            out["F"] = np.stack([values[:, 1], 100 - 100 * values[:, 0]], axis=1)

    class Uniform(FloatRandomSampling):
        def _do(self, problem: object, n_samples: int, **settings: object) -> np.ndarray:
            return np.random.default_rng(1).integers(0, sizes, (n_samples, len(sizes)))

    algorithm = NSGA2(
        pop_size=100, sampling=Uniform(), crossover=UniformCrossover(prob=1.0), mutation=ChoiceRandomMutation(prob_var=0.1)
    )
    return minimize(Published(), algorithm, ("n_eval", evaluations), seed=1)


def many_targets(seeds: Sequence[int]) -> None:
    """Prints accuracy and evaluations of each strategy for ten targets, such as 15 to 60 ms in steps of 5, by problem."""
    i7 = load("ofa_mbv3_w1.0", [str(I7)], str(PREDICTOR), [], [], [])
    resnet = load("ofa_resnet50", [], str(RESNET), [], [], [])
    smallest, largest = extremes(resnet)  # from 0.4 of the largest on, all strategies reach the predictor's maximum
    tables = [f"note10={NOTE10}", f"i7={I7}"]
    both = load("ofa_mbv3_w1.2", tables, str(PREDICTOR), [], [], []).problem
    four = load("ofa_mbv3_w1.2", tables, str(PREDICTOR), [], [], [], costs_of=FOUR)
    note10, cpu = both.objectives[1:]
    cpu_ms = tuple(float(ms) for ms in range(10, 30, 2))
    spans = ((getattr(low, o.key), getattr(high, o.key), o) for low, high in [extremes(four)] for o in (MACS, PARAMS))
    counts = {o: tuple(np.linspace(low + 0.1 * (high - low), low + 0.7 * (high - low), 10)) for low, high, o in spans}
    cases = (
        ("Note10, w1.2", published_problem().problem, {LATENCY: TARGETS_MS}),
        ("i7, w1.0", i7.problem, {LATENCY: tuple(float(ms) for ms in range(8, 28, 2))}),
        ("Note10 and i7, w1.2", both, {note10: TARGETS_MS, cpu: cpu_ms}),
        ("ResNet-50D, MACs", resnet.problem, {MACS: tuple(np.linspace(smallest.macs * 1.25, largest.macs * 0.35, 10))}),
        ("Note10, i7, MACs and params, w1.2", four.problem, {note10: TARGETS_MS, cpu: cpu_ms, **counts}),
    )
    print("| problem | strategy | evaluations | generations | mean top-1, % | against independent, mean | worst target |")
    print("|---|---|---|---|---|---|---|")
    for name, problem, wanted in cases:
        base: tuple[np.ndarray, targets.Targets] | None = None
        for strategy, budget in STRATEGIES:
            runs = [targets.search(problem, wanted, strategy=strategy, seed=seed, evaluations=budget) for seed in seeds[:3]]
            top1_T = 100 * np.mean([run.values[:, 0] for run in runs], axis=0)
            base = base or (top1_T, runs[0])
            delta, run = top1_T - base[0], runs[0]
            cells = [name, strategy, f"{run.evaluations:,} ({base[1].evaluations / run.evaluations:.1f}x fewer)"]
            cells.append(
                f"{run.generations:,} ({base[1].generations / run.generations:.1f}x fewer)" if run.generations else "-"
            )
            cells += [f"{top1_T.mean():.3f}", f"{delta.mean():+.3f}", f"{delta.min():+.3f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def extremes(loaded: Loaded) -> Sequence[Measured]:
    """The smallest and the largest network."""
    return loaded.measured([loaded.problem.space.smallest(), loaded.problem.space.largest()])


PARTS = {"reproduce": reproduce, "front": front, "rate": rate, "targets": many_targets, "long": long}

if __name__ == "__main__":
    main()
