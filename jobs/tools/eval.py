"""Evaluate any sub-networks of a trained supernet; leaves nothing.

    ofa eval configs/digits.toml --arch NAME --arch NAME --split test
    ofa eval configs/digits.toml --finetuned NAME --split test

Each gets batch-norm statistics of its own from training images first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cluster.errors import InputError
from cluster.run import Step
from ensemble.intervals import interval
from jobs.evaluators import trained_evaluator
from jobs.job import Job
from jobs.tools import postprocess
from ofa.arch import Arch
from ofa.cost import cost
from ofa.images import Split


def evaluate(job: Job, archs: Sequence[Arch], split: str) -> Iterator[dict[str, Any]]:
    """The top-1 (a fraction) of each arch on `split` with its 95 % interval, its MACs and params."""
    space = job.config.search_space
    for arch in archs:
        space.checked(arch)
    if not archs:
        return
    evaluator = trained_evaluator(job, Step(job.run, "eval"))
    images = job.test if split == "test" else job.data.splits[split]
    for arch in archs:
        yield row(arch, arch.key, split, images, evaluator.top1(arch, images), cost(space, arch, job.data.classes))


def evaluate_finetuned(job: Job, names: Sequence[str], split: str) -> Iterator[dict[str, Any]]:
    """The same of networks that were fine-tuned in two phases; an `InputError` for the split that they were trained on."""
    found = [postprocess.read(job, name) for name in names]
    if found and split != "test":
        raise InputError(f"ofa eval: a network that was fine-tuned in two phases was trained on the {split} split too; "
                         "its top-1 there before that is in result.json; use --split test")  # fmt: skip
    for one in found:
        top1 = postprocess.evaluator(job, one).top1(one.arch, job.test, one.tuning.weights[1])
        yield row(one.arch, one.name, split, job.test, top1, postprocess.costs(job, one))


def row(arch: Arch, key: str, split: str, images: Split, top1: float, costs: tuple[int, int]) -> dict[str, Any]:
    """The result of one network."""
    macs, params = costs
    return {
        "arch": arch.to_json(),
        "key": key,
        "split": split,
        "images": len(images),
        "top1": top1,
        "interval": list(interval(round(top1 * len(images)), len(images))),
        "macs": macs,
        "params": params,
    }
