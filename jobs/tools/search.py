"""Search on predictions alone, without a run; leaves front.json and history.json in a directory.

ofa search --space ofa_mbv3_w1.2 --latency-table FILE --predictor FILE --out DIR
"""

from __future__ import annotations

import time

from cluster.progress import Reporter
from cluster.store import open_output
from cluster.texts import json_lines
from jobs import files
from jobs.tools.inputs import Loaded
from ofa.genes import Genes
from search import predicted
from search.front import Front
from search.history import Curve, History, reference_point


def search_files(
    loaded: Loaded, algorithm: str, evaluations: int, population: int, seed: int, out: str, reporter: Reporter
) -> Front:
    """The front of a problem from files; writes it and the search's history to the directory `out`."""
    problem, folder = loaded.problem, open_output(out)
    extremes = problem.evaluate(Genes(problem.space).encode([problem.space.smallest(), problem.space.largest()]))
    reference = reference_point(problem.objectives, extremes)
    curve = Curve(problem.objectives, reference, problem.limits)
    started = time.perf_counter()
    with reporter.track("search", evaluations, "evaluations") as tracker:
        found = predicted.solve(
            problem,
            algorithm=algorithm,
            evaluations=evaluations,
            members=population,
            seed=seed,
            progress=tracker.at,
            evaluated=curve.add,
        )
    seconds = time.perf_counter() - started
    members = sorted(loaded.measured(found.archs), key=lambda m: (m.latency_ms or 0.0, m.macs))
    left = Front(problem.space.name, tuple(members))
    history = History.of(problem.objectives, reference, [curve.progress("predicted", algorithm)])
    folder.write(files.FRONT.key, json_lines(left.to_json()).encode())
    folder.write(files.HISTORY.key, json_lines(history.to_json()).encode())
    reporter.say(
        f"{len(members)} networks in {out}/front.json, predicted top-1 {members[0].top1:.4f} to "
        f"{max(m.top1 for m in members):.4f}, out of {found.evaluations} evaluated in {seconds:.1f} s",
        event="result", out=out, members=len(members), evaluations=found.evaluations, seconds=round(seconds, 3),
    )  # fmt: skip
    return left
