"""Quantise a sub-network to int8 for ONNX Runtime; leaves its file, and what int8 costs and brings, in the run.

    ofa export configs/digits.toml --int8                the knee of the front
    ofa export configs/digits.toml --int8 --arch NAME    any sub-network

Ranges of activations are calibrated on training images. `subnets/NAME-int8.json` has the test top-1 of both networks with
95 % intervals, the share of test images with the same class, the sizes of the files, and their latencies on this machine.
"""

from __future__ import annotations

from typing import Any

from cluster.texts import json_text, machine
from jobs.export import export_as, for_images
from jobs.job import Job
from jobs.tools.eval import evaluate_onnx, inputs
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.export import Description, to_onnx, to_program
from ofa.extract import extract
from ofa.int8 import median_ms, quantised

CALIBRATION_IMAGES = 512


def export_int8(job: Job, arch: Arch | None) -> dict[str, Any]:
    """Exports `arch`, or the knee of the front, in int8; returns what was measured, read again if it was before."""
    return export_as(job, arch, "int8", ".onnx", lambda evaluator, chosen, _: made(job, evaluator, chosen))[1]


def made(job: Job, evaluator: Evaluator, arch: Arch) -> tuple[bytes, dict[str, Any]]:
    """The int8 model of `arch`, and its description with what was measured."""
    config, classes, side = job.config, job.data.classes, arch.resolution
    network = extract(evaluator.net, arch, evaluator.statistics(arch))
    job.reporter.say(f"export: quantising {arch.key}")
    model = to_onnx(to_program(network, side))
    small = quantised(model, inputs(evaluator, evaluator.calibration[:CALIBRATION_IMAGES], side))
    both = {"float32": model, "int8": small}
    tested, same = evaluate_onnx(job, evaluator, both, side)
    runs = config.measure.latency_runs
    networks = {
        kind: {**tested[kind], "bytes": len(data), "latency_ms": median_ms(data, side, runs)} for kind, data in both.items()
    }
    return small, {
        **for_images(job, Description.of(config.space, classes, arch, evaluator.scale, side)).to_json(),
        "device": machine(),
        "same_class": same,
        **networks,
    }


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
    same, images = 100 * found["same_class"], found["int8"]["images"]
    return "\n".join([*lines, f"same class: {same:.1f} % of {images} test images"])


def text(found: dict[str, Any], as_json: bool) -> str:
    """The output of the command."""
    return json_text(found) if as_json else table(found)
