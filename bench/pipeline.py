"""`ofa run configs/digits.toml` for several seeds: its time, its memory, and its results.

    python -m bench.pipeline --seeds 1 2 3

Takes about four minutes for each seed on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.watch import watched

HEAD = ("seed", "seconds", "peak GiB", "front", "MACs span", "single: test", "ensemble: test", "95 % interval", "members")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits.toml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(row(arguments.config, seed, folder))} |", flush=True)


def row(config: str, seed: int, folder: str) -> list[str]:
    """The cells of one seed's row."""
    command = [str(Path(sys.executable).parent / "ofa"), "run", config, "--store", folder, "--set", f"seed={seed}"]
    done = watched(command)
    if done.returncode:
        raise SystemExit(done.output)
    run = next(Path(folder).glob("*/config.toml")).parent
    members = json.loads((run / "front.json").read_text())["members"]
    found = json.loads((run / "ensembles.json").read_text())
    single, ensemble = max(found["singles"], key=lambda one: one["top1"]), found["members"][-1]
    macs = [member["macs"] for member in members]
    low, high = ensemble["test_interval"]
    return [
        str(seed),
        f"{done.seconds:.0f}",
        f"{done.peak_bytes / 2**30:.2f}",
        str(len(members)),
        f"{max(macs) / min(macs):.1f}",
        f"{single['test_top1']:.4f}",
        f"{ensemble['test_top1']:.4f}",
        f"{low:.4f} to {high:.4f}",
        str(len(ensemble["members"])),
    ]


if __name__ == "__main__":
    main()
