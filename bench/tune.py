"""`ofa tune`, killed once and resumed, and the settings that it finds against the config's own.

    python -m bench.tune configs/digits.toml --store DIR --trials 20 --epochs 6 --longer 16 --seeds 2 3

The command is killed (SIGKILL, with its Ray) when half of the trials have ended, and started again. Then both configs train
with other seeds, which also divide the images differently, for longer than a trial: the best of many trials on one selection
split is optimistic about itself, and this is not. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from cluster.config import dump
from cluster.progress import Reporter
from cluster.run import Run
from jobs import files
from jobs.config import Experiment, Tune, load
from jobs.images.dataset import load as load_data
from jobs.tools.tune import run_trial
from jobs.trials import Trials, shown
from jobs.workers.trainer import Place

RESTARTS = 6
OBJECTIVES: Final = ("top1", "largest", "smallest")


def ended(folder: Path) -> dict[int, str]:
    """The trials in the ledger of an unfinished search, by number."""
    lines = [line for part in sorted(folder.glob("partial/tune/*.jsonl")) for line in part.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    return {row["ends"]["trial"]: json.dumps(row["ends"]) for row in rows if "ends" in row}


def killed_and_resumed(config: Path, store: Path, sets: list[str], folder: Path, half: int) -> tuple[dict[int, str], float]:
    """Runs `ofa tune` until it is done, killed once before if it has not begun; the trials before the kill, and seconds."""
    out = store / "tuned.toml"
    command = [sys.executable, "-m", "jobs", "tune", str(config), "--store", str(store), "--out", str(out), *sets]
    start, before = time.monotonic(), dict[int, str]()
    if not folder.exists():
        process = subprocess.Popen(command, start_new_session=True)
        while len(before) < half and process.poll() is None:
            time.sleep(0.2)
            before = ended(folder)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed after {len(before)} trials, {time.monotonic() - start:.0f} s", flush=True)
        (store / "before.json").write_text(json.dumps(before))
    for _ in range(RESTARTS):  # Ray may not start on a busy machine, and the command says to repeat it
        if not (code := subprocess.run(command, check=False).returncode):
            break
    assert code == 0, f"ofa tune ended with {code}"
    before = {int(number): record for number, record in json.loads((store / "before.json").read_text()).items()}
    return before, time.monotonic() - start


def trained(config: Experiment, seed: int, epochs: int, store: Path, name: str) -> dict[str, float]:
    """The results of a config's training with another seed, in `epochs` epochs; read from the store if it was done."""
    record = store / f"{name}-{seed}-{epochs}.json"
    if record.exists():
        found: dict[str, float] = json.loads(record.read_text())
        return found
    config = replace(config, seed=seed, tune=Tune(epochs=epochs, objectives=OBJECTIVES))
    run = Run.open(str(store), f"{name}-{seed}-{epochs}", dump(config), "bench")
    run.begin("tune")
    place = Place(run.store.url, run.id, run.code, files.TUNING, checkpoint_s=config.train.checkpoint_s)
    results: list[dict[str, float]] = []
    run_trial(config, place, 0, {}, load_data(config, Reporter("plain")).arrays(),
              lambda epoch, compared, values: results.append(dict(values)) if values else None)  # fmt: skip
    record.write_text(json.dumps(results[-1]))
    return results[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--longer", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="*", default=[2, 3])
    asked = parser.parse_args()
    settings = [f"tune.trials={asked.trials}", f"tune.epochs={asked.epochs}"]
    config = load(str(asked.config), settings)
    folder = asked.store / config.id
    sets = [part for setting in settings for part in ("--set", setting)]
    before, seconds = killed_and_resumed(asked.config, asked.store, sets, folder, asked.trials // 2)
    found = Trials.from_bytes((folder / files.TRIALS.key).read_bytes(), files.TRIALS.key)
    again = {trial.trial: json.dumps(trial.to_json()) for trial in found.trials}
    assert all(again[number] == record for number, record in before.items()), "a trial that had ended ran again"
    best, states = found.best_trial, [trial.state for trial in found.trials]
    epochs = sum(len(trial.compared) for trial in found.trials)
    print(f"{len(states)} trials: {states.count('complete')} complete, {states.count('stopped')} stopped, "
          f"{states.count('diverged')} diverged; {epochs} epochs, {seconds:.0f} s")  # fmt: skip
    print(f"top-1 of a trial: the config {found.trials[0].values['top1']:.4f}, trial {best.trial} {best.values['top1']:.4f} "
          f"({shown(best.settings, found.relative)})")  # fmt: skip
    tuned = load(str(asked.store / "tuned.toml"))
    for seed in asked.seeds:
        rows = {name: trained(one, seed, asked.longer, asked.store / "longer", name)
                for name, one in (("config", replace(config, tune=Tune())), ("tuned", tuned))}  # fmt: skip
        cells = [f"{name} {rows['config'][name]:.4f} -> {rows['tuned'][name]:.4f}" for name in OBJECTIVES]
        print(f"seed {seed}, {asked.longer} epochs: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
