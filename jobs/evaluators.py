"""The pool of evaluators: Ray actors that hold the trained supernet and evaluate sub-networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cluster.errors import Diverged
from cluster.run import DamagedObject, File, Step
from cluster.runtime.pool import Pool
from jobs import files
from jobs.batches import batch_of
from jobs.config import Experiment
from jobs.costs import costs_of
from jobs.job import Job
from jobs.workers.evaluator import EvaluationWorker, load_supernet, shared_arrays
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.meters import METERS
from ofa.record import Measured


def weights_file(config: Experiment) -> File:
    """The weights that are searched: those at the end of training, or of the adaptation where there is one."""
    return files.final_weights(config.last_phase, config.adapt.iterations)


def read_weights(step: Step, config: Experiment) -> dict[str, np.ndarray]:
    """The tensors of the supernet that is searched, recorded as an input of `step`."""
    file = weights_file(config)
    return tensors_of(step.read(file), f"{step.run.url}/{file.key}")


def tensors_of(data: bytes, where: str) -> dict[str, np.ndarray]:
    """A supernet's tensors in the content of a file; a `Diverged` that begins with `where` if some are not finite.

    Any other content than a safetensors file's is a `DamagedObject`.
    """
    try:
        arrays = {name.removeprefix("net."): array for name, array in safetensors.numpy.load(data).items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:  # also of types that numpy lacks
        raise DamagedObject(f"{where}: is no safetensors file of a supernet: {error}; train in another --store") from None
    bad = next((name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()), None)
    if bad is not None:
        raise Diverged(
            f"{where}: {bad} has values that are not finite: the training has diverged; train with a lower learning rate"
        )
    return arrays


def trained_evaluator(job: Job, step: Step) -> Evaluator:
    """An evaluator of the run's trained supernet in this process; its weights are recorded as an input of `step`."""
    return evaluator_of(job, read_weights(step, job.config))


def evaluator_of(job: Job, weights: Mapping[str, np.ndarray]) -> Evaluator:
    """An evaluator of a supernet with these tensors, in this process."""
    net, setting = load_supernet(job.config, job.data.classes, weights), job.config.measure
    return job.data.evaluator(net, setting.calibration_images, setting.fixed_batch, setting.norm_batch)


def evaluators(job: Job, given: Mapping[str, np.ndarray] | None = None) -> Pool:
    """`ray.evaluators` actors, which the steps of one command share.

    Weights and images go into the object store once for all of them. given: the weights with which they start, if they
    start now; otherwise those that are searched.
    """

    def start() -> Pool:
        weights = given if given is not None else read_weights(Step(job.run, "evaluate"), job.config)
        meters = {o.field: METERS[o.field] for o in job.config.objectives if o.field in METERS}
        batch = job.batches.fastest.batch if job.batches else batch_of(job, Step(job.run, "evaluate"))
        build, setting = partial(EvaluationWorker, job.config, meters, batch), job.config.ray
        return Pool(build, shared_arrays(weights, job.data), setting.evaluators, setting.evaluator_gpus)

    return job.pool(start)


def rescale(job: Job) -> None:
    """Resizes the pool to the number of evaluators that `ofa scale` requested, if any."""
    wanted = job.scale.overrides().evaluators_on(job.config.ray.evaluator_gpus)
    pool = evaluators(job)
    if wanted is not None and wanted != pool.workers:
        pool.resize(wanted)


def measure_all(
    job: Job,
    step: Step,
    archs: Sequence[Arch],
    known: dict[str, Measured],
    on_measured: Callable[[Measured], None],
    row_of: Callable[[Measured], Any] = Measured.to_json,
) -> list[Measured]:
    """The observation of every arch: from `known` if present, else measured by the pool and kept in the step's ledger.

    New observations are added to `known`; `on_measured` is called for each of them. row_of: their rows in the ledger.
    """
    wanted = list({arch.key: arch for arch in archs if arch.key not in known}.values())
    if wanted:
        costs = costs_of(job, step)
        rescale(job)
        with step.ledger.collecting() as collect:
            for _, found in evaluators(job).map("measure", wanted):
                [record] = costs.completed([found])
                known[record.arch.key] = record
                on_measured(record)
                collect(row_of(record))
                rescale(job)
    return [known[arch.key] for arch in archs]
