"""Evaluate any sub-networks of a trained supernet; leaves nothing.

    ofa eval configs/digits.toml --arch NAME --arch NAME --split test
    ofa eval configs/digits.toml --finetuned NAME --split test

Each gets batch-norm statistics of its own from training images first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.run import Step
from ensemble.intervals import interval
from jobs.evaluators import trained_evaluator
from jobs.job import Job
from jobs.tools import postprocess
from ofa.arch import Arch
from ofa.cost import cost
from ofa.evaluate import Evaluator
from ofa.images import Split
from ofa.int8 import logits_of


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


def evaluate_onnx(
    job: Job, evaluator: Evaluator, models: Mapping[str, bytes], resolution: int
) -> tuple[dict[str, dict[str, Any]], float]:
    """The test top-1 of each ONNX model with its 95 % interval, and the share of images for which all name one class."""
    labels_N = job.test.labels.numpy()
    named = {name: logits_of(data, inputs(evaluator, job.test, resolution)).argmax(axis=1) for name, data in models.items()}
    found = {}
    for name, named_N in named.items():
        correct = int((named_N == labels_N).sum())
        limits = list(interval(correct, len(labels_N)))
        found[name] = {"images": len(labels_N), "test_top1": correct / len(labels_N), "test_interval": limits}
    rows_MN = np.stack([*named.values()])
    return found, float((rows_MN == rows_MN[0]).all(axis=0).mean())


def inputs(evaluator: Evaluator, split: Split, resolution: int) -> Iterator[np.ndarray]:
    """The images of a split as inputs [N, 3, resolution, resolution] of ONNX Runtime, some at a time."""
    return (batch.contiguous().cpu().numpy() for batch in evaluator.batches(split, resolution))


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
