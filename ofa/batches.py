"""The time of an evaluation for one image, by the number of images that are evaluated at a time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.images import Split
from ofa.memory import BYTES, peak_bytes
from ofa.supernet import Supernet

LEAST, MOST = 32, 4096  # images at a time
ROUNDS = 5  # timed evaluations of each size
WORSE = 2  # sizes in a row that are not faster than a smaller one, after which no larger one is tried
HOST_BYTES = 2**30  # of a batch of images in the process, and on a CPU of their activations


def sizes(net: Supernet, arch: Arch, images: int) -> list[int]:
    """The powers of two that are tried for `arch` on splits of at most so many images: `LEAST`, and more up to `MOST`.

    On a CPU those whose activations stay within `HOST_BYTES`; what fits a GPU's memory is found by trying.
    """
    side = arch.resolution
    image_bytes = 3 * side**2 * BYTES
    if net.device.type == "cpu":
        image_bytes = max(image_bytes, peak_bytes(net.graph(arch), side))
    most = min(MOST, images, HOST_BYTES // image_bytes)
    found = [LEAST]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found


def evaluation_times_ms(evaluator: Evaluator, arch: Arch, images: Split) -> dict[int, float]:
    """The median milliseconds for one image of an evaluation of `arch` on so many of `images` at a time.

    What is timed is all of an evaluation but the calibration: scaling, the copy to the device, resizing, the network.
    """

    def evaluate(size: int) -> None:
        replace(evaluator, batch=size).logits(arch, images[:size])

    return times_ms(evaluate, sizes(evaluator.net, arch, len(images)))


def times_ms(
    evaluate: Callable[[int], object], sizes: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """The median milliseconds for one image of `evaluate(images)`, for each of the ascending sizes that is tried.

    A size is tried once untimed and once timed; none is after the first that is out of memory, or after `WORSE` in a row
    that are not faster. Then those that were tried are timed in turns, so that a temporary slowdown affects all alike.
    Raises the `torch.OutOfMemoryError` of the first size. clock: seconds.
    """
    found: dict[int, list[float]] = {}
    best, worse = math.inf, 0

    def image_ms(size: int) -> float:
        start = clock()
        evaluate(size)
        return (clock() - start) * 1e3 / size

    for size in sizes:
        try:
            evaluate(size)
            found[size] = [image_ms(size)]
        except torch.OutOfMemoryError:
            found.pop(size, None)
            if not found:
                raise
            break
        [took] = found[size]
        best, worse = (took, 0) if took < best else (best, worse + 1)
        if worse == WORSE:
            break
    for _ in range(ROUNDS - 1):
        for size, times in found.items():
            times.append(image_ms(size))
    return {size: statistics.median(times) for size, times in found.items()}
