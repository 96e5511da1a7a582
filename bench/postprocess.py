"""What post-processing brings on CIFAR-10: networks of an OFAv2 supernet fine-tuned in two phases (NATv2, arXiv:2307.00960).

    python -m bench.postprocess --data DIR --seeds 1 2 3

For every seed a supernet with early exits and dense skips is trained as in `bench.ofav2`. Of the sub-networks with one value
for each kind of choice, the best on 2,000 images of the selection split is chosen for each of some exits. Each is fine-tuned
in two phases with its own exit alone, and with all exits up to it, trained together and added up (AEP, arXiv:2301.12168)
with each scheme of weights. Printed is the gain in test top-1 over the same network with the supernet's weights, whose exits
are neither trained further nor added up. Seeds take turns, `--at-once` of them in processes of one thread each; trained
networks and results are kept in `--store`: the same command continues from them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.ofav2 import CONFIG, JUDGED, settings_of, shards
from bench.ofav2_gpu import constants
from cluster.progress import Reporter
from jobs.config import load
from jobs.evaluators import trained_evaluator
from jobs.job import Job, opened
from jobs.pipeline import run_steps
from jobs.tools import postprocess
from jobs.tools.postprocess import Tuning
from ofa.arch import Arch

SUPERNET = "exits and dense, extracted teacher"  # of `bench.ofav2.TRAININGS`
EXITS = (3, 4, 5)  # the last exits of the chosen networks, if none are asked for
# By name: the optimiser, and the weights of exits; None is a network's own exit alone.
METHODS: dict[str, tuple[str, str | None]] = {
    "own exit, SGD": ("sgd", None),
    "own exit": ("adamw", None),
    "UNIF": ("adamw", "UNIF"),
    "ASC": ("adamw", "ASC"),
    "DESC": ("adamw", "DESC"),
    "MIX": ("adamw", "MIX"),
}


def chosen(job: Job, exits: Sequence[int]) -> dict[Arch, float]:
    """For each of the last exits the best constant sub-network on the selection split, with its test top-1."""
    evaluator = trained_evaluator(job, job.run.begin("bench"))
    judges = job.data.selection[:JUDGED]
    archs: list[Arch] = constants(job.config.search_space)
    best = [
        max((arch for arch in archs if arch.exit == last), key=lambda arch: evaluator.top1(arch, judges)) for last in exits
    ]
    return {arch: evaluator.top1(arch, job.test) for arch in best}


def result(job: Job, arch: Arch, tuning: Tuning) -> dict[str, Any]:
    """A fine-tuning's test top-1, with what it took."""
    began = time.monotonic()
    [found] = postprocess.fine_tune(job, [arch], tuning)
    top1 = postprocess.evaluator(job, found).top1(arch, job.test, tuning.weights[1])
    return {
        "arch": arch.key,
        "exit": arch.exit,
        "test_top1": top1,
        "selection_before": found.before,
        "selection_after": found.top1,
        "epochs": found.epochs,
        "seconds": round(time.monotonic() - began),
    }


def kept(store: Path, seed: int) -> Path:
    """The file with the results of a seed."""
    return store / f"postprocess-{seed}.json"


def study(seed: int, data: Path, store: Path, options: argparse.Namespace) -> None:
    """Trains, fine-tunes and stores the results of a seed; what is stored is not computed again."""
    torch.set_num_threads(1)
    settings = [*settings_of(SUPERNET, seed, str(data), options.supernet_epochs), *options.sets]
    config = load(CONFIG, list({setting.partition("=")[0]: setting for setting in settings}.values()))
    file = kept(store, seed)
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    with opened(config, str(store), Reporter("plain"), "") as job:
        run_steps(job, ["train"])
        for arch, before in chosen(job, options.exits).items():
            for name in options.methods:
                optimizer, exits = METHODS[name]
                if any((row["method"], row["exit"]) == (name, arch.exit) for row in rows):
                    continue
                tuning = Tuning(optimizer=optimizer, exits=exits, epochs=options.epochs, patience=options.patience,
                                lr=options.lr)  # fmt: skip
                rows.append({"method": name, "before": before, **result(job, arch, tuning)})
                file.write_text(json.dumps(rows, indent=1))


def table(rows: list[dict[str, Any]], exits: Sequence[int], methods: Sequence[str]) -> str:
    """The gain of every method in points: the mean over networks and seeds, and the lowest and highest."""
    rows = [row for row in rows if row["exit"] in exits]
    lines = [f"| method | {' | '.join(f'exit {last}' for last in exits)} | all | epochs |", "|---" * (len(exits) + 3) + "|"]
    for name in methods:
        mine = [row for row in rows if row["method"] == name]
        cells = []
        for part in (*([row for row in mine if row["exit"] == last] for last in exits), mine):
            gains = [100 * (row["test_top1"] - row["before"]) for row in part]
            cells.append(f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})")
        epochs = [row["epochs"] for row in mine]
        lines.append(f"| {name} | {' | '.join(cells)} | {min(epochs)} to {max(epochs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--store", default="runs/postprocess", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--supernet-epochs", type=int, default=1, help="factor of the epochs of every phase of the supernet")
    parser.add_argument("--epochs", type=int, default=12, help="of phase 1 at most; published: 150")
    parser.add_argument("--patience", type=int, default=4, help="epochs; published: 30")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate; published, for longer trainings: 1e-4")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="a setting of the supernet"
    )
    parser.add_argument("--exits", type=int, nargs="+", choices=[1, 2, 3, 4, 5], default=list(EXITS), metavar="N",
                        help="last exits of the networks")  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--at-once", type=int, default=2, help="seeds at once")
    options = parser.parse_args()
    store: Path = options.store
    store.mkdir(parents=True, exist_ok=True)
    data = shards(options.data, store)
    if len(options.seeds) == 1:
        study(options.seeds[0], data, store, options)
    else:
        passed = ["--supernet-epochs", "--epochs", "--patience", "--lr"]
        values = [options.supernet_epochs, options.epochs, options.patience, options.lr]
        same = [str(word) for pair in zip(passed, values, strict=True) for word in pair]
        same += ["--exits", *map(str, options.exits), "--methods", *options.methods]
        same += [word for setting in options.sets for word in ("--set", setting)]

        def finish(seed: int) -> None:
            command = [sys.executable, "-m", "bench.postprocess", "--data", str(options.data), "--store", str(store)]
            with kept(store, seed).with_suffix(".log").open("a") as log:
                subprocess.run([*command, "--seeds", str(seed), *same], check=True, stdout=log, stderr=log)

        with ThreadPoolExecutor(options.at_once) as threads:
            list(threads.map(finish, options.seeds))
    rows = [row for seed in options.seeds for row in json.loads(kept(store, seed).read_text())]
    print(f"\ngain in test top-1, points, mean (lowest to highest) of {len(options.seeds)} seeds\n")
    print(table(rows, options.exits, options.methods))


if __name__ == "__main__":
    main()
