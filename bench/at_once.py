"""Trainings of `bench.gpu` that run at once, a process each, since one waits more for Python than for the GPU."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu import FULL, TINY, Bench, Sizes

WAIT_S = 60  # for the other trainings' times


def train_all(bench: Bench, module: str, names: Collection[str], until: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Trains by every name until that time, in processes of `module`; returns all rows of the report, and failed names."""
    with tempfile.TemporaryDirectory() as plans:
        command = [sys.executable, "-m", module, "--data", bench.data, "--out", str(bench.report.path)]
        command += ["--device", str(bench.device), "--plans", plans, "--until", str(until)]
        command += ["--tiny"] if bench.sizes.tiny else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = {name: subprocess.Popen([*command, "--name", name], env=environment) for name in names}
        failed = [name for name, process in running.items() if process.wait()]
    return [json.loads(line) for line in bench.report.path.read_text(encoding="utf-8").splitlines()], failed


def options_of(
    description: str | None, names: Collection[str], argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Sizes]:
    """The options of a process that `train_all` started (name, data, out, device, plans, until), and its sizes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, choices=names)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--plans", required=True, type=Path)
    parser.add_argument("--until", required=True, type=float, help="of the monotonic clock")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    return options, TINY if options.tiny else FULL


def agreed(plans: Path, name: str, count: int, scale: float) -> float:
    """The smallest of the trainings' factors of the epochs; those that are not there in time do not count."""
    new = plans / f"{name}.new"
    new.write_text(json.dumps(scale))
    new.rename(plans / f"{name}.json")
    end = time.monotonic() + WAIT_S
    while len(list(plans.glob("*.json"))) < count and time.monotonic() < end:
        time.sleep(0.1)
    return min(json.loads(file.read_text()) for file in plans.glob("*.json"))
