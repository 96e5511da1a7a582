"""Search the supernet twice, by measuring and by predicting; leaves one front, measured on the selection split.

    ofa search configs/digits.toml --store ./runs

Islands run as Ray tasks and propose archs; the pool of evaluators measures them. The predicted search's front is then
measured too, and the non-dominated archs of all are the front. A killed search continues from its ledger.
`history.json` has the hypervolume of either search after every evaluation.

With `search.mode` "asynchronous" the islands are Ray actors and no evaluator ever waits for a generation to end; then
the result depends on how long evaluations take. In either mode evaluators may be added and removed while it runs, and the
budget may change: `<run>/partial/scale.json`, which `ofa scale` writes, overrides ray.evaluators and search.evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from cluster.run import Step
from cluster.runtime import metrics
from cluster.runtime import pool as pools
from cluster.runtime.tasks import ray_map
from cluster.texts import jsonl
from jobs import files
from jobs.batches import batch_of
from jobs.config import Experiment
from jobs.costs import costs_of, objectives_of
from jobs.evaluators import evaluators, measure_all, read_weights, rescale
from jobs.job import Job
from ofa.arch import Arch
from ofa.record import Measured
from search import asynchronous
from search import measured as measured_search
from search.costs.devices import DeviceCosts
from search.errors import InfeasibleError
from search.front import front
from search.history import Curve, History, reference_point
from search.islands import port
from search.objective import Objective, first_cost, first_quality, values
from search.predict.predictor import Predictor
from search.predict.terms import predicted_problem
from search.predicted import Predicted, solve
from search.problem import Problem, own_limits


def search(job: Job) -> None:
    """Searches by measuring and by predicting, and writes one front."""
    config, step, space = job.config, job.run.begin("search"), job.config.search_space
    objectives = objectives_of(job, step)
    read_weights(step, config)  # the objects that the evaluators hold
    batch_of(job, step)
    rows = step.read(files.MEASURED).splitlines()
    before = [Measured.from_json(json.loads(row)) for row in rows]
    predictor = Predictor.from_npz(step.read(files.PREDICTOR), space, "top1", files.PREDICTOR.key)
    known = {m.arch.key: m for m in before}
    known.update({m.arch.key: m for m in map(Measured.from_json, step.ledger.rows())})
    job.need_ray()

    def budget() -> int:
        tracker.total = job.scale.overrides().evaluations or config.search.evaluations
        return tracker.total

    wanted = job.scale.overrides().evaluations or config.search.evaluations
    with job.reporter.track("search", wanted, "evaluations") as tracker:
        resumed = len(known) - len(before)
        tracker.resumed(min(resumed, wanted))

        best_top1 = max(m.top1 for m in known.values())
        reference = reference_point(objectives, values(objectives, before))
        now = Curve(objectives, reference, every=True)
        now.start(values(objectives, list(known.values())))

        def note(measured: Measured) -> None:
            nonlocal best_top1
            best_top1 = max(best_top1, measured.top1)
            now.add(values(objectives, [measured]))
            metrics.record("ofa_hypervolume", now.volume)
            tracker.advance(note=f"best top-1 {best_top1:.4f}")

        def evaluate(archs: Sequence[Arch]) -> list[Measured]:
            return measure_all(job, step, archs, known, note)

        if config.search.mode == "generations":
            asked = measured_search.search(
                space,
                objectives,
                evaluate,
                algorithm=config.search.algorithm,
                sampler=config.search.sampler,
                evaluations=budget,
                batch=config.search.population,
                seed=config.seed,
                islands=config.search.islands,
                migrate_every=config.search.migrate_every,
                known=before,
                run_islands=ray_map,
            ).history
        else:
            asked = search_asynchronously(job, step, before, known, budget, note)

    measured_curve = Curve(objectives, reference, every=True)
    measured_curve.start(values(objectives, before))
    for m in asked:
        measured_curve.add(values(objectives, [m]))
    predicted_curve = Curve(objectives, reference)

    problem = predicted_problem(space, predictor.predict, objectives, job.data.classes, before)
    total = config.search.predicted_evaluations
    with job.reporter.track("search (predicted)", total, "evaluations") as tracker:
        try:
            candidates = search_predicted(config, problem, tracker.at, predicted_curve.add).archs
        except InfeasibleError as error:  # a measured sub-network may still be within the limits
            candidates = ()
            job.reporter.say(f"search (predicted): {error}")
    with job.reporter.track("search (measuring the predicted front)", len(candidates), "archs") as tracker:
        tracker.resumed(sum(arch.key in known for arch in candidates))
        checked = measure_all(job, step, candidates, known, lambda m: tracker.advance())

    measured_before = {m.arch for m in before}
    history = list({m.arch.key: m for m in [*asked, *checked] if m.arch not in measured_before}.values())
    step.write(files.SEARCHED, jsonl([m.to_json() for m in history]))
    found = front(space.name, objectives, [*before, *history])
    if not found.members:
        raise InfeasibleError(none_within(objectives, [*before, *history]))
    step.write_json(files.FRONT, found.to_json())
    curves = [
        measured_curve.progress("measured", config.search.algorithm),
        predicted_curve.progress("predicted", config.search.predicted_algorithm),
    ]
    step.write_json(files.HISTORY, History.of(objectives, reference, curves).to_json())
    step.finish(config.seed, evaluations=len(asked), predicted=len(checked))
    cost, quality = first_cost(objectives), first_quality(objectives)
    cheapest, most = found.members[0], max(found.members, key=quality.of)
    job.reporter.say(
        f"search: {len(found.members)} on the front, {quality.label} {quality.text(quality.of(cheapest))} at "
        f"{cost.text(cost.of(cheapest))} {cost.words} to {quality.text(quality.of(most))} at "
        f"{cost.text(cost.of(most))}, out of {len(known)} measured and {total} predicted"
    )


def search_predicted(
    config: Experiment, problem: Problem, progress: Callable[[int], None], evaluated: Callable[[np.ndarray], None]
) -> Predicted:
    """The predicted search of a run. evaluated: called with the values [B, M] of every batch of archs."""
    return solve(
        problem,
        algorithm=config.search.predicted_algorithm,
        evaluations=config.search.predicted_evaluations,
        members=config.search.predicted_members,
        seed=config.seed,
        progress=progress,
        evaluated=evaluated,
    )


def none_within(objectives: Sequence[Objective], measured: Sequence[Measured]) -> str:
    """The message for limits that no measured sub-network keeps."""
    values_NM, limits = values(objectives, measured), own_limits(objectives)
    columns = {o: values_NM[:, m] for m, o in enumerate(objectives)}
    best = {o: column.min() if o.direction == "minimize" else column.max() for o, column in columns.items()}
    found = ", ".join(f"{limit.objective.name} {best[limit.objective]:g}" for limit in limits)
    return (
        f"search: none of {len(measured)} measured sub-networks has {' and '.join(map(str, limits))}; the nearest to each "
        f"limit has {found}; loosen search.at_most or search.at_least"
    )


def search_asynchronously(
    job: Job,
    step: Step,
    before: Sequence[Measured],
    known: dict[str, Measured],
    budget: Callable[[], int],
    note: Callable[[Measured], None],
) -> tuple[Measured, ...]:
    """Measures `budget()` archs beyond those of `before`, of which some may be known; adds the new ones to `known`."""
    config = job.config.search
    measured_before = {m.arch.key for m in before}
    ports = ExitStack()

    def open_port(build: Callable[[], Any]) -> RemotePort:
        opened = RemotePort(build)
        ports.callback(opened.close)
        return opened

    resumed = [m for key, m in known.items() if key not in measured_before][: budget()]
    with ports, step.ledger.collecting() as collect:

        def on_measured(measured: Sequence[Measured]) -> None:
            for m in measured:
                known[m.arch.key] = m
                note(m)
                collect(m.to_json())

        found = asynchronous.search(
            job.config.search_space,
            objectives_of(job, step),
            PooledEvaluators(job, costs_of(job, step)),
            algorithm=config.algorithm,
            sampler=config.sampler,
            evaluations=lambda: budget() - len(resumed),
            population=config.population,
            seed=job.config.seed,
            islands=config.islands,
            migrate_every=config.migrate_every,
            known=[*before, *resumed],
            open_port=open_port,
            on_measured=on_measured,
        )
    return (*resumed, *found.history)


class RemotePort(pools.Remote):
    """An island in a Ray actor."""

    def answer(self) -> Any:
        try:
            return super().answer()
        except pools.Lost:
            raise port.Lost from None


class PooledEvaluators:
    """The job's pool of evaluators, resized as `ofa scale` requests."""

    def __init__(self, job: Job, costs: DeviceCosts) -> None:
        self.pool, self.job, self.costs = evaluators(job), job, costs

    @property
    def workers(self) -> int:
        return self.pool.workers

    @property
    def free(self) -> int:
        return self.pool.free

    def submit(self, arch: Arch) -> None:
        self.pool.submit("measure", arch)

    def finished(self, timeout_s: float) -> list[Measured]:
        rescale(self.job)
        return self.costs.completed([measured for _, measured in self.pool.finished(timeout_s)])
