"""The gain of progressive shrinking on CIFAR-10 over the same space without it and over networks trained alone.

    python -m bench.progressive_shrinking --data DIR --seeds 1 2 3

Every training makes equally many updates of equal batches: the phases of configs/cifar10.toml together; one phase with
the whole space open from the start; and the smallest and a middle sub-network alone, at the largest resolution.
All are evaluated on the test split. Trained networks are kept in `--store`: the same command continues from them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from jobs.config import load
from ofa.arch import Arch

CONFIG = "configs/cifar10.toml"
RANDOM_ARCHS = 10


def variants(path: str) -> dict[str, tuple[list[str], list[str]]]:
    """For each training its settings, and the keys of the sub-networks that are evaluated."""
    config = load(path)
    space, epochs = config.search_space, sum(phase.epochs for phase in config.train.phases)
    lr = config.train.phases[0].lr
    one = f'train.phases=[{{name="alone",epochs={epochs},lr={lr}}}]'
    side = space.resolutions[-1]
    smallest = replace(space.smallest(), resolution=side)
    kernels, expands = space.values("kernel"), space.values("expand")
    middle = space.uniform(side, max(space.values("depth")), kernels[len(kernels) // 2], expands[len(expands) // 2])
    rng = random.Random("progressive shrinking")
    several = [space.sample(rng) for _ in range(RANDOM_ARCHS)]
    names = [arch.key for arch in (smallest, middle, space.largest(), *several)]

    def alone(arch: Arch) -> tuple[list[str], list[str]]:
        choices = {"resolutions": side, "depths": arch.depth[0], "kernels": arch.kernel[0], "expands": int(arch.expand[0])}
        return [one, *(f"choices.{name}=[{value}]" for name, value in choices.items())], [arch.key]

    return {
        "shrinking": ([], names),
        "whole space at once": ([one], names),
        "smallest alone": alone(smallest),
        "middle alone": alone(middle),
    }


def ofa(*arguments: str) -> str:
    """The output of an `ofa` command, which must succeed."""
    done = subprocess.run([sys.executable, "-m", "jobs", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def evaluated(config: str, store: Path, name: str, settings: list[str], archs: list[str]) -> dict[str, float]:
    """Test top-1 of the sub-networks by key; trains them first unless the result is stored."""
    kept = store / f"top1-{name}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    options = [config, "--store", str(store), *(part for setting in settings for part in ("--set", setting))]
    ofa("train", *options)
    rows = ofa("eval", *options, "--json", *(part for arch in archs for part in ("--arch", arch)))
    found = {row["key"]: row["top1"] for row in map(json.loads, rows.splitlines()) if "top1" in row}
    kept.write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--store", default="runs/progressive-shrinking", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    every = variants(CONFIG)
    smallest, middle, largest, *several = every["shrinking"][1]
    rows: dict[str, dict[str, list[float]]] = {}
    for name, (settings, archs) in every.items():
        for seed in options.seeds:
            wanted = [f"data.source={options.data}", f"seed={seed}", *settings]
            found = evaluated(CONFIG, options.store, f"{name.replace(' ', '-')}-{seed}", wanted, archs)
            row = rows.setdefault(name, {})
            for label, key in (("smallest", smallest), ("middle", middle), ("largest", largest)):
                if key in found:
                    row.setdefault(label, []).append(found[key])
            if several[0] in found:
                row.setdefault(f"mean of {len(several)}", []).append(statistics.mean(found[key] for key in several))
            print(f"seed {seed}, {name}: { ({label: round(values[-1], 4) for label, values in row.items()}) }", flush=True)
    print(f"\ntest top-1, mean over {len(options.seeds)} seeds (lowest to highest)")
    for name, row in rows.items():
        cells = [f"{label} {statistics.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for label, v in row.items()]
        print(f"{name:20}  {'  '.join(cells)}")


if __name__ == "__main__":
    main()
