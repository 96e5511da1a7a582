"""Measure random sub-networks and the extremes; leaves the training rows of predictors.

    ofa measure configs/digits.toml --store ./runs

Every arch gets batch-norm statistics of its own and is evaluated on the selection split by a pool of Ray actors; some
are also timed on this machine. Where the supernet was adapted, the archive of its adaptation is among the archs. A killed
job continues with the missing ones.
"""

from __future__ import annotations

import json

from cluster.seeds import stream
from cluster.texts import jsonl
from jobs import files
from jobs.batches import batch_of
from jobs.costs import costs_of
from jobs.evaluators import evaluators, measure_all, read_weights
from jobs.job import Job
from ofa.arch import Arch
from ofa.record import Measured
from ofa.space import Space
from ofa.timings import ArchLatency, Latencies


def measure(job: Job) -> None:
    """Evaluates random sub-networks and the extremes, and times some of them."""
    config, step = job.config, job.run.begin("measure")
    read_weights(step, config)  # the objects that the evaluators hold
    batch_of(job, step)  # it is chosen here, unless the run has a fixed one
    archs = archs_to_measure(config.search_space, config.measure.archs, config.seed)
    known = {m.arch.key: m for m in map(Measured.from_json, step.ledger.rows())}
    if config.adapt.iterations:  # the archive was evaluated with the same weights
        archive = [Measured.from_json(json.loads(row)) for row in step.read(files.ARCHIVE).splitlines()]
        known.update((m.arch.key, m) for m in archive)
        archs = list({arch.key: arch for arch in (*archs, *(m.arch for m in archive))}.values())
    with job.reporter.track("measure", len(archs), "archs") as tracker:
        tracker.resumed(len(known))
        best = max((m.top1 for m in known.values()), default=0.0)

        def seen(measured: Measured) -> None:
            nonlocal best
            best = max(best, measured.top1)
            tracker.advance(note=f"best top-1 {best:.4f}")

        measured = measure_all(job, step, archs, known, seen)
    costs_of(job, step)  # the table of this machine is made here, if the run has one
    step.write(files.MEASURED, jsonl([row.to_json() for row in measured]))

    timed = archs[: config.measure.latency_archs]
    job.reporter.say(f"measure: timing {len(timed)} extracted networks, {config.measure.latency_threads} thread")
    [(_, (device, latencies))] = evaluators(job).map("latencies", [timed])
    rows = tuple(ArchLatency(arch=arch, **ms._asdict()) for arch, ms in zip(timed, latencies, strict=True))
    threads, runs = config.measure.latency_threads, config.measure.latency_runs
    document = Latencies(device=device, threads=threads, batch=1, runs=runs, rows=rows)
    step.write_json(files.LATENCY, document.to_json())
    step.finish(config.seed, archs=len(measured))
    tops = sorted(m.top1 for m in measured)
    job.reporter.say(
        f"measure: {len(measured)} sub-networks, top-1 {tops[0]:.4f} to {tops[-1]:.4f}, median {tops[len(tops) // 2]:.4f}"
    )


def archs_to_measure(space: Space, count: int, seed: int) -> list[Arch]:
    """The smallest, the largest, and random archs, all distinct."""
    rng = stream(seed, "measure")
    archs = {arch.key: arch for arch in (space.smallest(), space.largest())}
    while len(archs) < count:
        arch = space.sample(rng)
        archs.setdefault(arch.key, arch)
    return list(archs.values())
