"""How well a supernet ranks the 6,561 networks of NAS-Bench-Macro, all of which were trained alone (arXiv:2103.11922).

    python -m bench.nas_bench_macro --data DIR --table FILE --seeds 1 2 3 --set choices.resolutions=[16]

For each recipe and seed a supernet of configs/nas_bench_macro.toml is trained on CIFAR-10, and a random sample of networks,
the same for all, is evaluated on images of the selection split. Printed are Kendall's tau between their top-1 and the
table's accuracy, and what the best of them has in the table: its regret is the distance from the best of the sample, and of
all networks. Keys of one network, which differ in where identities stand, have one accuracy: the mean of their trainings.
For comparison there are the ranking by multiply-accumulates, and by a single training of every network.

Recipes are those of bench.recipes for this space, and make equally many updates; `NAME+EXTRA` has more settings. Trainings
take turns by seed, `--at-once` of them in processes of one thread each; what is trained and evaluated is kept in `--store`:
the same command continues from it. In three minutes:

    python -m bench.nas_bench_macro --data DIR --table FILE --seeds 1 --only whole --epochs 1 --archs 20 --images 500 \\
        --set choices.resolutions=[16] --set data.selection=40000
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench import recipes
from bench.recipes_gpu import parts
from cluster.progress import Reporter
from jobs.config import Experiment, load
from jobs.evaluators import trained_evaluator
from jobs.job import opened
from jobs.pipeline import run_steps
from ofa.cost import cost
from ofa.spaces.nas_bench_macro import NAS_BENCH_MACRO as SPACE
from search.predict.predictor import tau

CONFIG = "configs/nas_bench_macro.toml"
LARGEST = "depths=[3],expands=[6]"


def shrinking(epochs: int) -> list[str]:
    """The largest network, elastic depth, and all choices, in proportion to configs/cifar10.toml."""
    first, second, third = parts(epochs, (3, 1, 2))
    learns = "distil=1.0,warmup_epochs=0.1"
    return [
        "train.schedule=phase",
        "train.momentum_across_phases=false",
        f'train.phases=[{{name="largest",epochs={first},lr=0.1,{LARGEST}}},'
        f'{{name="depth",epochs={second},lr=0.04,expands=[6],{learns}}},{{name="all",epochs={third},lr=0.06,{learns}}}]',
    ]


# The settings of each recipe with a number of epochs.
RECIPES: dict[str, Callable[[int], list[str]]] = {
    "shrinking": shrinking,
    **{name: recipes.RECIPES[name] for name in ("whole", "sandwich", "extremes")},
    "delayed": lambda epochs: recipes.delayed(epochs, largest=LARGEST),
    "delayed-mean": lambda epochs: recipes.delayed(epochs, gradients="mean", largest=LARGEST),
    "delayed-no-ramp": lambda epochs: recipes.delayed(epochs, ramp=0.0, largest=LARGEST),
}


@dataclass(frozen=True)
class Truth:
    """The table's accuracies in %, by the canonical key of a network.

    mean: over all trainings of all keys of the network. alone: of the three trainings of the canonical key.
    """

    mean: dict[str, float]
    alone: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, rows: Mapping[str, Mapping[str, list[float]]]) -> Truth:
        """The accuracies in the published table, whose rows have `test_acc`."""
        found: dict[str, list[float]] = {}
        for key, row in rows.items():
            found.setdefault(SPACE.own_name(SPACE.named(key)), []).extend(row["test_acc"])
        return cls(
            {key: statistics.mean(values) for key, values in found.items()},
            {key: tuple(rows[key]["test_acc"]) for key in found},
        )

    def sample(self, count: int, seed: int) -> list[str]:
        """Different networks; a larger count only adds some."""
        keys = sorted(self.mean)
        random.Random(f"nas-bench-macro/{seed}").shuffle(keys)
        return keys[:count]


@dataclass(frozen=True)
class Score:
    """How well values rank networks: Kendall's tau, the accuracy (%) of the best found, and its regrets in points."""

    tau: float
    best: float
    regret_in_sample: float
    regret: float

    @classmethod
    def of(cls, truth: Truth, values: Mapping[str, float], against: Mapping[str, float] | None = None) -> Score:
        """The score of values by canonical key, where greater ones are better. against: other accuracies for tau."""
        keys = list(values)
        known = np.array([truth.mean[key] for key in keys])
        wanted = known if against is None else np.array([against[key] for key in keys])
        found = np.array([values[key] for key in keys])
        best = float(known[int(found.argmax())])
        return cls(tau(wanted, found), best, float(known.max()) - best, max(truth.mean.values()) - best)


def settings_of(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """The settings of a training."""
    base, *extras = name.split("+")
    found = [*recipes.EVERYWHERE, f"seed={seed}", f"data.source={options.data}", *RECIPES[base](options.epochs)]
    return [*found, *(setting for extra in extras for setting in recipes.EXTRAS[extra]), *options.set]


def known(file: Path) -> dict[str, float]:
    """The top-1 of the networks in a file by key; a last line that a kill cut off is left out."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return {row["key"]: row["top1"] for row in map(json.loads, lines)}


def evaluate(file: Path, keys: Sequence[str], top1: Callable[[str], float]) -> None:
    """Adds the networks that are not in the file, each once its top-1 is known."""
    found = known(file)
    missing = [key for key in keys if key not in found]
    file.write_text("".join(row_of(key, value) for key, value in found.items()))
    with file.open("a") as out:
        for i, key in enumerate(missing):
            print(row_of(key, top1(key)), end="", file=out, flush=True)
            if i % 50 == 49:
                print(f"{file.stem}: {i + 1} of {len(missing)} networks evaluated", file=sys.stderr, flush=True)


def row_of(key: str, top1: float) -> str:
    """A line of such a file."""
    return json.dumps({"key": key, "top1": top1}) + "\n"


def kept(config: Experiment, options: argparse.Namespace) -> Path:
    """The file with the top-1 of a training's sub-networks."""
    store: Path = options.store
    return store / f"{config.id}-top1-{options.images}.jsonl"


def train(config: Experiment, keys: Sequence[str], options: argparse.Namespace) -> None:
    """Trains and evaluates; what is stored is not computed again."""
    torch.set_num_threads(1)
    with opened(config, str(options.store), Reporter("plain"), "") as job:
        run_steps(job, ["train"])
        evaluator = trained_evaluator(job, job.run.begin("bench"))
        images, space = job.data.selection[: options.images], config.search_space
        evaluate(kept(config, options), keys, lambda key: evaluator.top1(space.named(key), images))


def table(truth: Truth, keys: Sequence[str], found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The scores of each recipe, given the top-1 of the networks by seed, and those of other rankings, as Markdown."""
    rows = {name: [Score.of(truth, top1) for top1 in by_seed] for name, by_seed in found.items()}
    rows["multiply-accumulates"] = [Score.of(truth, {key: float(cost(SPACE, SPACE.named(key), 10).macs) for key in keys})]
    once = []
    for i in range(3):
        others = {key: statistics.mean(v for j, v in enumerate(truth.alone[key]) if j != i) for key in keys}
        once.append(Score.of(truth, {key: truth.alone[key][i] for key in keys}, others))
    rows["one training alone, against the other two"] = once
    lines = ["| ranking | tau | accuracy of the best found, % | regret in the sample | regret |", "|---|---|---|---|---|"]
    for name, scores in rows.items():
        cells = [spread([score.tau for score in scores], 3)]
        cells += [spread([getattr(s, field) for s in scores], 2) for field in ("best", "regret_in_sample", "regret")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """The mean (lowest to highest); a single value alone."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--table", required=True, type=Path, help="nas-bench-macro_cifar10.json, as published")
    parser.add_argument("--store", default="runs/nas-bench-macro", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only",
        nargs="+",
        default=["whole", "delayed"],
        metavar="NAME",
        help=f"of {', '.join(RECIPES)}, each + {', '.join(recipes.EXTRAS)}; default: whole delayed",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of every training")
    parser.add_argument("--epochs", type=int, default=12, help="of a training, in all phases")
    parser.add_argument("--archs", type=int, default=200, help="networks that are evaluated")
    parser.add_argument("--all", action="store_true", help="evaluate every network")
    parser.add_argument("--sample-seed", type=int, default=1, help="of the sample of networks")
    parser.add_argument("--images", type=int, default=2000, help="of the selection split")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at once")
    options = parser.parse_args(arguments)
    for name in options.only:
        base, *extras = name.split("+")
        if base not in RECIPES or not set(extras) <= set(recipes.EXTRAS):
            parser.error(f"{name!r} is no recipe; there are {', '.join(RECIPES)}, each + {', '.join(recipes.EXTRAS)}")
    options.data, options.table, options.store = (path.resolve() for path in (options.data, options.table, options.store))
    return options


def main() -> None:
    options = parsed()
    options.store.mkdir(parents=True, exist_ok=True)
    truth = Truth.of(json.loads(options.table.read_text()))
    keys = truth.sample(SPACE.size if options.all else options.archs, options.sample_seed)
    todo = [(seed, name) for seed in options.seeds for name in options.only]
    configs = {one: load(CONFIG, settings_of(one[1], one[0], options)) for one in todo}

    def top1_of(one: tuple[int, str]) -> dict[str, float]:
        found = known(kept(configs[one], options))
        return {key: found[key] for key in keys if key in found}

    def finish(one: tuple[int, str]) -> None:
        (seed, name), file = one, kept(configs[one], options)
        if len(top1_of(one)) < len(keys) and len(todo) == 1:
            train(configs[one], keys, options)
        elif len(top1_of(one)) < len(keys):
            command = [sys.executable, "-m", "bench.nas_bench_macro", *sys.argv[1:]]
            with file.with_suffix(".log").open("a") as log:
                subprocess.run([*command, "--seeds", str(seed), "--only", name], check=True, stdout=log, stderr=log)
        print(f"seed {seed}, {name}: {Score.of(truth, top1_of(one))}", flush=True)

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(finish, todo))
    found = {name: [top1_of((seed, name)) for seed in options.seeds] for name in options.only}
    print(f"\n{len(keys)} networks; mean (lowest to highest) of {len(options.seeds)} seeds; regrets in points\n")
    print(table(truth, keys, found))


if __name__ == "__main__":
    main()
