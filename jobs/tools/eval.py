"""Evaluate any sub-networks of a trained supernet; leaves nothing.

    ofa eval configs/digits.toml --arch NAME --arch NAME --split test

Each gets batch-norm statistics of its own from training images first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ensemble.intervals import interval
from jobs.evaluators import trained_evaluator
from jobs.job import Job
from ofa.arch import Arch
from ofa.cost import cost


def evaluate(job: Job, archs: Sequence[Arch], split: str) -> Iterator[dict[str, Any]]:
    """The top-1 (a fraction) of each arch on `split` with its 95 % interval, its MACs and params."""
    space = job.config.search_space
    for arch in archs:
        space.checked(arch)
    evaluator = trained_evaluator(job, job.run.begin("eval"))
    images = job.test if split == "test" else job.data.splits[split]
    for arch in archs:
        macs, params = cost(space, arch, job.data.classes)
        top1 = evaluator.top1(arch, images)
        yield {
            "arch": arch.to_json(),
            "key": arch.key,
            "split": split,
            "images": len(images),
            "top1": top1,
            "interval": list(interval(round(top1 * len(images)), len(images))),
            "macs": macs,
            "params": params,
        }
