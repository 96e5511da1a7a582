"""Quantise a sub-network to int8 for ONNX Runtime; leaves its file, and what int8 costs and brings, in the run.

    ofa export configs/digits.toml --int8                the knee of the front
    ofa export configs/digits.toml --int8 --arch NAME    any sub-network

Ranges of activations are calibrated on training images. `subnets/NAME-int8.json` has the test top-1 of both networks with
95 % intervals, the share of test images with the same class, the sizes of the files, and their latencies on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from cluster.texts import json_text, machine
from ensemble.intervals import interval
from jobs import files
from jobs.evaluators import trained_evaluator
from jobs.job import Job
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.export import Description, to_onnx, to_program
from ofa.extract import extract
from ofa.images import Split
from ofa.int8 import logits_of, median_ms, quantised
from search.front import Front, knee
from search.objective import minimised, values

CALIBRATION_IMAGES = 512


def export_int8(job: Job, arch: Arch | None) -> dict[str, Any]:
    """Exports `arch`, or the knee of the front, in int8; returns what was measured, read again if it was before."""
    chosen = knee_of(job) if arch is None else job.config.search_space.checked(arch)
    name = f"{chosen.key}-int8"
    described, step_name = files.subnet(name, ".json"), f"export-{name}"
    if not job.run.finished(step_name):
        step = job.run.begin(step_name)
        model, doc = made(job, trained_evaluator(job, step), chosen)
        step.write(files.subnet(name, ".onnx"), model)
        step.write_json(described, doc)
        step.finish(job.config.seed)
    found: dict[str, Any] = json.loads(job.run.read(described))
    return found


def knee_of(job: Job) -> Arch:
    """The knee of the run's front."""
    members, objectives = Front.from_json(json.loads(job.run.read(files.FRONT))).members, job.config.objectives
    return members[knee(minimised(objectives, values(objectives, members)))].arch


def made(job: Job, evaluator: Evaluator, arch: Arch) -> tuple[bytes, dict[str, Any]]:
    """The int8 model of `arch`, and its description with what was measured."""
    config, classes, side = job.config, job.data.classes, arch.resolution
    network = extract(evaluator.net, arch, evaluator.statistics(arch))
    job.reporter.say(f"export: quantising {arch.key}")
    model = to_onnx(to_program(network, side))
    small = quantised(model, batches(evaluator, evaluator.calibration[:CALIBRATION_IMAGES], side))
    both = {"float32": model, "int8": small}
    named = {kind: logits_of(data, batches(evaluator, job.test, side)).argmax(axis=1) for kind, data in both.items()}
    labels, runs = job.test.labels.numpy(), config.measure.latency_runs
    networks = {
        kind: {**accuracy(named[kind], labels), "bytes": len(data), "latency_ms": median_ms(data, side, runs)}
        for kind, data in both.items()
    }
    return small, {
        **Description.of(config.space, classes, arch, evaluator.scale, side).to_json(),
        "device": machine(),
        "test_images": len(labels),
        "same_class": float((named["float32"] == named["int8"]).mean()),
        **networks,
    }


def batches(evaluator: Evaluator, split: Split, resolution: int) -> Iterator[np.ndarray]:
    """The images of a split as inputs of ONNX Runtime."""
    return (batch.contiguous().cpu().numpy() for batch in evaluator.batches(split, resolution))


def accuracy(named_N: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
    """The top-1 with its 95 % interval. named_N: the predicted classes."""
    correct = int((named_N == labels_N).sum())
    return {"test_top1": correct / len(labels_N), "test_interval": list(interval(correct, len(labels_N)))}


def table(found: dict[str, Any]) -> str:
    """What was measured, for a terminal."""
    lines = [f"{'':8}  {'test top-1':>10}  {'95 % interval':>18}  {'KiB':>8}  {'ms':>8}"]
    for kind in ("float32", "int8"):
        row = found[kind]
        low, high = row["test_interval"]
        lines.append(
            f"{kind:8}  {row['test_top1']:10.4f}  {f'[{low:.4f}, {high:.4f}]':>18}  {row['bytes'] / 2**10:8.0f}  "
            f"{row['latency_ms']:8.3f}"
        )
    return "\n".join([*lines, f"same class: {100 * found['same_class']:.1f} % of {found['test_images']} test images"])


def text(found: dict[str, Any], as_json: bool) -> str:
    """The output of the command."""
    return json_text(found) if as_json else table(found)
