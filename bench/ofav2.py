"""What early exits, dense skips, parallel blocks, extracted teachers and ENS-KD bring on CIFAR-10 (OFAv2, arXiv:2302.01888).

    python -m bench.ofav2 --data DIR --seeds 1 2 3

Every training makes equally many updates of equal batches, in the phases full, kernel, level, height, depth and width; a
phase whose choice a space lacks goes on with those that are open. After every phase, sub-networks with one value for each
kind of choice are evaluated at the largest resolution; printed is the test top-1 of the one that is the best on 2,000 images
of the selection split. (The paper's table has the best on the test split itself.) Trained networks and results are kept in
`--store`: the same command continues from them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch

from bench.gpu import constants
from cluster.progress import Reporter
from cluster.run import Run
from jobs import files
from jobs.config import Experiment, load
from jobs.images.dataset import Dataset
from jobs.images.dataset import load as load_images
from jobs.workers.trainer import net_tensors
from ofa.supernet import Supernet

CONFIG = "configs/cifar10_ofav2.toml"
HELD_OUT = 35_000  # of the training images; the rest is small enough for two cores
JUDGED = 2_000  # images of the selection split on which the best sub-network is chosen
EPOCHS = (
    ("full", 4, 0.1),
    ("kernel", 2, 0.04),
    ("level", 2, 0.04),
    ("height", 2, 0.04),
    ("depth", 2, 0.04),
    ("width", 3, 0.06),
)
OPENS = {"kernel": "kernels", "level": "levels", "height": "exits", "depth": "depths", "width": "expands"}
# By name: the variant of the space, the phase whose largest network is the teacher, and the weights of its exits.
TRAININGS = {
    "base": ("se_b", "first", "last"),
    "base, extracted teacher": ("se_b", "previous", "last"),
    "exits": ("ee_b", "first", "ascending"),
    "exits, extracted teacher": ("ee_b", "previous", "ascending"),
    "exits and dense": ("ee_d", "first", "ascending"),
    "exits and dense, extracted teacher": ("ee_d", "previous", "ascending"),
    "exits, dense, parallel": ("ee_dp", "first", "ascending"),
    "exits, dense, parallel, extracted teacher": ("ee_dp", "previous", "ascending"),
    "parallel": ("se_p", "first", "last"),
    "parallel, normalised sums": ("se_p_norm", "first", "last"),
    "exits and dense, plain distillation": ("ee_d", "first", "last"),
    "exits and dense, plain distillation, extracted teacher": ("ee_d", "previous", "last"),
}


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
        f"train.phases=[{','.join(phases)}]",
    ]


def judged(config: Experiment, run: Run, data: Dataset) -> Iterator[tuple[str, dict[str, object]]]:
    """For each phase the sub-network that is the best on the selection split, with its top-1 there and on the test split."""
    net = Supernet(config.search_space, data.classes)
    for phase in config.phases:
        net.load_state_dict(net_tensors(safetensors.torch.load(run.raw(files.supernet(phase.name).key))))
        evaluator = data.evaluator(net, config.measure.calibration_images, config.measure.batch)
        found = {arch: evaluator.top1(arch, data.selection[:JUDGED]) for arch in constants(phase.space)}
        best = max(found, key=lambda arch: found[arch])
        row = {"arch": best.key, "exit": best.exit, "top1": found[best], "test_top1": evaluator.top1(best, data.test)}
        yield phase.name, row


def trained(name: str, seed: int, data: str, store: Path, epochs: int) -> dict[str, dict[str, object]]:
    """The best sub-network after every phase of a training; trains first unless the result is stored."""
    kept = store / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    settings = settings_of(name, seed, data, epochs)
    options = [CONFIG, "--store", str(store), *(part for setting in settings for part in ("--set", setting))]
    subprocess.run([sys.executable, "-m", "jobs", "train", *options], check=True)
    config = load(CONFIG, settings)
    found = dict(judged(config, Run.at(str(store), config.id, code=""), load_images(config, Reporter("plain"))))
    kept.write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--store", default="runs/ofav2", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS), default=list(TRAININGS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=1, help="factor of the epochs of every phase")
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, dict[str, object]]]] = {}
    for seed in options.seeds:
        for name in options.only:
            rows.setdefault(name, []).append(trained(name, seed, options.data, options.store, options.epochs))
            last = rows[name][-1]["width"]
            print(f"seed {seed}, {name}: test top-1 {last['test_top1']:.4f} at exit {last['exit']}", flush=True)
    print(f"\nbest sub-network after each phase, test top-1 in %, mean (lowest to highest) of {len(options.seeds)} seeds\n")
    names = [name for name, *_ in EPOCHS]
    print(f"| training | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for name, found in rows.items():
        cells = []
        for phase in names:
            top1 = [100 * float(str(one[phase]["test_top1"])) for one in found]
            cells.append(f"{statistics.mean(top1):.1f} ({min(top1):.1f} to {max(top1):.1f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
