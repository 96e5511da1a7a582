"""What each recipe of training a supernet brings on CIFAR-10, against the same networks trained alone.

    python -m bench.recipes --data DIR --seeds 1 2 3 --at-once 2
    python -m bench.recipes --data DIR --only delayed delayed+average alone --epochs 30
    python -m bench.recipes --list

Every recipe is a list of settings over configs/cifar10.toml, and every training makes equally many updates of equal batches,
except the networks that are trained alone with a share of them. `NAME+EXTRA` is a recipe with more settings, for each EXTRA
of `--list`. The smallest, a middle, the largest and ten random sub-networks are evaluated on the test split; `one-kernel`
(of 3, at 24 pixels) and `coupled` have random ones of their own choices, `one-kernel` also a middle and a largest one.

`alone-tenth` and `alone-four-tenths` are ten random networks (and the other three) that share the compute of one training
with one or with four networks a step: each gets a tenth of the epochs, or four tenths, rounded up.

With `--finetune 1 2`, each of the networks of a supernet is then trained further by itself for 1 and for 2 epochs (rows
NAME@1x0.01 and so on: epochs and learning rate).

Each training is a process of one thread, `--at-once` of them at a time; seeds take turns, so that a study that is cut off
compares all recipes. Networks and results are kept in `--store`: the same command continues from them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.recipes_gpu import parts
from cluster.progress import Reporter
from jobs.config import Experiment, load
from jobs.evaluators import evaluator_of, tensors_of, weights_file
from jobs.export import fine_tuned, remove_finetuning
from jobs.job import opened
from jobs.train import train_supernet
from ofa.arch import Arch
from ofa.draws import sample_coupled
from ofa.space import Space

CONFIG = "configs/cifar10.toml"
RANDOM_ARCHS = 10
LR = 0.1  # peak learning rate of all recipes but progressive shrinking
SHRINKS_AFTER = 0.5  # share of the epochs for the largest network alone, of delayed shrinking
RAMP = 0.02  # share of the epochs
SUBNETS = 2  # random sub-networks of a step, beside the largest and the smallest
EVERYWHERE = ("train.backend=local", "train.workers=1", "train.validate_every=1000")
ONE_SCHEDULE = ("train.schedule=whole", "train.momentum_across_phases=true")
LARGEST = "depths=[3],kernels=[7],expands=[6]"
EXTRAS = {
    "average": ("train.average=0.998",),
    "alpha": ("train.distil_loss=alpha",),
    "gamma": ("train.zero_last_gamma=true",),
    "flip": ("data.alternating_flip=true",),
    "smoothing": ("train.label_smoothing=0.1",),
}


def shrinking(epochs: int) -> list[str]:
    """The phases of the config, in proportion."""
    phases = load(CONFIG).train.phases
    counts = parts(epochs, [phase.epochs for phase in phases])
    texts = [
        f'{{name="{phase.name}",epochs={count},lr={phase.lr},warmup_epochs={phase.warmup_epochs},distil={phase.distil}'
        + "".join(f",{name}={[int(value) for value in values]}" for name, values in phase.choices.items())
        + "}"
        for phase, count in zip(phases, counts, strict=True)
    ]
    return [f"train.phases=[{','.join(texts)}]"]


def one_phase(epochs: int, settings: str = "") -> list[str]:
    """The whole space from the first step."""
    return [f'train.phases=[{{name="whole",epochs={epochs},lr={LR}{settings}}}]']


def delayed(epochs: int, *, gradients: str = "sum", ramp: float = RAMP, largest: str = LARGEST, more: str = "") -> list[str]:
    """The largest network, then the sandwich rule with in-place distillation, on one learning-rate schedule.

    Source: DepS (ECCV 2024). more: settings of the second phase.
    """
    first, second = parts(epochs, (SHRINKS_AFTER, 1 - SHRINKS_AFTER))
    shrink = f'name="shrink",epochs={second},lr={LR},sandwich=true,subnets={SUBNETS},ramp_epochs={ramp * epochs:g}{more}'
    phases = f'{{name="largest",epochs={first},lr={LR},{largest}}},{{{shrink}}}'
    return [*ONE_SCHEDULE, f"train.gradients={gradients}", f"train.phases=[{phases}]"]


PAIRS = ((2, 3), (3, 4), (3, 6))  # of depth and expand ratio, in CompOFA's order
# The settings of each recipe with a number of epochs.
RECIPES: dict[str, Callable[[int], list[str]]] = {
    "shrinking": shrinking,
    "whole": one_phase,
    "delayed": delayed,
    "delayed-mean": lambda epochs: delayed(epochs, gradients="mean"),
    "delayed-no-ramp": lambda epochs: delayed(epochs, ramp=0.0),
    "sandwich": lambda epochs: [
        "train.gradients=sum", *one_phase(epochs, f",sandwich=true,subnets={SUBNETS}")
    ],
    "one-kernel": lambda epochs: [
        "choices.kernels=[3]", "choices.resolutions=[24]", *delayed(epochs, largest="depths=[3],expands=[6]")
    ],
    "extremes": lambda epochs: one_phase(epochs, ",extremes=[0.25,0.25]"),
    "coupled": lambda epochs: delayed(epochs, more=f",coupled={[list(pair) for pair in PAIRS]}"),
}  # fmt: skip
# Networks trained alone: the share of the epochs, and whether the random ones are among them.
ALONE = {"alone": (1.0, False), "alone-tenth": (0.1, True), "alone-four-tenths": (0.4, True)}
NAMES = (*RECIPES, *ALONE)


@dataclass(frozen=True, slots=True)
class Tuning:
    """A fine-tuning of each network by itself, for so many epochs from a learning rate."""

    epochs: int
    lr: float

    def __str__(self) -> str:
        return f"@{self.epochs}x{self.lr:g}"


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a study. archs: the names of the sub-networks that are evaluated, by their labels."""

    recipe: str
    seed: int
    config: Experiment
    archs: Mapping[str, str]

    def kept(self, store: Path, tuning: Tuning | None = None) -> Path:
        """The file with the test top-1 by label, of the networks themselves or after a fine-tuning."""
        return store / f"{self.recipe}{tuning or ''}-{self.config.id}.json"

    @property
    def networks(self) -> float:
        """The networks that are trained, counted once for each epoch."""
        return sum(phase.epochs * len(phase.lessons(random.Random(0))) for phase in self.config.phases)


def reference(space: Space) -> dict[str, Arch]:
    """The smallest, a middle and the largest network at the largest resolution."""
    side, kernels, expands = space.resolutions[-1], space.values("kernel"), space.values("expand")
    middle = space.uniform(side, max(space.values("depth")), kernels[len(kernels) // 2], expands[len(expands) // 2])
    return {"smallest": replace(space.smallest(), resolution=side), "middle": middle, "largest": space.largest()}


def evaluated(config: Experiment) -> dict[str, Arch]:
    """The sub-networks of a supernet that are evaluated: `reference`, and random ones that its last phase trains."""
    rng, draw = random.Random("progressive shrinking"), config.phases[-1].draw
    pairs = getattr(draw, "coupled", ())
    several = {f"random {number}": sample_coupled(config.search_space, rng, pairs) for number in range(RANDOM_ARCHS)}
    return {**reference(config.search_space), **several}


def trainings(name: str, seed: int, epochs: int, settings: Sequence[str]) -> list[Training]:
    """The trainings of a recipe, NAME or NAME+EXTRA+..., with a seed. settings: of all trainings."""
    base, *extras = name.split("+")
    common = [*EVERYWHERE, f"seed={seed}", *(setting for extra in extras for setting in EXTRAS[extra]), *settings]
    if base in RECIPES:
        config = load(CONFIG, [*RECIPES[base](epochs), *common])
        return [Training(name, seed, config, {label: arch.key for label, arch in evaluated(config).items()})]
    share, all_of_them = ALONE[base]
    count = -int(-epochs * share // 1)  # rounded up
    whole = load(CONFIG, common)
    found = evaluated(whole) if all_of_them else reference(whole.search_space)
    return [Training(name, seed, load(CONFIG, [*alone(arch, count), *common]), {label: arch.key})
            for label, arch in found.items()]  # fmt: skip


def alone(arch: Arch, epochs: int) -> list[str]:
    """The settings that train one network; with one kernel size or expand ratio, in a space without the others."""
    values = {name: set(of) - {0} for name, of in {"kernels": arch.kernel, "expands": arch.expand}.items()}
    fixed = [f"choices.{name}=[{int(min(of))}]" for name, of in values.items() if len(of) == 1]
    small = ["measure.archs=10", "measure.latency_archs=5"]  # which is never measured, but must have as many networks
    return [*fixed, *small, *one_phase(epochs, f',archs=["{arch.key}"]')]


def train(one: Training, store: Path, tunings: Sequence[Tuning] = ()) -> None:
    """Trains, evaluates and stores the result; then each of the networks is fine-tuned and evaluated again."""
    torch.set_num_threads(1)
    with opened(one.config, str(store), Reporter("plain"), "") as job:
        if not job.run.finished("train"):
            train_supernet(job)
        weights, archs = (
            weights_file(one.config),
            {label: job.config.search_space.named(key) for label, key in one.archs.items()},
        )
        evaluator = evaluator_of(job, tensors_of(job.run.raw(weights.key), weights.key))
        _keep(one.kept(store), {label: evaluator.top1(arch, job.test) for label, arch in archs.items()})
        for tuning in tunings:
            if one.kept(store, tuning).exists():
                continue
            found = {}
            for label, arch in archs.items():
                tuned = fine_tuned(job, arch, tuning.epochs, tuning.lr, 0.0, f"{job.run.url}/{weights}", f"{label}{tuning}")
                found[label] = tuned.top1(arch, job.test)
                remove_finetuning(job, arch, tuning.epochs)
            _keep(one.kept(store, tuning), found)


def _keep(path: Path, found: Mapping[str, float]) -> None:
    """Stores a result whole, or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1))
    new.rename(path)


def row(name: str, found: Sequence[Mapping[str, float]], networks: float) -> str:
    """A row of the table. found: top-1 by label, of each seed. networks: network epochs."""
    cells = []
    for label in ("smallest", "middle", "largest", "random"):
        values = [100 * statistics.mean(v for key, v in one.items() if key.split()[0] == label) for one in found
                  if any(key.split()[0] == label for key in one)]  # fmt: skip
        spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
    return f"| {name} | {networks:g} | {len(found)} | {' | '.join(cells)} |"


def known(name: str) -> str:
    """`name`, if it is a recipe or one with extras."""
    base, *extras = name.split("+")
    if base not in NAMES or not set(extras) <= set(EXTRAS):
        raise argparse.ArgumentTypeError(f"{name!r} is no recipe; there are {', '.join(NAMES)}, each + {', '.join(EXTRAS)}")
    return name


def listing(epochs: int) -> str:
    """All recipes with their settings, and the extras."""
    lines = [f"{name}: {' '.join(make(epochs))}" for name, make in RECIPES.items()]
    lines += [f"{name}: each network alone with {share:g} of the epochs" for name, (share, _) in ALONE.items()]
    return "\n".join(lines + [f"+{name}: {' '.join(settings)}" for name, settings in EXTRAS.items()])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not stored yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--store", default="runs/recipes", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", type=known, default=list(NAMES), metavar="NAME", help="recipes, see --list")
    parser.add_argument("--epochs", type=int, default=15, help="of each training, 4 at least")
    parser.add_argument("--at-once", type=int, default=2, help="trainings at a time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all trainings")
    parser.add_argument("--finetune", type=int, nargs="+", default=[], metavar="EPOCHS",
                        help="also fine-tune each evaluated network of a recipe for so many epochs")  # fmt: skip
    parser.add_argument("--finetune-lr", type=float, default=0.01, help="learning rate of that, a cosine to 0")
    parser.add_argument("--list", action="store_true", help="print the recipes and end")
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)  # of the training that this process makes
    options = parser.parse_args(argv)
    if options.list:
        return print(listing(options.epochs))
    if options.data is None or options.epochs < len(load(CONFIG).phases):
        parser.error("give --data, the folder of CIFAR-10's Parquet files, and 4 --epochs at least")
    store: Path = options.store
    store.mkdir(parents=True, exist_ok=True)
    settings = [f"data.source={options.data}", *options.set]
    todo = [(one, number) for seed in options.seeds for name in options.only
            for number, one in enumerate(trainings(name, seed, options.epochs, settings))]  # fmt: skip
    tunings = [Tuning(epochs, options.finetune_lr) for epochs in options.finetune]
    if options.number is not None:
        return train(todo[options.number][0], store, tunings)

    def results(one: Training) -> dict[str, Path]:
        """The files with the results of a training, by the names of their rows."""
        tuned = {f"{one.recipe}{tuning}": one.kept(store, tuning) for tuning in tunings if one.recipe not in ALONE}
        return {one.recipe: one.kept(store), **tuned}

    def finish(place: tuple[Training, int]) -> None:
        one, number = place
        if not all(path.exists() for path in results(one).values()):
            command = [sys.executable, "-m", "bench.recipes", "--data", str(options.data), "--store", str(store)]
            command += ["--only", one.recipe, "--seeds", str(one.seed), "--epochs", str(options.epochs)]
            if one.recipe not in ALONE and options.finetune:
                command += ["--finetune", *map(str, options.finetune), "--finetune-lr", str(options.finetune_lr)]
            command += ["--number", str(number), *(part for setting in options.set for part in ("--set", setting))]
            with one.kept(store).with_suffix(".log").open("a") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for name, path in results(one).items():
            top1 = {label: round(value, 4) for label, value in json.loads(path.read_text()).items()}
            print(f"seed {one.seed}, {name}: {top1}", flush=True)

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(finish, todo))
    print("\ntest top-1 in %, mean (lowest to highest) over seeds; epochs: of all networks that a recipe trains together\n")
    print(f"| recipe | epochs | seeds | smallest | middle | largest | mean of {RANDOM_ARCHS} |\n|{'---|' * 7}")
    for name in options.only:
        of_seeds = [[one for one, _ in todo if (one.recipe, one.seed) == (name, seed)] for seed in options.seeds]
        for line in results(of_seeds[0][0]):
            found = [
                {k: v for one in ones for k, v in json.loads(results(one)[line].read_text()).items()} for ones in of_seeds
            ]
            print(row(line, found, sum(one.networks for one in of_seeds[0])))
    return None


if __name__ == "__main__":
    main()
