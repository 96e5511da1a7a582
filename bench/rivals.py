"""Our searches and those of other libraries on published tables: hypervolume as a share of the table's own.

    python -m bench.rivals                                            # every problem and searcher, 5 seeds: hours
    python -m bench.rivals --problems macro --searchers guided "Optuna TPE" --seeds 1 --at 20

Ours come first, then peers as their documentation starts them, on one integer or categorical parameter for each gene; the
smallest and the largest network are the first evaluations of all. An evaluation is of a new network: a network that a
peer proposes again costs it nothing, up to ten proposals for each evaluation. CPU seconds are those of the search itself.
`guided` computes exact costs; peers observe them with the top-1. Results are kept in `--store` by problem, searcher,
evaluations and seed: the same command continues. A peer that is not installed is left out (pip install '.[bench]').
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from bench.peers import present
from bench.problems import PROBLEMS, Table
from ofa.arch import Arch
from ofa.record import Measured
from search import measured

POPULATION = 50  # of evolutionary peers, as of ours
MODEL_BATCH = 5  # networks that qLogNEHVI proposes together
REPEATS = 10  # proposals for each evaluation, before a peer ends
AT = (100, 250, 500)


@dataclass(frozen=True)
class Task:
    """What a peer knows: the number of choices of each gene, the rows to start from, and how much it may evaluate."""

    sizes_G: np.ndarray
    start_BG: np.ndarray
    objectives: int
    evaluations: int
    seed: int


class Peer(Protocol):
    """A searcher that minimises; `tell` has the points of the rows that `ask` returned last."""

    def ask(self) -> np.ndarray: ...

    def tell(self, points_BM: np.ndarray) -> None: ...


class Pymoo:
    """pymoo's algorithm of this name with its documented operators for integers."""

    def __init__(self, task: Task, name: str) -> None:
        from pymoo.algorithms.moo.age import AGEMOEA
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair

        high_G = task.sizes_G - 1
        rng = np.random.default_rng(task.seed)
        others = rng.integers(0, task.sizes_G, (POPULATION - len(task.start_BG), len(task.sizes_G)))
        kind = {"NSGA-II": NSGA2, "AGE-MOEA": AGEMOEA}[name]
        self.algorithm = kind(
            pop_size=POPULATION, sampling=np.concatenate([task.start_BG, others]),
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )  # fmt: skip
        problem = Problem(n_var=len(high_G), n_obj=task.objectives, xl=np.zeros(len(high_G)), xu=high_G, vtype=int)
        self.algorithm.setup(problem, seed=task.seed, verbose=False)

    def ask(self) -> np.ndarray:
        self.open = self.algorithm.ask()
        if self.open is None or not len(self.open):
            return np.empty((0, self.algorithm.problem.n_var), dtype=np.int64)
        return self.open.get("X").round().astype(np.int64)

    def tell(self, points_BM: np.ndarray) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        Evaluator().eval(StaticProblem(self.algorithm.problem, F=points_BM), self.open)
        self.algorithm.tell(infills=self.open)


class Studied:
    """A sampler of Optuna or rustuna, asked for one network at a time."""

    def __init__(self, task: Task, library: Any, make: Callable[[Any, int], Any]) -> None:
        self.names = [(f"gene{g}", list(range(size))) for g, size in enumerate(task.sizes_G.tolist())]
        self.study = library.create_study(directions=["minimize"] * task.objectives, sampler=make(library, task.seed))
        for row in task.start_BG.tolist():
            self.study.enqueue_trial({name: value for (name, _), value in zip(self.names, row, strict=True)})

    def ask(self) -> np.ndarray:
        self.trial = self.study.ask()
        return np.array([[self.trial.suggest_categorical(name, choices) for name, choices in self.names]])

    def tell(self, points_BM: np.ndarray) -> None:
        self.study.tell(self.trial.number, points_BM[0].tolist())


def nsga2(library: Any, seed: int) -> Any:
    return library.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)


def of_optuna(task: Task, make: Callable[[Any, int], Any]) -> Peer:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Studied(task, optuna, make)


def of_rustuna(task: Task) -> Peer:
    import rustuna

    return Studied(
        task, rustuna, lambda library, seed: library.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    )


class Botorch:
    """qLogNEHVI of independent Gaussian processes on genes scaled to 0..1, from 2 (G + 1) networks on."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.manual_seed(task.seed)
        self.sizes_G = task.sizes_G
        rng = np.random.default_rng(task.seed)
        count = max(2 * (len(task.sizes_G) + 1) - len(task.start_BG), 0)
        self.open = np.concatenate([task.start_BG, rng.integers(0, task.sizes_G, (count, len(task.sizes_G)))])
        self.rows_NG, self.points_NM = self.open[:0], np.empty((0, task.objectives))

    def ask(self) -> np.ndarray:
        if len(self.rows_NG):
            self.open = self._proposed()
        return self.open

    def tell(self, points_BM: np.ndarray) -> None:
        self.rows_NG = np.concatenate([self.rows_NG, self.open])
        self.points_NM = np.concatenate([self.points_NM, points_BM])

    def _proposed(self) -> np.ndarray:
        import torch
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.models.transforms import Standardize
        from botorch.optim import optimize_acqf_discrete_local_search
        from gpytorch.mlls import SumMarginalLogLikelihood

        scale_G = np.maximum(self.sizes_G - 1, 1)
        x, y = torch.tensor(self.rows_NG / scale_G), -torch.tensor(self.points_NM)
        model = ModelListGP(
            *(SingleTaskGP(x, y[:, m : m + 1], outcome_transform=Standardize(m=1)) for m in range(y.shape[1]))
        )
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(model, ref_point=[-1.0] * y.shape[1], X_baseline=x)
        found, _ = optimize_acqf_discrete_local_search(
            acquisition, q=MODEL_BATCH, num_restarts=10, raw_samples=256, X_avoid=x,
            discrete_choices=[torch.arange(size) / scale for size, scale in zip(self.sizes_G, scale_G, strict=True)],
        )  # fmt: skip
        return (found.numpy() * scale_G).round().astype(np.int64)


class Nevergrad:
    """nevergrad's NGOpt, asked for one network at a time."""

    def __init__(self, task: Task) -> None:
        import nevergrad as ng

        choices = [ng.p.TransitionChoice(range(size)) for size in task.sizes_G.tolist()]
        parameters = ng.p.Tuple(*choices)
        parameters.random_state.seed(task.seed)
        self.optimizer = ng.optimizers.NGOpt(parameters, budget=task.evaluations)
        self.optimizer.tell(ng.p.MultiobjectiveReference(), [1.0] * task.objectives)
        for row in task.start_BG.tolist():
            self.optimizer.suggest(tuple(row))

    def ask(self) -> np.ndarray:
        self.open = self.optimizer.ask()
        return np.array([self.open.value])

    def tell(self, points_BM: np.ndarray) -> None:
        self.optimizer.tell(self.open, points_BM[0].tolist())


class Smac:
    """SMAC's facade for hyperparameters with ParEGO, asked for one network at a time."""

    def __init__(self, task: Task) -> None:
        from ConfigSpace import CategoricalHyperparameter, Configuration, ConfigurationSpace
        from smac import HyperparameterOptimizationFacade as Facade
        from smac import Scenario

        self.folder = tempfile.TemporaryDirectory()
        space = ConfigurationSpace(seed=task.seed)
        self.names = [f"gene{g:02}" for g in range(len(task.sizes_G))]
        choices = [list(range(size)) for size in task.sizes_G.tolist()]
        space.add([CategoricalHyperparameter(n, found) for n, found in zip(self.names, choices, strict=True)])
        objectives = [f"objective{m}" for m in range(task.objectives)]
        scenario = Scenario(
            space, objectives=objectives, deterministic=True, n_trials=REPEATS * task.evaluations, seed=task.seed,
            output_directory=Path(self.folder.name),
        )  # fmt: skip
        start = [Configuration(space, dict(zip(self.names, row, strict=True))) for row in task.start_BG.tolist()]
        self.facade = Facade(
            scenario, lambda config, seed=0: 0.0, multi_objective_algorithm=Facade.get_multi_objective_algorithm(scenario),
            initial_design=Facade.get_initial_design(scenario, additional_configs=start), logging_level=False,
        )  # fmt: skip

    def ask(self) -> np.ndarray:
        self.open = self.facade.ask()
        return np.array([[self.open.config[name] for name in self.names]])

    def tell(self, points_BM: np.ndarray) -> None:
        from smac.runhistory.dataclasses import TrialValue

        self.facade.tell(self.open, TrialValue(cost=points_BM[0].tolist()))


OURS = {"guided": 25, "nsga2": 50, "random": 50}  # algorithms with their batch
# The library that a peer needs, and what makes it.
PEERS: dict[str, tuple[str, Callable[[Task], Peer]]] = {
    "pymoo NSGA-II": ("pymoo", partial(Pymoo, name="NSGA-II")),
    "pymoo AGE-MOEA": ("pymoo", partial(Pymoo, name="AGE-MOEA")),
    "Optuna TPE": ("optuna", partial(of_optuna, make=lambda library, seed: library.samplers.TPESampler(seed=seed))),
    "Optuna NSGA-II": ("optuna", partial(of_optuna, make=nsga2)),
    "Optuna GPSampler": ("optuna", partial(of_optuna, make=lambda library, seed: library.samplers.GPSampler(seed=seed))),
    "rustuna NSGA-II": ("rustuna", of_rustuna),
    "BoTorch qLogNEHVI": ("botorch", Botorch),
    "SMAC": ("smac", Smac),
    "nevergrad": ("nevergrad", Nevergrad),
}


@dataclass(frozen=True)
class Run:
    """The values of one search's evaluations in order [N, M], and the CPU seconds after each of them [N]."""

    values: list[list[float]]
    cpu_s: list[float]


def ours(table: Table, algorithm: str, evaluations: int, seed: int) -> Run:
    """One of our searches; the time of the evaluations themselves is not counted."""
    seconds: list[float] = []
    started = time.process_time()

    def evaluate(archs: Sequence[Arch]) -> list[Measured]:
        nonlocal started
        so_far = (seconds[-1] if seconds else 0.0) + time.process_time() - started
        found = table.measured(archs)
        seconds.extend([so_far] * len(found))
        started = time.process_time()
        return found

    batch = OURS[algorithm]
    history = measured.search(
        table.space, table.objectives, evaluate, algorithm=algorithm, evaluations=evaluations, batch=batch, seed=seed
    ).history
    return Run([[objective.of(one) for objective in table.objectives] for one in history], seconds)


def peers(table: Table, make: Callable[[Task], Peer], evaluations: int, seed: int) -> Run:
    """A search of a peer, which ends early if it proposes too few new networks."""
    free = table.free
    task = Task(table.genes.sizes_G[free], table.extremes[:, free], len(table.objectives), evaluations, seed)
    known: dict[bytes, list[float]] = {}
    run, proposals, seconds = Run([], []), 0, 0.0
    started = time.process_time()
    peer = make(task)
    while len(run.values) < evaluations and proposals < REPEATS * evaluations:
        rows_BF = peer.ask()
        seconds += time.process_time() - started
        if not len(rows_BF):
            break
        proposals += len(rows_BF)
        genes_BG = np.zeros((len(rows_BF), len(table.genes.sizes_G)), dtype=np.int64)
        genes_BG[:, free] = rows_BF
        genes_BG = table.genes.canonical(genes_BG)
        values_BM = table.values(genes_BG)
        for genes_G, values_M in zip(genes_BG, values_BM, strict=True):
            if genes_G.tobytes() not in known:
                known[genes_G.tobytes()] = values_M.tolist()
                run.values.append(values_M.tolist())
                run.cpu_s.append(seconds)
        started = time.process_time()
        peer.tell(table.points(values_BM))
    return Run(run.values[:evaluations], run.cpu_s[:evaluations])


def searched(table: Table, searcher: str, evaluations: int, seed: int, store: Path) -> Run:
    """The run of a searcher, from the store if it is there with as many evaluations."""
    file = store / f"{table.name}-{searcher.replace(' ', '-')}-{evaluations}-{seed}.json"
    if not file.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peers: their own deprecations and experimental parts
            if searcher in OURS:
                run = ours(table, searcher, evaluations, seed)
            else:
                run = peers(table, PEERS[searcher][1], evaluations, seed)
        keep(file, {"values": run.values, "cpu_s": run.cpu_s})
    return Run(**json.loads(file.read_text()))


def best(table: Table, store: Path) -> float:
    """The hypervolume of the whole table, kept in the store."""
    file = store / f"{table.name}-best.json"
    if not file.exists():
        keep(file, table.best())
    return float(json.loads(file.read_text()))


def keep(file: Path, document: object) -> None:
    """Writes a file that is whole or absent."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.replace(file)


def lines(table: Table, searchers: Sequence[str], seeds: Sequence[int], at: Sequence[int], store: Path) -> Iterator[str]:
    """A row of the table for each searcher, once its runs are finished."""
    whole = best(table, store)
    for searcher in searchers:
        runs = [searched(table, searcher, max(at), seed, store) for seed in seeds]
        cells = []
        for count in at:
            shares = [table.volume(np.array(run.values[:count])) / whole for run in runs]
            spread = f" ± {statistics.stdev(shares):.4f}" if len(shares) > 1 else ""
            cells.append(f"{statistics.mean(shares):.4f}{spread}")
        seconds = statistics.mean(run.cpu_s[-1] for run in runs)
        fewest = min(len(run.values) for run in runs)
        note = "" if fewest == max(at) else f" (only {fewest} distinct networks)"
        yield f"| {table.name} | {searcher}{note} | {' | '.join(cells)} | {seconds:.1f} |"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--searchers", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--at", type=int, nargs="+", default=list(AT), help="numbers of evaluations")
    parser.add_argument("--store", type=Path, default=Path("runs/rivals"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    options.store.mkdir(parents=True, exist_ok=True)
    searchers = present(options.searchers, PEERS, "pip install '.[bench]' installs it")
    print(f"| problem | searcher | {' | '.join(map(str, options.at))} | CPU s |\n|{'---|' * (3 + len(options.at))}")
    for name in options.problems:
        for line in lines(PROBLEMS[name](), searchers, options.seeds, options.at, options.store):
            print(line, flush=True)


if __name__ == "__main__":
    main()
