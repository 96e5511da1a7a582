"""Validate the front as it would be deployed: every member is extracted, evaluated, and timed on this machine.

    ofa validate configs/digits.toml --store ./runs

Leaves, for each member, the top-1 of the plain network (it must equal the front's, to the image), its predicted
values, and its latency here. Timings vary, so they are reported beside the front and do not affect it.
"""

from __future__ import annotations

from cluster.errors import StepError
from jobs import files
from jobs.batches import batch_of
from jobs.evaluators import evaluators, read_weights
from jobs.job import Job
from ofa.genes import Genes
from ofa.record import Measured
from ofa.timings import Validated, ValidatedMember
from search.front import Front
from search.predict.predictor import Predictor


def validate(job: Job) -> None:
    """Runs the step `validate`: writes the top-1 and latency of every extracted member of the front."""
    config, step, space = job.config, job.run.begin("validate"), job.config.search_space
    front = Front.from_json(step.read_json(files.FRONT))
    archs = [member.arch for member in front.members]
    rows_BG = Genes(space).encode(archs)
    predictors = [
        Predictor.from_npz(step.read(files.PREDICTOR), space, "top1", files.PREDICTOR.key),
        Predictor.from_npz(step.read(files.LATENCY_PREDICTOR), space, "latency_ms", files.LATENCY_PREDICTOR.key),
    ]
    predicted_top1, predicted_ms = (predictor.predict(rows_BG).tolist() for predictor in predictors)
    read_weights(step, config)  # the objects that the evaluators hold
    batch_of(job, step)
    with job.reporter.track("validate", len(archs), "networks") as tracker:
        for index, found in evaluators(job).map("extracted", archs):
            _must_agree(front.members[index], found)
            tracker.advance()
    setting = config.measure
    [(_, (device, latencies))] = evaluators(job).map("latencies", [archs])
    rows = tuple(
        ValidatedMember(
            key=member.arch.key,
            top1=member.top1,
            predicted_top1=predicted_top1[i],
            **latencies[i]._asdict(),
            predicted_latency_ms=predicted_ms[i],
        )
        for i, member in enumerate(front.members)
    )
    document = Validated(device=device, threads=setting.latency_threads, batch=1, members=rows)
    step.write_json(files.VALIDATED, document.to_json())
    step.finish(config.seed)
    job.reporter.say(
        f"validate: {len(rows)} extracted networks have the same top-1 as in the supernet; "
        f"{rows[0].latency_ms:.2f} to {max(row.latency_ms for row in rows):.2f} ms an image on {device}"
    )


def _must_agree(member: Measured, found: float) -> None:
    if found != member.top1:
        raise StepError(
            f"validate: {member.arch.key} has top-1 {member.top1:.4f} in front.json and {found:.4f} extracted here; "
            "this machine and the one that searched compute differently: search and validate on one kind of machine"
        )
