"""The number of images that a run's evaluators take at a time, which may be chosen by measurement.

With `measure.batch = "auto"` evaluations of the largest network are timed once, by the first step that evaluates, and the
times are an object of the run. Everything after reads it, so a run that is continued elsewhere keeps its batch size.
"""

from __future__ import annotations

from functools import partial

from cluster.run import File, Step
from cluster.runtime.tasks import ray_map
from jobs import files
from jobs.config import Experiment
from jobs.job import Job
from jobs.workers.batches import batch_times
from ofa.timings import BatchTimes


def batch_of(job: Job, step: Step) -> int:
    """The images that an evaluator takes at a time; times by which they were chosen are an input or an output of `step`."""
    batch = job.config.measure.batch
    if isinstance(batch, int):
        return batch
    file = times_file(job.config)
    if job.batches is None:
        job.batches = _times(job, step, file)
    elif file.key not in (*step.inputs, *step.outputs):
        step.read(file)
    return job.batches.fastest.batch


def times_file(config: Experiment) -> File:
    """The object that has the times of evaluations by batch size."""
    return files.batches("adapt" if config.adapt.iterations else "measure")


def shown(times: BatchTimes) -> str:
    """The choice and the times in one line."""
    best = times.fastest
    each = ", ".join(f"{row.batch} images {row.image_ms:.3g} ms" for row in times.rows)
    return f"{best.batch} images at a time are the fastest for {times.arch.key} on {times.device} (an image with {each})"


def _times(job: Job, step: Step, file: File) -> BatchTimes:
    """The times that the run has; the step that makes them measures, unless an earlier attempt has measured."""
    if step.name != file.step:
        data = step.read(file)
    else:
        if not job.run.keys(file.key):
            step.write_json(file, _measured(job).to_json())
        step.adopt(file)
        data = job.run.raw(file.key)
    found = BatchTimes.from_bytes(data, f"{job.run.url}/{file.key}")
    job.reporter.say(f"{step.name}: {shown(found)}")
    return found


def _measured(job: Job) -> BatchTimes:
    """The times on an evaluator's device, before there are evaluators."""
    config, gpus = job.config, job.config.ray.evaluator_gpus
    images = max(job.data.sizes.get(split, 0) for split in ("selection", "test"))
    job.need_ray()
    timed = partial(batch_times, classes=job.data.classes, images=images, device=config.measure.device, gpus=gpus)
    [found] = ray_map(timed, [config.search_space], gpus=gpus)
    return found
