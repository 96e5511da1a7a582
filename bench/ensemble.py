"""Exact scores of ensembles and their selection, on a generated table like a published front.

    make bench-ensemble          or: python -m bench.ensemble [--quick] [--seeds 1 2 3] [--only scores proof]

Compares, in one process, with the dense product of the published code (one subset after another, 1,000 classes),
with blocked float32 matrix products over the same compact rows, and with the published selection, which is pymoo's
NSGA-II, SMS-EMOA and SPEA2 with its operators and 200,000 evaluations; a seed is of the table and of pymoo. Takes about
half an hour on two cores, most of it in pymoo. `bench.selections` compares with the selections of other libraries.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.tables import realistic
from ensemble.evolve import Budget
from ensemble.rule import RULES
from ensemble.score import SubsetScorer
from ensemble.select import ALGORITHMS, select
from ensemble.subsets import NO_LIMITS, Search
from ensemble.table import Table
from search.front import hypervolume

WORST = 0.35  # error of the reference point of hypervolumes
COSTS = tuple(name for name, rule in RULES.items() if not rule.needs_pieces)


PARTS = ("scores", "dense", "proof", "selections")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every comparison and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images and of the published evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the tables and searches of `selections`")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args(arguments)
    images, evaluations = (5_000, 20_000) if options.quick else (50_000, 200_000)
    warm = scorer_of(realistic(images=50))  # compiles, or loads the cache
    warm.correct(np.eye(100, dtype=bool))
    warm.correct_changed(np.eye(100, dtype=bool))
    warm.correct_choices(np.zeros((1, 100), dtype=bool))
    if "scores" in options.only:
        scores(realistic(images=images))
    if "dense" in options.only:
        against_dense(realistic(images=min(8_000, images)))
    if "proof" in options.only:
        found_and_proven()
        proof(16 if options.quick else 24, images)
    if "selections" in options.only:
        selections(images, evaluations, options.seeds)


def scorer_of(table: Table) -> SubsetScorer:
    """The scorer of a table."""
    return SubsetScorer.of(table)


def rate(work: Callable[[], Any], items: int, rounds: int = 5) -> tuple[float, float]:
    """Items a second, by wall-clock time and by CPU time: medians."""
    clock, cpu = [], []
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        work()
        clock.append(items / (time.perf_counter() - started))
        cpu.append(items / (time.process_time() - used))
    return statistics.median(clock), statistics.median(cpu)


def scores(table: Table) -> None:
    """Prints the number of subsets scored a second, with one thread and with one for each core."""
    rng = np.random.default_rng(1)
    started = time.perf_counter()
    scorer = scorer_of(table)
    scorer.correct(np.eye(scorer.members, dtype=bool))
    seconds = time.perf_counter() - started
    print(f"{scorer.members} members x {scorer.images} images, top-{table.classes_MNK.shape[2]}; built in {seconds:.2f} s; "
          f"{len(scorer.image_I)} images depend on the subset, {len(scorer.below_R)} margins", flush=True)  # fmt: skip
    columns = ["members of a subset", "threads", "subsets/s", "a CPU second", "one-member changes/s", "a CPU second"]
    print(f"| {' | '.join([*columns, 'matrix products/s'])} |\n{'|---' * 7}|")
    cores = scorer.threads
    for share in (0.03, 0.1, 0.5):
        masks = rng.random((8192, scorer.members)) < share
        matrix, _ = rate(lambda masks=masks: scorer.correct_weighted(masks[:1024]), 1024, rounds=1)  # type: ignore[misc]
        assert scorer.correct(masks[:1024]).tolist() == scorer.correct_weighted(masks[:1024]).tolist()
        for scorer.threads in sorted({1, cores}):
            ours, ours_cpu = rate(lambda masks=masks: scorer.correct(masks), len(masks))  # type: ignore[misc]
            changes, changes_cpu = rate(lambda masks=masks: scorer.correct_changed(masks[:256]), 256 * scorer.members)  # type: ignore[misc]
            cells = [f"about {share * scorer.members:.0f}", str(scorer.threads)]
            cells += [f"{x:,.0f}" for x in (ours, ours_cpu, changes, changes_cpu, matrix)]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"peak memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", flush=True)


def against_dense(table: Table, classes: int = 1000) -> None:
    """Prints the speed-up over the published product of a float32 table [images x classes, members] and a vector."""
    members, images, _ = table.classes_MNK.shape
    dense = np.zeros((images, classes, members), dtype=np.float32)
    for m in range(members):
        np.put_along_axis(dense[:, :, m], table.classes_MNK[m].astype(np.int64), table.probs_MNK[m], axis=1)
    scorer = scorer_of(table)
    masks = np.random.default_rng(2).random((16384, members)) < 0.5

    def published() -> list[int]:
        sums = ((dense.reshape(-1, members) @ mask.astype(np.float32)).reshape(images, classes) for mask in masks[:5])
        return [int((s.argmax(axis=1) == table.labels_N).sum()) for s in sums]

    counts = scorer.correct(masks)
    off = np.abs(np.array(published()) - counts[:5]).max()
    ours, _ = rate(lambda: scorer.correct(masks), len(masks))
    theirs, _ = rate(published, 5, rounds=3)
    print(f"{images} images: {ours:,.0f} subsets/s, the dense product {theirs:.2f}/s: {ours / theirs:,.0f} times; "
          f"counts differ by {off} at most (the dense one sums in float32)", flush=True)  # fmt: skip


def found_and_proven() -> None:
    """Prints whether the default finds the best subset of 18 members at every cost."""
    table = realistic(members=18, images=2_000)
    scorer = scorer_of(table)
    for rule in COSTS:
        best, found = (select(scorer, table.cost_M, rule, algorithm) for algorithm in ("exhaustive", "default"))
        pairs = [(c.cost, c.correct) for c in best] == [(c.cost, c.correct) for c in found]
        print(f"18 members, cost = {rule}: front of all 262,143 subsets {'found' if pairs else 'NOT found'}", flush=True)


def proof(members: int, images: int) -> None:
    """Prints the seconds in which the front of all subsets is proven."""
    table = realistic(members=members, images=images)
    scorer = scorer_of(table)
    for rule in COSTS:
        started, used = time.perf_counter(), time.process_time()
        front = select(scorer, table.cost_M, rule, "exhaustive")
        clock, cpu = time.perf_counter() - started, time.process_time() - used
        print(f"{members} members x {images} images, cost = {rule}: all {2**members - 1:,} subsets scored in {clock:.1f} s, "
              f"{cpu:.1f} CPU s with {scorer.threads} threads; {len(front)} are on the front", flush=True)  # fmt: skip


def selections(images: int, evaluations: int, seeds: Sequence[int]) -> None:
    """Prints hypervolume and seconds of our default, greedy, and the published algorithms.

    And when the default, stopped there, has a greater hypervolume than the best of the three published ones in the end.
    """
    print("| seed | cost | algorithm | hypervolume | best top-1 | subsets | seconds | CPU s |\n" + "|---" * 8 + "|")
    for seed in seeds:
        table = realistic(images=images, seed=seed)
        scorer, cost_M = scorer_of(table), table.cost_M
        scorer.correct_changed(np.eye(scorer.members, dtype=bool)[:1])  # prepares the sums
        for rule in COSTS:
            highest = RULES[rule].costs(np.ones((1, len(cost_M)), dtype=bool), cost_M)[0]
            reference = np.array([highest, WORST]) * 1.001
            traced = []
            for algorithm in ("default", "greedy"):
                trace = Trace(scorer, cost_M, rule, reference)
                trace.run(algorithm)
                traced.append(trace)
                line(seed, rule, algorithm, *trace.rows[-1], trace.best)
            best = 0.0
            for name in ("NSGA2", "SMSEMOA", "SPEA2"):
                started, used = time.perf_counter(), time.process_time()
                points = published_search(name, scorer, cost_M, rule, evaluations, seed)
                seconds, cpu = time.perf_counter() - started, time.process_time() - used
                area = hypervolume(points, reference) / reference.prod()
                best = max(best, area)
                line(seed, rule, name, evaluations, seconds, cpu, area, 1 - points[:, 1].min())
            after = next((row for row in traced[0].rows if row[3] > best), None)
            ahead = f"after {after[0]:,} subsets, {after[1]:.2f} s, {after[2]:.2f} CPU s" if after else "never"
            print(f"seed {seed}, cost = {rule}: default is ahead of all three {ahead}", flush=True)


class Trace:
    """A selection's subsets, seconds, CPU seconds and hypervolume after every call of the scorer; tracing takes no time."""

    def __init__(self, scorer: SubsetScorer, cost_M: np.ndarray, rule: str, reference: np.ndarray) -> None:
        self.search = Search(scorer, cost_M, RULES[rule], self.seen, NO_LIMITS)
        self.reference = reference
        self.rows: list[tuple[int, float, float, float]] = []
        self.clock = self.cpu = 0.0

    def run(self, algorithm: str) -> None:
        """Runs one of our algorithms."""
        self.clock, self.cpu = time.perf_counter(), time.process_time()
        ALGORITHMS[algorithm](self.search, Budget())
        self.seen(self.search.scored)

    def seen(self, scored: int) -> None:
        """Keeps a row; `scored` subsets are scored by now."""
        clock, cpu = time.perf_counter(), time.process_time()
        self.rows.append((scored, clock - self.clock, cpu - self.cpu, self.area()))
        self.clock, self.cpu = self.clock + time.perf_counter() - clock, self.cpu + time.process_time() - cpu

    def area(self) -> float:
        """The hypervolume of the front, a share of the reference box."""
        errors = [(c.cost, 1 - c.correct / self.search.scorer.images) for c in self.search.front]
        return float(hypervolume(np.array(errors), self.reference) / self.reference.prod()) if errors else 0.0

    @property
    def best(self) -> float:
        """The highest top-1 of the front."""
        return self.search.front[-1].correct / self.search.scorer.images


def line(seed: int, rule: str, name: str, scored: int, seconds: float, cpu: float, area: float, best: float) -> None:
    """Prints a row of the selections; the hypervolume is a share of the reference box."""
    print(f"| {seed} | {rule} | {name} | {area:.6f} | {best:.4f} | {scored:,} | {seconds:.1f} | {cpu:.1f} |", flush=True)


def published_search(
    name: str, scorer: SubsetScorer, cost_M: np.ndarray, rule: str, evaluations: int, seed: int
) -> np.ndarray:
    """(cost, error) of the last population of a published algorithm.

    100 masks, all ones at first; uniform crossover, 1 % of the bits sampled again.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.algorithms.moo.sms import SMSEMOA
    from pymoo.algorithms.moo.spea2 import SPEA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.optimize import minimize

    fewest = RULES[rule].fewest

    class Masks(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=scorer.members, n_obj=2, n_ieq_constr=1, xl=0, xu=1, vtype=bool)

        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *args: object, **kwargs: object) -> None:
            masks = x.astype(bool)
            out["F"] = np.column_stack([RULES[rule].costs(masks, cost_M), 1 - scorer.accuracy(masks)])
            out["G"] = fewest - masks.sum(axis=1)[:, None]

    algorithm = {"NSGA2": NSGA2, "SMSEMOA": SMSEMOA, "SPEA2": SPEA2}[name](
        pop_size=100,
        sampling=np.ones((100, scorer.members), dtype=bool),
        crossover=UniformCrossover(prob=1.0),
        mutation=BitflipMutation(prob=1.0, prob_var=0.005),  # a bit that is sampled again once in 100 changes once in 200
    )
    done = minimize(Masks(), algorithm, ("n_eval", evaluations), seed=seed)
    return np.atleast_2d(done.F)


if __name__ == "__main__":
    main()
