"""Search the best network for each of several limits; leaves targets.json.

    ofa targets --space ofa_mbv3_w1.2 --latency-table FILE --predictor FILE --latency-ms 15,20,25 --out DIR

    ofa targets --space ofa_mbv3_w1.2 --predictor FILE --target params=5e6,6e6 --target activation_bytes=4e6 --out DIR

Several devices: --latency-table phone=FILE --latency-table cpu=FILE --latency-ms phone=15,20 --latency-ms cpu=10,20
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.reading import shortened
from cluster.store import open_output
from cluster.texts import json_lines
from jobs import files
from jobs.tools.inputs import Loaded, number
from search import targets as targets_search
from search.front import Front
from search.objective import LATENCY, MACS, TOP1, Objective


def targets(
    loaded: Loaded, latency_ms: Sequence[str], macs: str | None, named: Mapping[str, Sequence[float]], strategy: str,
    evaluations: int, seed: int, out: str, reporter: Reporter,
) -> Front:  # fmt: skip
    """Searches, and writes a member for each target, in the given order. named: the targets of the problem's costs."""
    if [bool(latency_ms), bool(macs), bool(named)].count(True) != 1:
        raise InputError("ofa targets: give --latency-ms with a table, or --macs without, such as 15,20,25, or --target of "
                         "any costs, such as params=4e6,5e6")  # fmt: skip
    option, texts = ("--latency-ms", latency_ms) if latency_ms else ("--macs", [macs] if macs else [])
    folder = open_output(out)
    wanted: dict[Objective, list[float]] = {}
    for text in texts:
        cost, bounds = _wanted(option, text, loaded.problem.objectives)
        wanted.setdefault(cost, []).extend(bounds)
    if named:
        costs = loaded.problem.objectives[1:]
        wanted = {cost: list(bounds) for cost, bounds in zip(costs, named.values(), strict=True)}
    with reporter.track("targets", 0, "evaluations") as tracker:
        found = targets_search.search(
            loaded.problem, wanted, strategy=strategy, seed=seed, evaluations=evaluations, progress=tracker.at
        )
    front = Front(loaded.problem.space.name, loaded.measured(found.archs))
    folder.write(files.TARGETS.key, json_lines(front.to_json()).encode())
    mean = float(np.mean([member.top1 for member in front.members]))
    reporter.say(
        f"{len(front.members)} targets in {out}/targets.json, mean predicted top-1 {mean:.4f}, "
        f"out of {found.evaluations} evaluated",
        event="result", out=out, targets=len(front.members), mean_top1=mean, evaluations=found.evaluations,
    )  # fmt: skip
    return front


def named_targets(texts: Sequence[str]) -> dict[str, list[float]]:
    """`params=4e6,5e6` as the targets of each named cost."""
    found: dict[str, list[float]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        if not equals or not name:
            raise InputError(f"--target {shortened(text)}: expected NAME=N,N,..., such as params=4e6,5e6")
        if name in found:
            raise InputError(f"--target {shortened(name)}: is given twice; give it once")
        found[name] = [number(value, f"--target {shortened(name)}") for value in numbers.split(",")]
    return found


def _wanted(option: str, text: str, objectives: Sequence[Objective]) -> tuple[Objective, list[float]]:
    """`15,20` or `DEVICE=15,20` as targets of one of the objectives."""
    device, _, numbers = text.rpartition("=")
    costs = [o for o in objectives if o != TOP1]
    field = LATENCY.field if option == "--latency-ms" else MACS.field
    chosen = [o for o in costs if (o.field, o.device) == (field, device)]
    if not chosen:
        known = [f"--{o.field.replace('_', '-')} {o.device + '=' if o.device else ''}N,N,..." for o in costs]
        raise InputError(f"ofa targets: {option} {text}: the costs here are {' '.join(known)}; latencies come with tables")
    return chosen[0], [number(value, option) for value in numbers.split(",")]
