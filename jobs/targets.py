"""The best network for each of several limits, in one search; leaves targets.json.

ofa targets --space ofa_mbv3_w1.2 --latency-table FILE --predictor FILE --latency-ms 15,20,25 --out DIR
"""

from __future__ import annotations

import numpy as np

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.run import json_lines
from cluster.store import open_store
from jobs.problem import Loaded, number
from search import targets as targets_search
from search.front import Front
from search.objective import LATENCY, MACS


def targets(
    loaded: Loaded, latency_ms: str | None, macs: str | None, strategy: str, evaluations: int, seed: int, out: str,
    reporter: Reporter,
) -> Front:  # fmt: skip
    """Searches, and writes a member for each target, in the order that they were given in."""
    if (latency_ms is None) == (macs is None):
        raise InputError("ofa targets: give --latency-ms with a table, or --macs without, such as 15,20,25")
    cost = LATENCY if latency_ms is not None else MACS
    if cost not in loaded.problem.objectives:
        wanted = "--latency-ms needs one --latency-table" if cost == LATENCY else "--macs goes without --latency-table"
        raise InputError(f"ofa targets: {wanted}")
    option = "--latency-ms" if latency_ms is not None else "--macs"
    wanted_T = [number(text, option) for text in (latency_ms or macs or "").split(",")]
    with reporter.track("targets", 0, "evaluations") as tracker:
        found = targets_search.search(
            loaded.problem,
            cost,
            wanted_T,
            strategy=strategy,
            seed=seed,
            evaluations=evaluations,
            progress=tracker.at,
        )
    front = Front(loaded.problem.space.name, loaded.measured(found.archs))
    open_store(out).write("targets.json", json_lines(front.to_json()).encode())
    mean = float(np.mean([member.top1 for member in front.members]))
    reporter.say(
        f"{len(front.members)} targets in {out}/targets.json, mean predicted top-1 {mean:.4f}, "
        f"out of {found.evaluations} evaluated",
        event="result", out=out, targets=len(front.members), mean_top1=mean, evaluations=found.evaluations,
    )  # fmt: skip
    return front
