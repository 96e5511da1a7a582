"""The effect on accuracy of sampling sub-networks on each worker separately instead of the same on all, on the digits.

    python -m bench.draws --seeds 1 2 3

Two workers, configs/digits.toml; the mean test top-1 of the same random sub-networks and of the two extremes. For the
training speed of both see `python -m bench.training_rate`. Trained networks are kept in `--store`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

from jobs.config import load

CONFIG = "configs/digits.toml"
RANDOM_ARCHS = 20


def ofa(*arguments: str) -> str:
    """The output of an `ofa` command, which must succeed."""
    done = subprocess.run([sys.executable, "-m", "jobs", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def evaluated(store: Path, name: str, settings: list[str], archs: list[str]) -> dict[str, float]:
    """Test top-1 of the sub-networks by key; trains them first unless the result is stored."""
    kept = store / f"top1-{name}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    options = [CONFIG, "--store", str(store), *(part for setting in settings for part in ("--set", setting))]
    ofa("train", *options)
    rows = ofa("eval", *options, "--json", *(part for arch in archs for part in ("--arch", arch)))
    found = {row["key"]: row["top1"] for row in map(json.loads, rows.splitlines()) if "top1" in row}
    kept.write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs/draws", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    space, rng = load(CONFIG).search_space, random.Random("draws")
    several = [space.sample(rng).key for _ in range(RANDOM_ARCHS)]
    extremes = [space.smallest().key, space.largest().key]
    print("| draws | seed | smallest | largest | mean of random ones |\n|---|---|---|---|---|")
    for draws in ("own", "shared"):
        for seed in options.seeds:
            settings = [f"seed={seed}", f"train.draws={draws}"]
            found = evaluated(options.store, f"{draws}-{seed}", settings, [*extremes, *several])
            mean = statistics.mean(found[key] for key in several)
            print(f"| {draws} | {seed} | {found[extremes[0]]:.4f} | {found[extremes[1]]:.4f} | {mean:.4f} |", flush=True)


if __name__ == "__main__":
    main()
