"""Choose ensembles of the front's members; leaves the best subsets with their scores on both splits.

    ofa ensemble configs/digits.toml --store ./runs
    ofa ensemble --predictions table.npz --cost max --out ./ensembles

Chosen on the selection split, which trained no member, and reported on the test split, which chose nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster import run as keys
from cluster.errors import InputError
from cluster.run import json_lines
from cluster.store import open_store
from ensemble.honest import interval
from ensemble.score import SubsetScorer
from ensemble.select import Chosen, select
from ensemble.table import Table
from jobs.job import Job


def ensemble(job: Job) -> None:
    config, step = job.config, job.run.begin("ensemble")
    selection, test = (
        Table.from_npz(step.read(keys.predictions(split), made_by="predict"), keys.predictions(split))
        for split in ("selection", "test")
    )
    judge = SubsetScorer(test.classes_MNK, test.probs_MNK, test.labels_N)
    fronts: list[dict[str, Any]] = []
    for rule in config.ensemble.costs:
        with job.reporter.track(f"ensemble ({rule})", 0, "subsets") as tracker:
            chosen = select(scorer_of(selection), selection.cost_M, rule, config.ensemble.algorithm, tracker.at)
        fronts.append({"cost": rule, "unit": config.ensemble.unit, "members": rows(chosen, selection, judge)})
    singles = [Chosen((i,), float(cost), 0) for i, cost in enumerate(selection.cost_M)]
    doc = {**fronts[0], "other_costs": fronts[1:], "singles": rows(singles, selection, judge)}
    step.write_json(keys.ENSEMBLES, doc)
    step.finish(config.seed)
    for found in fronts:
        best = found["members"][-1]
        job.reporter.say(
            f"ensemble: for the {found['cost']} of {config.ensemble.unit}, {len(found['members'])} subsets; the best has "
            f"{len(best['members'])} members and test top-1 {best['test_top1']:.4f} "
            f"[{best['test_interval'][0]:.4f}, {best['test_interval'][1]:.4f}]"
        )


def rows(chosen: list[Chosen], selection: Table, test: SubsetScorer) -> list[dict[str, Any]]:
    """Each subset with its score on the split it was chosen on, and on the test split with a 95 % interval."""
    masks = masks_of(chosen, len(selection.cost_M))
    on_selection, on_test = scorer_of(selection).accuracy(masks), test.correct(masks)
    images = len(test.labels_N)
    return [
        {
            "members": list(subset.members),
            "cost": subset.cost,
            "top1": score,
            "test_top1": right / images,
            "test_interval": interval(right, images),
        }
        for subset, score, right in zip(chosen, on_selection.tolist(), on_test.tolist(), strict=True)
    ]


def scorer_of(table: Table) -> SubsetScorer:
    return SubsetScorer(table.classes_MNK, table.probs_MNK, table.labels_N)


def masks_of(chosen: list[Chosen], members: int) -> np.ndarray:
    masks = np.zeros((len(chosen), members), dtype=bool)
    for mask, subset in zip(masks, chosen, strict=True):
        mask[list(subset.members)] = True
    return masks


def ensemble_of_table(path: str, rule: Literal["max", "sum"], algorithm: str, out: str) -> list[Chosen]:
    """Chooses from a predictions file alone; leaves ensembles.json in `out`, its top-1 on that file's images."""
    try:
        table = Table.from_npz(Path(path).read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a predictions file (.npz)") from None
    try:
        chosen = select(scorer_of(table), table.cost_M, rule, algorithm)
    except ValueError as error:
        raise InputError(f"--algorithm {algorithm}: {error}") from None
    images = len(table.labels_N)
    members = [{"members": list(c.members), "cost": c.cost, "top1": c.correct / images} for c in chosen]
    doc = {"cost": rule, "unit": "cost", "members": members}
    open_store(out).write(keys.ENSEMBLES, json_lines(doc).encode())
    return chosen
