"""What early exits, dense skips, parallel blocks, extracted teachers and ENS-KD bring on CIFAR-10 (OFAv2, arXiv:2302.01888).

    python -m bench.ofav2 --data DIR --seeds 1 2 3

Every training makes equally many updates of equal batches, in the phases full, kernel, level, height, depth and width; a
phase whose choice a space lacks goes on with those that are open. After every phase, sub-networks with one value for each
kind of choice are evaluated at the largest resolution; printed is the test top-1 of the one that is the best on 2,000 images
of the selection split. (The paper's table has the best on the test split itself.) Trainings take turns by seed, `--at-once`
of them in processes of one thread each. Trained networks and results are kept in `--store`: the same command continues from
them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors.torch
import torch

from bench.ofav2_gpu import TRAININGS, constants
from cluster.progress import Reporter
from cluster.run import Run
from jobs import files
from jobs.config import Experiment, load
from jobs.images.dataset import Dataset
from jobs.images.dataset import load as load_images
from jobs.workers.trainer import net_tensors
from ofa.images import Split
from ofa.supernet import Supernet

CONFIG = "configs/cifar10_ofav2.toml"
SHARDS = 2  # of the five of CIFAR-10's training images, so 20,000
HELD_OUT = 5_000  # of these; 15,000 are few enough for two cores
JUDGED = 2_000  # images of the selection split on which the best sub-network is chosen
EPOCHS = (
    ("full", 3, 0.1),
    ("kernel", 1, 0.04),
    ("level", 1, 0.04),
    ("height", 2, 0.04),
    ("depth", 1, 0.04),
    ("width", 2, 0.06),
)
OPENS = {"kernel": "kernels", "level": "levels", "height": "exits", "depth": "depths", "width": "expands"}


def settings_of(name: str, seed: int, data: str, epochs: int = 1) -> list[str]:
    """The settings of a training; epochs: a factor of every phase's."""
    variant, teacher, weights = TRAININGS[name]
    space = f"ofav2_mbv3_{variant.removesuffix('_norm')}_w0.25_32px{'_norm' if variant.endswith('_norm') else ''}"
    largest = {"kernels": 7, "expands": 6, "depths": 3}
    if "p" in variant:
        largest["levels"] = 7
    if "ee" in variant:
        largest["exits"] = 5
    phases = []
    for phase, count, lr in EPOCHS:
        largest.pop(OPENS.get(phase, ""), None)
        fixed = "".join(f",{choice}=[{value}]" for choice, value in largest.items())
        learns = f',distil=1.0,teacher="{teacher}",warmup_epochs=0.1'
        if phase == "full":
            learns = ',joint_exits="ascending"' if "ee" in variant else ""
        phases.append(f'{{name="{phase}",epochs={count * epochs},lr={lr}{fixed}{learns}}}')
    return [
        f"space={space}",
        f"seed={seed}",
        f"data.source={data}",
        f"data.selection={HELD_OUT}",
        f"train.teacher_exits={weights}",
        "train.validate_every=100",
        "train.backend=local",
        "train.workers=1",
        f"train.phases=[{','.join(phases)}]",
    ]


def judged(config: Experiment, run: Run, data: Dataset, test: Split) -> Iterator[tuple[str, dict[str, object]]]:
    """For each phase the sub-network that is the best on the selection split, with its top-1 there and on the test split."""
    net = Supernet(config.search_space, data.classes)
    for phase in config.phases:
        net.load_state_dict(net_tensors(safetensors.torch.load(run.raw(files.supernet(phase.name).key))))
        setting = config.measure
        evaluator = data.evaluator(net, setting.calibration_images, setting.fixed_batch, setting.norm_batch)
        found = {arch: evaluator.top1(arch, data.selection[:JUDGED]) for arch in constants(phase.space)}
        best = max(found, key=lambda arch: found[arch])
        row = {"arch": best.key, "exit": best.exit, "top1": found[best], "test_top1": evaluator.top1(best, test)}
        yield phase.name, row


def kept(store: Path, name: str, seed: int) -> Path:
    """The file with the result of a training."""
    return store / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"


def shards(data: Path, store: Path) -> Path:
    """A folder with links to the first shards of the training images, and to the test images."""
    folder = store / "images"
    folder.mkdir(exist_ok=True)
    for file in (*sorted(data.glob("train-*.parquet"))[:SHARDS], *data.glob("test-*.parquet")):
        link = folder / file.name
        if not link.is_symlink():
            link.symlink_to(file.resolve())
    return folder


def train(name: str, seed: int, data: Path, store: Path, epochs: int) -> None:
    """Trains, evaluates and stores the result; what is stored is not computed again."""
    torch.set_num_threads(1)
    settings = settings_of(name, seed, str(data), epochs)
    options = [CONFIG, "--store", str(store), *(part for setting in settings for part in ("--set", setting))]
    subprocess.run([sys.executable, "-m", "jobs", "train", *options], check=True)
    config = load(CONFIG, settings)
    reporter = Reporter("plain")
    images = load_images(config, reporter)
    assert images.held_out is not None
    found = dict(judged(config, Run.at(str(store), config.id, code=""), images, images.held_out.open(reporter)))
    kept(store, name, seed).write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--store", default="runs/ofav2", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS), default=list(TRAININGS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=1, help="factor of the epochs of every phase")
    parser.add_argument("--at-once", type=int, default=2, help="trainings at once")
    options = parser.parse_args()
    store: Path = options.store
    store.mkdir(parents=True, exist_ok=True)
    data = shards(options.data, store)
    todo = [(seed, name) for seed in options.seeds for name in options.only]

    def finish(one: tuple[int, str]) -> None:
        seed, name = one
        result = kept(store, name, seed)
        if not result.exists() and len(todo) == 1:
            train(name, seed, data, store, options.epochs)
        elif not result.exists():
            command = [sys.executable, "-m", "bench.ofav2", "--data", str(options.data), "--store", str(store)]
            command += ["--only", name, "--seeds", str(seed), "--epochs", str(options.epochs)]
            with result.with_suffix(".log").open("a") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log)
        last = json.loads(result.read_text())["width"]
        print(f"seed {seed}, {name}: test top-1 {last['test_top1']:.4f} at exit {last['exit']}", flush=True)

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(finish, todo))
    print(f"\nbest sub-network after each phase, test top-1 in %, mean (lowest to highest) of {len(options.seeds)} seeds\n")
    names = [name for name, *_ in EPOCHS]
    print(f"| training | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for name in options.only:
        found = [json.loads(kept(store, name, seed).read_text()) for seed in options.seeds]
        cells = []
        for phase in names:
            top1 = [100 * one[phase]["test_top1"] for one in found]
            cells.append(f"{statistics.mean(top1):.1f} ({min(top1):.1f} to {max(top1):.1f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
