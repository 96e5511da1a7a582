"""Train the supernet phase by phase; leaves the weights of every phase in the run.

    ofa train configs/digits.toml --store ./runs

Takes about two minutes on two cores with the digits; a killed job resumes from its last checkpoint to the same weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.checkpoint import Checkpoints
from cluster.config import ConfigError
from cluster.run import DamagedObject, File, Run, Step
from cluster.runtime import horovod
from cluster.runtime.backends import BACKENDS
from cluster.runtime.machine import require_local_gpus
from cluster.runtime.workers import EpochDone, Event, Skipped
from cluster.texts import sha256
from jobs import files, tensorboard
from jobs.config import Experiment
from jobs.costs import given_tables, keep_tables
from jobs.images.dataset import Dataset
from jobs.job import Job
from jobs.workers.trainer import Place, description, given_weights, loop, read_weights, untrained
from ofa.cost import cost
from ofa.images import steps_per_epoch
from ofa.phases import Plan, Recipe
from search.predict.terms import EXACT


@dataclass(frozen=True, slots=True)
class Trained:
    """The results of a training in its run.

    files: of every phase the weights and a description, in order. history: the reports of the last phase, one for each
    epoch; those with an evaluation have the top-1 (fractions) of the extremes on the selection split.
    """

    files: tuple[File, ...]
    history: tuple[dict[str, Any], ...]

    @property
    def largest(self) -> float:
        """The last top-1 of the largest network."""
        return float(self.history[-1]["largest"])

    @property
    def smallest(self) -> float:
        """The last top-1 of the smallest network."""
        return float(self.history[-1]["smallest"])


def train_supernet(job: Job) -> None:
    """Runs the step `train`: writes the weights of every phase."""
    config = job.config
    BACKENDS[config.train.backend].require()
    check(config, job.data.classes, job.data.sizes["train"])
    check_streamed(config, job.data)
    plan, tables = plan_of(config, job.data.classes), given_tables(job)
    step = job.run.begin("train")  # once the images are known to be usable
    keep_tables(job, step, tables)
    if config.train.weights:
        digest = record_weights(step, config.train.weights)
        head = ", with a new head" if plan.head == "new" else ""
        job.reporter.say(f"train: starts from {config.train.weights} (sha256 {digest[:12]}){head}")
    if plan.phases:
        trained = train(job, plan)
        for file in trained.files:
            step.adopt(file)
        outcome = f"on the selection split the largest has top-1 {trained.largest:.4f}, the smallest {trained.smallest:.4f}"
    else:
        write_untrained(step, plan)
        outcome = "there are no phases, so its weights are used as they are"
        if plan.head == "new":
            outcome += "; its new head is not trained: add phases, or fine-tune networks with `ofa finetune`"
    described = job.data.description
    step.finish(config.seed, images=job.data.sizes, data=described.to_json() if described else None)
    job.reporter.say(f"train: supernet of {config.space}, {config.search_space.size:.2e} sub-networks; {outcome}")


def write_untrained(step: Step, plan: Plan) -> None:
    """Writes the weights that a run without phases starts from, as those of a phase."""
    step.write(files.supernet(files.UNTRAINED), untrained(plan))
    step.write_json(files.supernet_meta(files.UNTRAINED), description(files.UNTRAINED, plan.space, plan.classes))


def record_weights(step: Step, url: str) -> str:
    """The sha256 of the weights that training starts from, recorded as an input.

    Raises a `ConfigError` if they have changed since the training began.
    """
    digest = sha256(read_weights(url))
    began = step.ledger.rows()
    if not began:
        step.ledger.append([{files.GIVEN_WEIGHTS: digest}])
    elif began[0][files.GIVEN_WEIGHTS] != digest:
        raise changed_weights(url, digest, began[0][files.GIVEN_WEIGHTS])
    step.inputs[files.GIVEN_WEIGHTS] = digest
    return digest


def changed_weights(url: str, now: str, before: str) -> ConfigError:
    """The error for initial weights with another sha256 than when the training began."""
    return ConfigError(
        f"train.weights: {url}: has sha256 {now[:12]}, the training began from {before[:12]}; restore it, or train from "
        "these weights in another --store"
    )


def check(config: Experiment, classes: int, images: int) -> None:
    """Raises an `InputError` for settings that would fail in training or in a later step, now that the images are known."""
    if config.train.phases and images < config.train.most_workers:
        raise ConfigError(
            f"train.workers is {config.train.most_workers}; there are {images} training images, one for each at least"
        )
    setting, unit = config.ensemble, config.ensemble.unit
    space = config.search_space
    if setting.most_cost and unit in EXACT:
        least = getattr(cost(space, space.smallest(), classes), unit)
        if setting.most_cost < least:
            raise ConfigError(
                f"ensemble.most_cost is {setting.most_cost:g}; the smallest network of {space.name} has {least:,} {unit}: "
                "raise it, or leave it out"
            )
    if config.train.weights:
        given_weights(config.train.weights, space, classes, config.train.head)


def check_streamed(config: Experiment, data: Dataset) -> None:
    """Raises a `ConfigError` if workers could take the CPUs that read the images which they wait for, or have no Ray."""
    train = config.train
    if data.stored is not None and horovod.launched() is not None:
        raise ConfigError(
            "data.memory_mib: the training images are streamed by Ray, in which the processes of horovodrun take no part; "
            "raise it, or start this command without horovodrun"
        )
    if data.stored is not None and train.least_workers < train.most_workers and train.device == "cpu":
        raise ConfigError(
            f"train.workers is [{train.least_workers}, {train.most_workers}], but the training images stream: workers on "
            "CPUs could take the places of those that read them; give one number, raise data.memory_mib, or use "
            "train.device 'cuda'"
        )


def train(job: Job, plan: Plan, at: str = files.SUPERNET, data: Dataset | None = None, title: str = "train") -> Trained:
    """Trains by `plan` on the job's images, or on `data`, from the latest checkpoint in the folder `at` of the run.

    Without a selection split in `data` nothing is evaluated. The caller's step adopts the files. title: of the progress.
    """
    data = data or job.data
    Checkpoints(job.run, at).latest()  # a damaged checkpoint is an error here, not on every worker
    setting = job.config.train
    backend = BACKENDS[setting.backend]
    gpus = setting.least_workers if plan.device == "cuda" else 0
    check_streamed(job.config, data)
    if backend.needs_ray or data.stored is not None:  # a stored training split is read by Ray Data
        job.need_ray(gpus)
    else:  # Ray, which evaluates later, may be another cluster than this machine
        here = job.config.ray.address == "local" and not os.environ.get("RAY_ADDRESS")
        require_local_gpus(job.config.gpus(gpus) if here else gpus)
    total = sum(phase.epochs for phase in plan.phases) * steps_per_epoch(data.sizes["train"], plan.batch)
    place = Place(job.run.store.url, job.run.id, job.run.code, at, job.run.attempt, setting.checkpoint_s)
    with ExitStack() as stack:
        tracker = stack.enter_context(job.reporter.track(title, total, "steps", images=plan.batch))
        events = stack.enter_context(tensorboard.written(job.run, at, plan.phases)) if setting.tensorboard else None

        def on_event(event: Event) -> None:
            if isinstance(event, Skipped):
                return job.reporter.say(event.text, "warning")
            if isinstance(event, EpochDone):
                return events.add(event.row) if events is not None else None
            if event.resumed:
                tracker.resumed(event.done)
            return tracker.at(event.done, event.note)

        backend.run(
            partial(loop, plan, job.config.data, place),
            data.arrays(),
            on_event,
            workers=setting.most_workers,
            least=setting.least_workers,
            max_failures=setting.max_failures,
            gpu=plan.device == "cuda",
        )
    names = [phase.name for phase in plan.phases]
    left = tuple(make(name, at) for name in names for make in (files.supernet, files.supernet_meta))
    evaluated = ("largest", "smallest") if "selection" in data.splits else ()
    return Trained(left, _history(job.run, at, names[-1], evaluated))


def _history(
    run: Run, at: str, phase: str, evaluated: Sequence[str] = ("largest", "smallest")
) -> tuple[dict[str, Any], ...]:
    """The reports of a phase; a `DamagedObject` if its description has none, or the last one not the numbers `evaluated`."""
    key = files.supernet_meta(phase, at).key
    data = run.raw(key)
    try:
        rows = tuple(json.loads(data)["history"])
        for name in evaluated:
            rows[-1][name] = float(rows[-1][name])
        return rows
    except (ValueError, LookupError, TypeError):
        raise DamagedObject(
            f"{run.url}/{key}: is no description of a phase; delete {run.url}/{at} to train anew, or restore the object"
        ) from None


def plan_of(config: Experiment, classes: int) -> Plan:
    """The training plan of a config."""
    train, measure = config.train, config.measure
    recipe = Recipe(
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        label_smoothing=train.label_smoothing,
        clip_norm=train.clip_norm,
        distil_loss=train.distil_loss,
        gradients=train.gradients,
        dropout=train.dropout,
        average=train.average,
        bfloat16=train.precision == "bfloat16",
    )
    return Plan(
        space=config.search_space,
        classes=classes,
        phases=config.phases,
        recipe=recipe,
        batch=train.batch,
        seed=config.seed,
        weights=train.weights,
        head=train.head,
        zero_last_gamma=train.zero_last_gamma,
        schedule=train.schedule,
        keep_momentum=train.momentum_across_phases,
        own_draws=train.draws == "own",
        teacher_norm=train.teacher_norm,
        teacher_exits=train.teacher_exits,
        calibration_images=measure.calibration_images,
        evaluation_batch=measure.fixed_batch,
        calibration_batch=measure.norm_batch,
        validate_every=train.validate_every,
        validate_images=train.validate_images,
        device=train.device,
        threads=train.threads,
    )
