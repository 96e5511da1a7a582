"""Search the supernet twice, by measuring and by predicting; leaves one front, measured on the selection split.

    ofa search configs/digits.toml --store ./runs

Optuna's samplers run as Ray tasks and ask; the pool of evaluators answers. The predicted search's front is then
measured too, and what no other arch dominates is the front. A killed search takes up where its ledger ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from cluster import run as keys
from cluster.run import jsonl
from cluster.tasks import ray_map
from jobs.evaluation import measure_all, read_weights
from jobs.job import Job
from ofa.arch import Arch
from ofa.record import Measured
from search import measured as measured_search
from search import predicted as predicted_search
from search.front import front
from search.objective import MACS, TOP1
from search.predictor import Predictor
from search.problem import CostTable, Evaluate

OBJECTIVES = (TOP1, MACS)


def search(job: Job) -> None:
    config, step, space = job.config, job.run.begin("search"), job.config.search_space
    read_weights(step, config)  # what the evaluators hold
    rows = step.read(keys.MEASURED, made_by="measure").splitlines()
    before = [Measured.from_json(json.loads(row)) for row in rows]
    predictor = Predictor.from_npz(step.read(keys.PREDICTOR, made_by="fit"), space, keys.PREDICTOR)
    known = {m.arch.key: m for m in before}
    known.update({m.arch.key: m for m in map(Measured.from_json, step.ledger.rows())})
    job.need_ray()

    wanted = config.search.evaluations
    with job.reporter.track("search", wanted, "evaluations") as tracker:
        resumed = len(known) - len(before)
        tracker.resumed(min(resumed, wanted))

        def evaluate(archs: Sequence[Arch]) -> list[Measured]:
            best = max(m.top1 for m in known.values())
            return measure_all(
                job, step, archs, known, lambda m: tracker.advance(note=f"best top-1 {max(best, m.top1):.4f}")
            )

        asked = measured_search.search(
            space,
            OBJECTIVES,
            evaluate,
            algorithm=config.search.algorithm,
            evaluations=wanted,
            batch=config.search.population,
            seed=config.seed,
            islands=config.search.islands,
            migrate_every=config.search.migrate_every,
            known=before,
            run_islands=ray_map,
        )

    total = config.search.predicted_evaluations
    with job.reporter.track("search (predicted)", total, "evaluations") as tracker:
        predicted = predicted_search.search(
            space,
            OBJECTIVES,
            predicted_objectives(predictor, CostTable(space, job.data.classes)),
            algorithm=config.search.predicted_algorithm,
            evaluations=total,
            members=config.search.predicted_members,
            seed=config.seed,
            progress=tracker.at,
        )
    with job.reporter.track("search (measuring the predicted front)", len(predicted.archs), "archs") as tracker:
        tracker.resumed(sum(arch.key in known for arch in predicted.archs))
        checked = measure_all(job, step, predicted.archs, known, lambda m: tracker.advance())

    history = list({m.arch.key: m for m in [*asked.history, *checked] if m not in before}.values())
    step.write(keys.SEARCHED, jsonl([m.to_json() for m in history]))
    found = front(space.name, OBJECTIVES, [*before, *history])
    step.write_json(keys.FRONT, found.to_json())
    step.finish(config.seed, evaluations=len(asked.history), predicted=len(checked))
    cheapest, best = found.members[0], found.members[-1]
    job.reporter.say(
        f"search: {len(found.members)} on the front, top-1 {cheapest.top1:.4f} at {cheapest.macs / 1e3:.0f}k MACs "
        f"to {best.top1:.4f} at {best.macs / 1e3:.0f}k, out of {len(known)} measured and {total} predicted"
    )


def predicted_objectives(predictor: Predictor, costs: CostTable) -> Evaluate:
    """Predicted top-1 and exact MACs [B, 2] of genes [B, G]."""

    def evaluate(genes_BG: np.ndarray) -> np.ndarray:
        macs_B, _ = costs(genes_BG)
        return np.stack([predictor.predict(genes_BG), macs_B], axis=1)

    return evaluate
