"""What adapting a supernet to its search brings: NAT (arXiv:2005.05859), NATv2 (arXiv:2307.00960), its changes one by one.

    python -m bench.nat --cifar DIR --tiny-imagenet DIR --seeds 1 2 3

A supernet is trained on a source (half of CIFAR-10's classes, or Tiny ImageNet at 32 px) and taken to a target (the other
half, or CIFAR-10) with a short warm-up. From these weights each variant spends equally many evaluations of sub-networks; the
largest archive for which they suffice is used. `none` spends them all on a guided search without fine-tuning. Compared are
the fronts that the variants leave, on the target's test split: the hypervolume in top-1 and MACs (a share of that of a
perfect network without cost) and the best top-1. Variants that fine-tune also train more; their device-seconds are in the
table.

Seeds and sources take turns, `--at-once` of them in processes of their own; results are kept in `--store`: the same command
continues from them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.ofav2 import shards
from cluster.progress import Reporter
from jobs import files
from jobs.config import Adapt, Experiment, load
from jobs.evaluators import measure_all, trained_evaluator
from jobs.job import Job, opened
from jobs.pipeline import run_steps
from jobs.tools.transfer import settings_of, start_of
from ofa.arch import Arch
from ofa.cost import cost
from ofa.record import Measured
from search import measured as measured_search
from search.adapt.history import Adaptation
from search.front import hypervolume, nondominated
from search.history import reference_point
from search.objective import Objective, minimised, values

SOURCE, TARGET = "configs/cifar10_half.toml", "configs/cifar10_transfer.toml"
PAIRS = {"half of the classes": "cifar", "Tiny ImageNet": "tiny_imagenet"}  # by name: the option with the source's images
SMALL = (
    "choices.resolutions=[16,24]", "data.selection=2000", "train.backend=local", "train.workers=1",
    "train.validate_every=100", "ray.evaluators=1",
)  # fmt: skip
SOURCE_PHASES = 'train.phases=[{name="all",epochs=EPOCHS,lr=0.1,subnets=2,largest=true}]'
WARM_UP = (
    'train.phases=[{name="largest",epochs=1,lr=0.05,warmup_epochs=0.2,depths=[3],kernels=[7],expands=[6]},'
    '{name="uniform",epochs=EPOCHS,lr=0.05,warmup_epochs=0.2,subnets=2,distil=1.0,teacher="previous"}]'
)
NATV2 = Adapt(iterations=4, batch=10, oversample=4, survivors=12, epochs=1, lr=0.02, subnets=2, predicted_evaluations=1000)
NAT = replace(NATV2, initial="nat", oversample=1, archive="growing", features="one-hot")
# By name: the settings, or None for a search without adaptation.
VARIANTS: dict[str, Adapt | None] = {
    "none": None,
    "NATv2": NATV2,
    "NAT": NAT,
    "NATv2, first archs of NAT": replace(NATV2, initial="nat"),
    "NATv2, no pre-processing": replace(NATV2, oversample=1),
    "NATv2, growing archive": replace(NATV2, archive="growing"),
    "NATv2, one-hot features": replace(NATV2, features="one-hot"),
    "NATv2, published fit (ksone)": replace(NATV2, law="ksone"),
}


def evaluations(setting: Adapt) -> int:
    """The sub-networks that an adaptation evaluates."""
    size = setting.archs
    total = size * setting.oversample
    for _ in range(setting.iterations):
        size += setting.batch if setting.archive == "growing" else 0
        total += setting.batch + size
    return total


def sized(setting: Adapt, budget: int) -> Adapt:
    """The setting with the largest archive for which the evaluations suffice."""
    fitting = [sizes for archs in range(10, budget) if evaluations(sizes := replace(setting, archs=archs)) <= budget]
    if not fitting:
        raise SystemExit(f"{budget} evaluations: an archive of 10 archs takes {evaluations(replace(setting, archs=10))} "
                         f"(archive = {setting.archive}); give --evaluations as many")  # fmt: skip
    return replace(fitting[-1], survivors=min(setting.survivors, fitting[-1].archs))


def warmed(pair: str, seed: int, options: argparse.Namespace) -> Experiment:
    """The run of the target, whose supernet is warmed up; trains what is missing."""
    store, reporter = str(options.store), Reporter("plain")
    small = [*SMALL, f"seed={seed}", f"data.source={shards(options.cifar, options.store)}"]
    source, target = [*small, SOURCE_PHASES.replace("EPOCHS", str(options.epochs))], small
    if PAIRS[pair] != "cifar":
        source = [s for s in source if "data.source" not in s]
        source += [f"data.source={options.tiny_imagenet}", "data.classes=[]", "name=tiny-imagenet"]
        target = [*target, "data.classes=[]"]
    with opened(config := load(SOURCE, source), store, reporter, "") as job:
        run_steps(job, ["train"])
    sets = [*target, WARM_UP.replace("EPOCHS", str(options.epochs))]
    config = load(TARGET, settings_of(TARGET, sets, start_of(config.id, store)))
    with opened(config, store, reporter, "") as job:
        run_steps(job, ["train"])
    return config


def front_of(job: Job, name: str, setting: Adapt | None, budget: int) -> tuple[list[Arch], int, float]:
    """The archs of the front that a variant leaves, its evaluations and its device-seconds."""
    objectives, space = job.config.objectives, job.config.search_space
    if setting is not None:
        job.config = replace(job.config, adapt=sized(setting, budget))
        run_steps(job, ["adapt"])
        rows = [Measured.from_json(json.loads(line)) for line in job.run.read(files.ARCHIVE).splitlines()]
        last = Adaptation.from_bytes(job.run.read(files.ADAPTATION), name).iterations[-1]
        spent, seconds = last.evaluations, last.device_seconds
    else:
        step = job.run.begin("bench")
        known = {m.arch.key: m for m in map(Measured.from_json, step.ledger.rows())}
        began = time.monotonic()

        def evaluate(archs: Sequence[Arch]) -> list[Measured]:
            return measure_all(job, step, archs, known, lambda m: None)

        rows = list(
            measured_search.search(
                space, objectives, evaluate, algorithm="guided", evaluations=budget, batch=NATV2.batch, seed=job.config.seed
            ).history
        )
        spent, seconds = len(rows), time.monotonic() - began
    return (
        [rows[i].arch for i in np.flatnonzero(nondominated(minimised(objectives, values(objectives, rows))))],
        spent,
        seconds,
    )


def scored(job: Job, archs: Sequence[Arch]) -> dict[str, float]:
    """Hypervolume and best top-1 of archs on the test split."""
    objectives = job.config.objectives
    evaluator, space = trained_evaluator(job, job.run.begin("bench")), job.config.search_space

    def row(arch: Arch, top1: float) -> Measured:
        found = cost(space, arch, job.data.classes)
        return Measured(arch, top1, found.macs, found.params)

    ends = values(objectives, [row(space.smallest(), 0.0), row(space.largest(), 1.0)])
    reference = minimised(objectives, np.array(reference_point(objectives, ends)))
    rows = [row(arch, evaluator.top1(arch, job.test)) for arch in archs]
    points = minimised(objectives, values(objectives, rows))
    whole = share_of(objectives, reference)
    return {
        "hypervolume": float(hypervolume(points[nondominated(points)], reference)) / whole,
        "best": max(m.top1 for m in rows),
    }


def share_of(objectives: Sequence[Objective], reference_M: np.ndarray) -> float:
    """The hypervolume of a network with every image right and no cost."""
    ideal = np.array([[1.0 if o.direction == "maximize" else 0.0 for o in objectives]])
    return float(hypervolume(minimised(objectives, ideal), reference_M))


def kept(store: Path, pair: str, seed: int, name: str) -> Path:
    """The file with the result of a variant."""
    return store / f"{pair}-{name}-{seed}.json".replace(", ", "-").replace(" ", "-")


def study(pair: str, seed: int, options: argparse.Namespace) -> None:
    """All variants of a source and a seed; what is stored is not computed again."""
    wanted = [name for name in options.only if not kept(options.store, pair, seed, name).exists()]
    if not wanted:
        return
    config = warmed(pair, seed, options)
    for name in wanted:
        place = options.store / "variants" / kept(options.store, pair, seed, name).stem
        if not place.exists():
            shutil.copytree(options.store / config.id, place / config.id)
        with opened(config, str(place), Reporter("plain"), "") as job:
            archs, spent, seconds = front_of(job, name, VARIANTS[name], options.evaluations)
            row: dict[str, Any] = {"evaluations": spent, "device_seconds": round(seconds), "front": len(archs)}
            row |= scored(job, archs)
        kept(options.store, pair, seed, name).write_text(json.dumps(row, indent=1))


def table(pair: str, options: argparse.Namespace) -> str:
    """The rows of a source: mean (lowest to highest) over the seeds."""
    lines = [
        "| variant | test hypervolume, % | best test top-1, % | evaluations | device-seconds |", "|---|---|---|---|---|"
    ]  # fmt: skip
    for name in options.only:
        rows = [json.loads(kept(options.store, pair, seed, name).read_text()) for seed in options.seeds]
        cells = []
        for quantity in ("hypervolume", "best"):
            shares = [100 * row[quantity] for row in rows]
            cells.append(f"{statistics.mean(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})")
        spent, seconds = (statistics.mean(row[key] for row in rows) for key in ("evaluations", "device_seconds"))
        lines.append(f"| {name} | {' | '.join(cells)} | {spent:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True, type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--tiny-imagenet", type=Path, help="folder of Tiny ImageNet's; without it that source is left out")
    parser.add_argument("--store", default="runs/nat", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--evaluations", type=int, default=240, help="of sub-networks, in each variant")
    parser.add_argument("--epochs", type=int, default=6, help="of the source's training, and of the warm-up")
    parser.add_argument("--at-once", type=int, default=2, help="sources and seeds at once")
    options = parser.parse_args()
    for setting in filter(None, (VARIANTS[name] for name in options.only)):
        sized(setting, options.evaluations)
    options.store.mkdir(parents=True, exist_ok=True)
    pairs = [pair for pair in options.pairs if getattr(options, PAIRS[pair]) is not None]
    todo = [(seed, pair) for seed in options.seeds for pair in pairs]

    def finish(one: tuple[int, str]) -> None:
        seed, pair = one
        if len(todo) == 1:
            return study(pair, seed, options)
        command = [sys.executable, "-m", "bench.nat", "--cifar", str(options.cifar), "--store", str(options.store)]
        command += ["--tiny-imagenet", str(options.tiny_imagenet)] if options.tiny_imagenet else []
        command += ["--seeds", str(seed), "--pairs", pair, "--only", *options.only]
        command += ["--evaluations", str(options.evaluations), "--epochs", str(options.epochs)]
        with kept(options.store, pair, seed, "log").with_suffix(".log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
        return None

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(finish, todo))
    for pair in pairs:
        print(f"\nfrom {pair}: mean (lowest to highest) of {len(options.seeds)} seeds\n\n{table(pair, options)}")


if __name__ == "__main__":
    main()
