"""Times evaluations of a space's largest network by their batch size, as evaluators do them."""

from __future__ import annotations

import torch

from jobs.workers.devices import name_of, usable
from jobs.workers.parts import SEED, untrained
from ofa.batches import LEAST, evaluation_times_ms, sizes
from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.space import Space
from ofa.threads import torch_threads
from ofa.timings import BatchTime, BatchTimes

GPU_MEMORY = 0.8  # of an evaluator's share of a GPU's memory


def batch_times(space: Space, classes: int, images: int, device: str, gpus: float) -> BatchTimes:
    """The times of evaluations of the space's largest network at its largest resolution, by batch size, on one CPU thread.

    The network has random weights and the images random pixels, which do not affect the times. images: of the largest split
    that is evaluated. gpus: of an evaluator; one with a share of a GPU uses that share of its memory at most.
    """
    usable(device, "measure.device")
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(GPU_MEMORY * (gpus if 0 < gpus < 1 else 1))
    net, arch = untrained(space, classes).to(device), space.largest()
    most, draws = sizes(net, arch, images)[-1], torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (most, 3, arch.resolution, arch.resolution), dtype=torch.uint8, generator=draws)
    split = Split(pixels, torch.zeros(most, dtype=torch.int64))
    with torch_threads(1):
        evaluator = Evaluator(net, Scale((0.5,) * 3, (0.25,) * 3), split[:LEAST], LEAST)
        found = evaluation_times_ms(evaluator, arch, split)
    rows = tuple(BatchTime(batch=batch, image_ms=took) for batch, took in found.items())
    return BatchTimes(device=name_of(device), arch=arch, rows=rows)
