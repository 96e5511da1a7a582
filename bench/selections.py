"""Our selections of ensembles and those of other libraries on the same prediction tables: hypervolume of cost and error.

    python -m bench.selections                                     # a generated table, 3 seeds: a quarter of an hour
    python -m bench.selections --predictions RUN/predictions       # of a run: selection.npz and test.npz
    python -m bench.selections --selectors default "phem QO-ES" --seeds 1

All choose on one split and are scored on it, and again on images that chose nothing. A peer that knows no cost gives one
weighted ensemble, or every step of its greedy path; single members count for all of them. Costs are of the members with a
weight above 0. `nsga2`, `sms-emoa` and `spea2` are the published algorithms with 200,000 evaluations, and count with the
best of all that they scored. CPU seconds are those of one thread, without the preparation of the scorer.

phem pins versions that exclude other peers': pip install --no-deps --target DIR phem==0.0.0.2 ribs==0.4.0 decorator
numpy_groupies toml, and AutoGluon the same way (autogluon.core autogluon.common autogluon.features), with DIR in PYTHONPATH.
A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import present
from bench.tables import realistic
from ensemble.evolve import Budget
from ensemble.gains import weights_of
from ensemble.rule import RULES
from ensemble.score import SubsetScorer
from ensemble.select import select
from ensemble.table import Table
from search.front import hypervolume
from search.selection import SURVIVAL

EVALUATIONS = 200_000  # of the published algorithms
ROUNDS = 50  # of greedy selection with repeats, as phem and auto-sklearn have it
MEMBERS, CHOOSE, TEST, CLASSES = 100, 2_000, 20_000, 20  # of the generated table


@dataclass(frozen=True)
class Task:
    """What a selector knows: the table, a scorer of it, the cost rule and a seed."""

    table: Table
    scorer: SubsetScorer
    rule: str
    seed: int

    def dense(self) -> list[np.ndarray]:
        """The probabilities of every class, [N, C] for each member, as other libraries take them."""
        classes, labels = self.table.classes_MNK, self.table.labels_N
        members, images, _ = classes.shape
        full = np.zeros((members, images, int(max(classes.max(), labels.max())) + 1))
        np.put_along_axis(full, classes.astype(np.int64), self.table.probs_MNK, axis=2)
        return list(full)


# The votes' weights [S, M] of the ensembles that a selector leaves, and the number of ensembles that it scored.
Found = tuple[np.ndarray, int]


def ours(task: Task, algorithm: str, vote: str = "soft") -> Found:
    """A selection of this project."""
    scored = [0]
    budget = Budget(EVALUATIONS, task.seed, SURVIVAL)
    chosen = select(
        task.scorer, task.table.cost_M, task.rule, algorithm, lambda n: scored.__setitem__(0, n), vote=vote, budget=budget
    )
    return weights_of(chosen, task.scorer.members), scored[0]


def swept(task: Task) -> Found:
    """Greedy selection with repeats that minimises the error plus a weight times the share of the highest cost.

    Twelve weights and 0, each from the empty ensemble; every step counts. With no cost weight it is Caruana's.
    """
    members, rule, cost_M = task.scorer.members, RULES[task.rule], task.table.cost_M
    highest = rule.costs(np.ones((1, members), dtype=bool), cost_M)[0]
    steps, scored = [], 0
    for weight in (0.0, *np.geomspace(1e-4, 1.0, 12)):
        counts_M = np.zeros(members)
        for _ in range(ROUNDS):
            tried_SM = counts_M + np.eye(members)
            error_S = 1 - task.scorer.correct_weighted(tried_SM) / task.scorer.images
            counts_M = tried_SM[(error_S + weight * rule.costs(tried_SM > 0, cost_M) / highest).argmin()]
            steps.append(counts_M)
            scored += members
    return np.array(steps), scored


def path(order: Sequence[int], members: int) -> np.ndarray:
    """The weights of every step of a greedy selection that adds these members."""
    return np.cumsum(np.eye(members)[list(order)], axis=0)


def phem_greedy(task: Task) -> Found:
    """Greedy selection, 50 rounds."""
    from phem.methods.ensemble_selection.greedy_ensemble_selection import EnsembleSelection

    made = EnsembleSelection([None] * task.scorer.members, ROUNDS, accuracy(), 1, np.random.RandomState(task.seed))
    made.ensemble_fit(task.dense(), task.table.labels_N)
    return path(made.indices_, task.scorer.members), ROUNDS * task.scorer.members


def phem_qdo(task: Task, method: str) -> Found:
    """QO-ES or QDO-ES as their authors configured them; the behaviour of QDO-ES is size and loss correlation.

    The authors' other behaviour needs the members' hyperparameters.
    """
    from phem.application_utils.default_configurations import get_ensemble_switch_case_config
    from phem.methods.ensemble_selection.qdo.behavior_spaces import get_bs_ensemble_size_and_loss_correlation

    made = get_ensemble_switch_case_config(method, task.seed, accuracy(), 1, False, None)
    setattr(np, "product", np.prod)  # noqa: B010  # its version of ribs has the name that NumPy 2 removed
    settings = made["technique_args"]
    if method == "QDO-ES":
        settings["behavior_space"] = get_bs_ensemble_size_and_loss_correlation()
    fitted = made["technique"]([None] * task.scorer.members, **settings)
    fitted.ensemble_fit(task.dense(), task.table.labels_N)
    return np.maximum(fitted.weights_, 0)[None], settings["n_iterations"] * task.scorer.members


def accuracy() -> Any:
    """Top-1 as a metric of phem."""
    from phem.base_utils.metrics import make_metric

    return make_metric(lambda labels, found: float((labels == found).mean()), "accuracy", True, True, True, 1)


def cma_weights(task: Task) -> Found:
    """CMA-ES of the weights from equal ones, 50 evaluations for each member, scored by our scorer; none is negative."""
    import cma

    members = task.scorer.members
    options = {"maxfevals": ROUNDS * members, "seed": task.seed, "verbose": -9}
    search = cma.CMAEvolutionStrategy(np.full(members, 1 / members), 0.2, options)
    best_M, most, scored = np.ones(members), -1, 0
    while not search.stop():
        asked = search.ask()
        weights_SM = np.maximum(np.array(asked), 0)
        correct_S = task.scorer.correct_weighted(weights_SM)
        search.tell(asked, (1 - correct_S / task.scorer.images).tolist())
        scored += len(asked)
        if correct_S.max() > most:
            most, best_M = int(correct_S.max()), weights_SM[correct_S.argmax()]
    return best_M[None], scored


def autogluon(task: Task) -> Found:
    """AutoGluon's greedy selection, 25 rounds as its predictor starts it."""
    from autogluon.core.metrics import accuracy as top1
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    made = EnsembleSelection(25, "multiclass", top1, subsample_size=1_000_000, random_state=np.random.RandomState(task.seed))
    made.fit(task.dense(), task.table.labels_N)
    return path(made.indices_, task.scorer.members), 25 * task.scorer.members


OURS: dict[str, Callable[[Task], Found]] = {
    "default": partial(ours, algorithm="default"),
    "default, weighted vote": partial(ours, algorithm="default", vote="weighted"),
    "greedy": partial(ours, algorithm="greedy"),
    "nsga2": partial(ours, algorithm="nsga2"),
    "sms-emoa": partial(ours, algorithm="sms-emoa"),
    "spea2": partial(ours, algorithm="spea2"),
    "greedy, swept cost weight": swept,
}
# The library that a peer needs, and what it leaves.
PEERS: dict[str, tuple[str, Callable[[Task], Found]]] = {
    "AutoGluon greedy": ("autogluon", autogluon),
    "phem greedy": ("phem", phem_greedy),
    "phem QO-ES": ("phem", partial(phem_qdo, method="QO-ES")),
    "phem QDO-ES": ("phem", partial(phem_qdo, method="QDO-ES")),
    "CMA-ES weights": ("cma", cma_weights),
}


@dataclass(frozen=True)
class Score:
    """A selection's hypervolumes on both splits, as shares of the box to the reference point, and its best ensemble."""

    volume: float
    test_volume: float
    top1: float
    test_top1: float
    members: int  # of the best ensemble
    evaluations: int
    cpu_s: float


def left(task: Task, selector: str) -> tuple[Found, float]:
    """What a selector leaves, and its CPU seconds; peers know no cost, so what they leave serves every rule."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers: their own deprecations
        found = (OURS[selector] if selector in OURS else PEERS[selector][1])(task)
    return found, time.process_time() - started


def score(task: Task, test: SubsetScorer, found: Found, cpu_s: float) -> Score:
    """Scores of the ensembles that a selector left, and of all single members, on both splits."""
    weights_SM = np.concatenate([np.eye(task.scorer.members), found[0]])
    cost_S = RULES[task.rule].costs(weights_SM > 0, task.table.cost_M)
    error_S = 1 - task.scorer.correct_weighted(weights_SM) / task.scorer.images
    best = np.lexsort((cost_S, error_S))[0]
    order = np.lexsort((error_S, cost_S))
    front = order[np.append(True, np.diff(np.minimum.accumulate(error_S[order])) < 0)]
    test_S = 1 - test.correct_weighted(weights_SM) / test.images
    everyone = np.ones((1, task.scorer.members), dtype=bool)
    volumes = []
    for errors in (error_S, test_S):
        reference = np.array([RULES[task.rule].costs(everyone, task.table.cost_M)[0], errors[: task.scorer.members].max()])
        points = np.column_stack([cost_S, errors])[front]
        volumes.append(hypervolume(points, reference * 1.001) / (reference * 1.001).prod())
    return Score(
        volume=volumes[0],
        test_volume=volumes[1],
        top1=1 - error_S[best],
        test_top1=1 - test_S[best],
        members=int((weights_SM[best] > 0).sum()),
        evaluations=found[1],
        cpu_s=cpu_s,
    )


def generated(seed: int) -> tuple[Table, Table]:
    """A table like a published front's, and one of other images."""
    whole = realistic(MEMBERS, CHOOSE + TEST, CLASSES, seed=seed)
    return part(whole, np.arange(CHOOSE)), part(whole, np.arange(CHOOSE, CHOOSE + TEST))


def part(table: Table, images: np.ndarray) -> Table:
    """The table of some of a table's images."""
    return Table(table.classes_MNK[:, images], table.probs_MNK[:, images], table.labels_N[images], table.cost_M)


def of_run(folder: Path, seed: int) -> tuple[Table, Table]:
    """The tables of a run; half of the selection split's images, sampled by the seed, so that seeds differ."""
    choose, test = (Table.from_npz((folder / f"{split}.npz").read_bytes(), split) for split in ("selection", "test"))
    images = len(choose.labels_N)
    kept = np.sort(np.random.default_rng(seed).permutation(images)[: images // 2])
    return part(choose, kept), test


class Splits:
    """The tables of every seed, with a scorer of each, and what cost-blind selectors left."""

    def __init__(self, tables: Callable[[int], tuple[Table, Table]], seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.pairs = [tables(seed) for seed in seeds]
        self.scorers = [[SubsetScorer(t.classes_MNK, t.probs_MNK, t.labels_N, threads=1) for t in p] for p in self.pairs]
        for choose, _ in self.scorers:  # prepares the sums, and compiles
            choose.correct_changed(np.eye(choose.members, dtype=bool))
            choose.correct_weighted(np.eye(choose.members))
        self.kept: dict[tuple[str, int], tuple[Found, float]] = {}

    def scores(self, selector: str, rule: str) -> list[Score]:
        """The scores of a selector for each seed."""
        found = []
        for (table, _), (choose, test), seed in zip(self.pairs, self.scorers, self.seeds, strict=True):
            task, key = Task(table, choose, rule, seed), (selector, seed)
            result = self.kept.get(key) or left(task, selector)
            if selector in PEERS:
                self.kept[key] = result
            found.append(score(task, test, *result))
        return found


def row(found: Sequence[Score], first: Sequence[Score]) -> str:
    """Means over the seeds as cells of a table, hypervolumes with their standard deviation.

    first: the scores of the first selector, with which the others are compared seed by seed.
    """
    differences = [one.volume - other.volume for one, other in zip(found, first, strict=True)]
    cells = []
    for values, sign in (([f.volume for f in found], ""), (differences, "+"), ([f.test_volume for f in found], "")):
        spread = f" ± {statistics.stdev(values):.5f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):{sign}.5f}{spread}")
    mean = {field: statistics.mean(getattr(f, field) for f in found) for field in Score.__dataclass_fields__}
    cells += [f"{100 * mean['top1']:.2f}", f"{100 * mean['test_top1']:.2f}", f"{mean['members']:.1f}"]
    return " | ".join([*cells, f"{mean['evaluations']:,.0f}", f"{mean['cpu_s']:.2f}"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each table, cost rule and selector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, help="the folder of a run's tables, instead of the generated one")
    parser.add_argument("--rules", nargs="+", choices=["max", "sum"], default=["max", "sum"])
    parser.add_argument("--selectors", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args(arguments)
    name, tables = "generated", generated
    if options.predictions:
        name, tables = "run", partial(of_run, options.predictions)
    selectors = present(options.selectors, PEERS, "see python -m bench.selections --help")
    columns = ["table", "cost", "selector", "hypervolume", "less that of the first selector", "on the test split"]
    columns += ["best top-1", "its test top-1", "its members", "ensembles scored", "CPU s"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    splits = Splits(tables, options.seeds)
    for rule in options.rules:
        first: list[Score] = []
        for selector in selectors:
            found = splits.scores(selector, rule)
            first = first or found
            print(f"| {name} | {rule} | {selector} | {row(found, first)} |", flush=True)


if __name__ == "__main__":
    main()
