"""Forward and backward of a sub-network inside the supernet, against the same network extracted, and in contiguous layout.

    python -m bench.supernet_step

The first ratio is the cost of elasticity (goal: at most 1.10), the second the speed-up of the channels-last layout over
the contiguous one, which the published code uses (goal: at least 1.6), the third the time in bfloat16 over that in float32
(below 1: faster). Medians of alternating rounds, in one process, on torch's default number of threads; takes a few
minutes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.extract import extract
from ofa.spaces import get_space
from ofa.supernet import Supernet

CASES = (("ofa_mbv3_w1.0", 128, 16), ("ofa_mbv3_w1.0_64px", 64, 32))
HEAD = (
    "space", "pixels", "batch", "arch", "plain ms", "elastic ms", "elastic / plain", "contiguous / elastic",
    "bfloat16 / elastic",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--archs", type=int, default=3, help="random ones, beside the largest")
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name, pixels, batch in CASES:
        space, rng = get_space(name).only(resolutions=(pixels,)), random.Random(1)
        net = Supernet(space, 1000, torch.Generator().manual_seed(1)).train()
        images = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(2))
        labels = torch.arange(batch)
        flat, last = images.contiguous(), images.contiguous(memory_format=torch.channels_last)
        archs = {"largest": space.largest()} | {f"random {i}": space.sample(rng) for i in range(arguments.archs)}
        for label, arch in archs.items():
            plain = extract(net, arch).train()
            steps = (
                partial(step, plain, (last,), labels),
                partial(step, net, (last, arch), labels),
                partial(step, net, (flat, arch), labels),
                partial(step_bfloat16, net, (last, arch), labels),
            )
            plain_s, elastic_s, flat_s, bfloat16_s = medians(steps, arguments.rounds)
            cells = [
                f"{plain_s * 1e3:.0f}",
                f"{elastic_s * 1e3:.0f}",
                f"{elastic_s / plain_s:.2f}",
                f"{flat_s / elastic_s:.2f}",
                f"{bfloat16_s / elastic_s:.2f}",
            ]
            print(f"| {' | '.join([name, str(pixels), str(batch), label, *cells])} |", flush=True)


def step(network: nn.Module, inputs: tuple[Any, ...], labels: Tensor) -> None:
    """Computes one forward and backward pass, without an update."""
    network.zero_grad()
    F.cross_entropy(network(*inputs), labels).backward()


def step_bfloat16(network: nn.Module, inputs: tuple[Any, ...], labels: Tensor) -> None:
    """Computes the same with the forward pass under autocast."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*inputs)
    F.cross_entropy(logits.float(), labels).backward()


def medians(steps: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds of each step, in alternating rounds after two rounds of warm-up."""
    seconds: list[list[float]] = [[] for _ in steps]
    for done in range(rounds + 2):
        for taken, one in zip(seconds, steps, strict=True):
            started = time.perf_counter()
            one()
            if done >= 2:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


if __name__ == "__main__":
    main()
