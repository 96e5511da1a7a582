"""Images a second in training: one gloo worker and two, with sub-networks of their own or shared; and the input pipeline.

    python -m bench.training_rate --data DIR

Workers have one thread each and the phases of configs/cifar10.toml. Goals: two workers at least 1.6 times as fast as
one, and the input pipeline at least 3 times as fast as training consumes. `apart` are two simultaneous trainings without
communication, which is the limit of the machine's processors. Medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as processes
from torch import Tensor

from cluster.progress import Reporter
from cluster.runtime.workers import Worker
from jobs.config import Experiment, load
from jobs.images.dataset import Dataset
from jobs.images.dataset import load as load_data
from jobs.images.source import open_source
from jobs.images.stored import StoredImages
from jobs.images.streaming import read_piece
from jobs.train import plan_of
from ofa.draws import Lesson
from ofa.images import torch_generator
from ofa.supernet import Supernet
from ofa.train import Learner, train_step

CONFIG = "configs/cifar10.toml"
WAYS = ((1, "own"), (2, "own"), (2, "shared"), (2, "apart"))
STEPS = 14  # timed steps of each measurement, after two of warm-up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sets = [f"data.source={options.data}", "train.batch=128"]
    config = load(CONFIG, sets)
    rates: dict[tuple[int, str, str], list[float]] = {}
    for _ in range(options.rounds):
        for world, draws in WAYS:
            for phase, rate in trained(sets, world, draws).items():
                rates.setdefault((world, draws, phase), []).append(rate)
    print("images/s of all workers, by phase\n")
    print("| phase | one worker | two, own archs | two, shared archs | two apart | own / one | shared / one | apart / one |")
    print(f"|{'---|' * 8}")
    fastest = 0.0
    for name in (phase.name for phase in config.phases):
        one, *two = (statistics.median(rates[(*way, name)]) for way in WAYS)
        print(f"| {name} | {' | '.join(f'{r:.0f}' for r in (one, *two))} | {' | '.join(f'{r / one:.2f}' for r in two)} |")
        fastest = max(fastest, one)
    for name, rate in inputs(config, options.rounds).items():
        print(
            f"\n{name}: {rate:.0f} images/s on one thread, {rate / fastest:.1f} times the consumption of the fastest phase"
        )


def trained(sets: list[str], world: int, draws: str) -> dict[str, float]:
    """Images a second of each phase with `world` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = processes.get_context("spawn")
    answers: Any = context.Queue()
    workers = [context.Process(target=work, args=(rank, world, port, sets, draws, answers)) for rank in range(world)]
    for worker in workers:
        worker.start()
    found: dict[str, float] = answers.get()
    for worker in workers:
        worker.join()
    return found


def work(rank: int, world: int, port: int, sets: list[str], draws: str, answers: Any) -> None:
    """Runs one worker. The scaling is weak: each worker has the images of one worker's part of a batch of two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    config = load(CONFIG, sets)
    me = Worker(rank, 1 if draws == "apart" else world, lambda event: None)
    net = Supernet(config.search_space, 10, torch.Generator().manual_seed(1))
    learner = Learner(net, plan_of(config, 10).recipe, me.average)
    side, count = config.search_space.resolutions[-1], config.train.batch // 2
    images = torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10
    found = {}
    for phase in config.phases:
        for step in range(STEPS + 2):
            if step == 2:
                torch.distributed.barrier()
                start = time.perf_counter()
            rng = random.Random(f"{step}" if draws == "shared" else f"{step}/{rank}")
            train_step(learner, untaught(phase.lessons(rng)), images, labels, None, 1e-6)
        torch.distributed.barrier()
        found[phase.name] = world * count * STEPS / (time.perf_counter() - start)
    if rank == 0:
        answers.put(found)
    torch.distributed.destroy_process_group()


def untaught(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons without a teacher, which would cost the same in every way of training."""
    return [replace(lesson, learns_from="labels", distil=0.0) for lesson in lessons]


def inputs(config: Experiment, rounds: int) -> dict[str, float]:
    """Images a second on one thread: augmented from memory; and read, decoded and cropped from Parquet."""
    torch.set_num_threads(1)
    data = load_data(config, Reporter("plain"))
    stored = open_source(config.data.source).only(config.data.classes, config.data.source).train
    assert isinstance(stored, StoredImages), config.data.source
    group = np.concatenate(stored.groups()[:4])
    read = partial(read_piece, stored, config.data, config.search_space.resolutions[-1], "bench")
    times: dict[str, list[float]] = {"augmented in memory": [], "read, decoded and cropped while streaming": []}
    for number in range(rounds):
        start = time.perf_counter()
        seen = augmented(data, config, number)
        times["augmented in memory"].append(seen / (time.perf_counter() - start))
        start = time.perf_counter()
        rows = read((number, group, 0))
        times["read, decoded and cropped while streaming"].append(len(rows["label"]) / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def augmented(data: Dataset, config: Experiment, seed: int) -> int:
    """Augments some dozens of batches; returns the number of images."""
    augment, count = data.augment(config.data), config.train.batch // 2
    total = 0
    for at in range(50):
        pixels: Tensor = data.train.pixels[at * count : (at + 1) * count]
        total += len(augment(pixels, data.scale, torch_generator(random.Random(f"{seed}/{at}"))))
    return total


if __name__ == "__main__":
    assert Path(CONFIG).exists(), "run it in the project's root"
    main()
