"""Export a sub-network as ONNX with preprocessing: the file takes an image of any size; leaves it in the run.

    ofa export configs/digits.toml --preprocess                the knee of the front
    ofa export configs/digits.toml --preprocess --arch NAME    any sub-network

`subnets/NAME-preprocess.json` has the agreement with the run's own preprocessing on images of odd sizes: enlarged ones of
the selection split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from cluster.errors import StepError
from cluster.seeds import stream
from jobs.export import export_as, for_images
from jobs.job import Job
from ofa.arch import Arch
from ofa.decode import resized
from ofa.evaluate import Evaluator
from ofa.export import Description, to_onnx, to_program
from ofa.extract import extract
from ofa.images import Split
from ofa.preprocessing import agreement, with_preprocessing

IMAGES = 64  # on which the file is compared
LEAST_SAME = 0.9  # share of them that must have the same class


def export_preprocessed(job: Job, arch: Arch | None) -> None:
    """Exports `arch`, or the knee of the front; a `StepError` if its classes are not those of the network."""

    def made(evaluator: Evaluator, chosen: Arch, name: str) -> tuple[bytes, dict[str, Any]]:
        side = chosen.resolution
        network = extract(evaluator.net, chosen, evaluator.statistics(chosen))
        description = for_images(job, Description.of(job.config.space, job.data.classes, chosen, evaluator.scale, side))
        decoding = description.decoding
        assert decoding is not None
        whole = with_preprocessing(to_onnx(to_program(network, side)), decoding, evaluator.scale, side)
        images = enlarged(job.data.selection[:IMAGES], stream(job.config.seed, f"export-{name}"))
        found = agreement(whole, network, decoding, evaluator.scale, side, images)
        if not found.same_class >= LEAST_SAME:
            raise StepError(
                f"export: {name}: ONNX Runtime gives {found.same_class:.0%} of {found.images} images the class of PyTorch, "
                f"at least {LEAST_SAME:.0%} are expected; install the onnx and onnxruntime of constraints.txt"
            )
        return whole, {**description.to_json(), "agreement": asdict(found)}

    where, described = export_as(job, arch, "preprocess", ".onnx", made)
    found = described["agreement"]
    job.reporter.say(
        f"export: {where}; {found['same_class']:.1%} of {found['images']} images of odd sizes have the class of the run's "
        f"own preprocessing, outputs differ by at most {found['difference']:.2g} of {found['of']:.2g}"
    )


def enlarged(split: Split, rng: random.Random) -> Iterator[np.ndarray]:
    """The images of a split, each enlarged to odd sides of up to three times its own: uint8 [H, W, 3]."""
    for pixels in split.pixels:
        side = pixels.shape[-1]
        width, height = (2 * rng.randrange(side // 2, 3 * side // 2) + 1 for _ in range(2))
        yield resized(pixels.permute(1, 2, 0).contiguous().numpy(), width, height)
