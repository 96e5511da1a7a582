"""Time the parts of a space's networks with ONNX Runtime on the device where this runs; leaves a latency table.

    python time_parts.py DIR table.json --runs 30 --threads 1

DIR is what `ofa measure --parts DIR --space NAME` wrote, this file included. Python 3.10, numpy and onnxruntime suffice. The
table has Once-for-All's published format: `ofa search --latency-table` and `[[search.latency_tables]]` take it.

Parts are timed in turns, one image at a time. Whole networks are timed too, and every entry is multiplied by the median of
their latency over the sum of their parts: a part alone is fused with no other, and its output has to be written out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROUNDS, WARM_UP = 3, 2


def main(argv: list[str] | None = None) -> None:
    """Times the parts in a folder and writes the table."""
    parser = argparse.ArgumentParser(description="Times parts of networks with ONNX Runtime; writes a latency table.")
    parser.add_argument("folder", type=Path, help="what `ofa measure --parts` wrote")
    parser.add_argument("table", type=Path, help="the file to write")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each part")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="an execution provider of ONNX Runtime")
    parser.add_argument("--device", default=platform.processor() or platform.machine(), help="the name of the device")
    asked = parser.parse_args(argv)
    table = timed(asked.folder, asked.runs, asked.threads, asked.provider)
    doc = {"unit": "ms", "_device": asked.device, **table}
    asked.table.write_text(json.dumps(doc, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def timed(folder: Path, runs: int, threads: int, provider: str) -> dict[str, object]:
    """The table of the parts in `folder`: for each resolution the latency (ms) of every part by its key."""
    doc = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    names = {part["file"] for part in [*doc["parts"], *doc["networks"]]}
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / name), options, providers=[provider]) for name in sorted(names)
    }
    table: dict[str, object] = {"_threads": threads, "_batch": 1, "_space": doc["space"]}
    scales: dict[str, float] = {}
    for resolution in doc["resolutions"]:
        parts = [part for part in doc["parts"] if part["resolution"] == resolution]
        whole = [network for network in doc["networks"] if network["resolution"] == resolution]
        times = turns([(sessions[one["file"]], one["shape"]) for one in [*parts, *whole]], runs)
        alone = {part["key"]: middle for part, middle in zip(parts, map(undisturbed, times), strict=False)}
        means = {key: statistics.mean(taken) for key, taken in alone.items()}
        ratios = [
            statistics.median(taken) / sum(means[key] for key in network["keys"])
            for network, taken in zip(whole, times[len(parts) :], strict=True)
        ]
        ratio = statistics.median(ratios) if ratios else 1.0
        scales[str(resolution)] = ratio
        table[str(resolution)] = {
            key: {"count": len(taken), "mean": ratio * means[key], "std": ratio * statistics.pstdev(taken)}
            for key, taken in alone.items()
        }
    return {**table, "_ratio": scales}


def turns(models: list, runs: int) -> list[list[float]]:
    """The milliseconds of every run of every model, each on one input of its shape, in turns with the others."""
    found: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for (session, shape), times in zip(models, found, strict=True):
            [given] = session.get_inputs()
            feed = {given.name: np.zeros(shape, np.float32)}
            for run in range(WARM_UP + -(-runs // ROUNDS)):
                start = time.perf_counter()
                session.run(None, feed)
                if run >= WARM_UP:
                    times.append((time.perf_counter() - start) * 1e3)
    return found


def undisturbed(times: list[float]) -> list[float]:
    """The middle half of the times, which excludes disturbances by other processes."""
    ordered, quarter = sorted(times), len(times) // 4
    return ordered[quarter : len(ordered) - quarter]


if __name__ == "__main__":
    main()
