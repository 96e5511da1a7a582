"""Search settings of training and search over short runs; leaves a config with the best of them in the run.

    ofa tune configs/digits.toml --out tuned.toml

Ray Tune runs the trials: short trainings of the supernet by the config's phases. Optuna proposes their settings, and ASHA
stops some of them early. The first trial has the config's settings. Trials are evaluated on the selection split alone.
`tuned.toml` is the config with the best settings, `tune.json` has all trials. A killed command continues: trials that have
ended are in the run's ledger, and one that was training resumes from its checkpoint.

Source: ASHA, arXiv:1810.05934; TPE, doi:10.5555/2986459.2986743, with several objectives arXiv:1907.10902 (Optuna).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch

from cluster.checkpoint import Checkpoints
from cluster.config import dump
from cluster.errors import Diverged, StepError
from cluster.progress import Tracker
from cluster.run import Run, Step
from cluster.runtime.tuning import Axis, Budget, Past, Settings, Watcher, tune
from cluster.runtime.workers import EpochDone, Event, Worker
from cluster.seeds import stream
from jobs import files
from jobs.config import Experiment, PhaseConfig, Range, Tune, check_tuning, with_settings
from jobs.images.dataset import Dataset
from jobs.job import Job
from jobs.settings import Value, values_of
from jobs.train import plan_of
from jobs.trials import Trial, Trials, best_of, front_of, shown
from jobs.workers.evaluator import load_supernet
from jobs.workers.trainer import Place, loop, net_tensors
from ofa.arch import Arch
from ofa.evaluate import NotFinite
from ofa.meters import METERS, Subject, measured
from ofa.phases import Plan
from ofa.record import Measured
from search.history import Curve, reference_point
from search.measured import search
from search.objective import Objective, values

EPOCHS = 2  # of a trial, for each phase, where `tune.epochs` is 0


def tune_settings(job: Job) -> Trials:
    """Runs the trials that are missing, and writes the best settings; returns all trials."""
    config = job.config
    check_tuning(config)
    if (found := finished(job)) is not None and len(found.trials) >= config.tune.trials:
        job.run.sweep("tune")
        job.reporter.say("tune: finished before, nothing to do; a higher tune.trials continues it")
        return found
    data = job.data
    step, epochs = job.run.begin("tune"), trial_epochs(config)
    ended, begun = progress(found, step.ledger.rows())
    for trial in ended:
        delete_training(job.run, trial.trial)
    job.need_ray(config.tune.concurrent if config.train.device == "cuda" else 0)
    objectives = config.tune.objectives
    first, apart = given_point(config)
    total = config.tune.trials * epochs
    with job.reporter.track("tune", total, "epochs") as tracker:
        watcher = Recorder(job, step, tracker, ended)
        place = Place(job.run.store.url, job.run.id, job.run.code, files.TUNING, job.run.attempt, config.train.checkpoint_s)
        tune(
            partial(run_trial, config, place),
            data.arrays(),
            {name: axis_of(config, name, found) for name, found in config.ranges.items()},
            objectives,
            Budget(
                trials=config.tune.trials,
                epochs=epochs,
                grace=config.tune.grace,
                reduction=config.tune.reduction,
                concurrent=config.tune.concurrent,
                gpu=config.train.device == "cuda",
                max_failures=config.train.max_failures,
            ),
            watcher,
            seed=stream(config.seed, "tune").getrandbits(32),
            first=first,
            apart=apart,
            past=[past_of(trial) for trial in ended],
            begun=begun,
        )
    trials = document_of(config, tuple(sorted(watcher.ended, key=lambda trial: trial.trial)))
    best = trials.best_trial
    step.write_json(files.TRIALS, trials.to_json())
    step.write(files.TUNED, tuned_text(job, trials).encode())
    for key in job.run.keys(f"{files.TUNING}/"):
        job.run.store.delete(f"{job.run.id}/{key}")
    step.finish(config.seed, trials=len(trials.trials))
    given = trials.trials[0]
    before = {name: f" (the config's {value:.4f})" for name, value in given.values.items()}
    gains = ", ".join(f"{name} {best.values[name]:.4f}{before.get(name, '')}" for name in objectives)
    job.reporter.say(f"tune: of {len(trials.trials)} trials, number {best.trial} is the best: {gains}")
    if job.run.finished("ensemble") and job.run.done("report") is not None:
        from jobs.report import report  # plotly takes a second to import

        report(job)
    return trials


def finished(job: Job) -> Trials | None:
    """The trials of a search that has finished in this run."""
    if job.run.done("tune") is None:
        return None
    return Trials.from_bytes(job.run.read(files.TRIALS), f"{job.run.url}/{files.TRIALS}")


def progress(found: Trials | None, rows: Sequence[Any]) -> tuple[list[Trial], dict[int, Settings]]:
    """The trials that have ended, in the order in which they did, and the settings of those that had begun and not ended.

    found: those of a finished search. rows: of the step's ledger.
    """
    ended = list(found.trials) if found is not None else []
    begun = {row["begins"]: row["settings"] for row in rows if "begins" in row}
    ended += [Trial.from_json(row["ends"], "the ledger of `ofa tune`") for row in rows if "ends" in row]
    known = {trial.trial for trial in ended}
    return ended, {number: settings for number, settings in begun.items() if number not in known}


class Recorder(Watcher):
    """Records trials in the step's ledger, and reports progress."""

    def __init__(self, job: Job, step: Step, tracker: Tracker, ended: Sequence[Trial]) -> None:
        self.job, self.step, self.tracker, self.ended = job, step, tracker, list(ended)
        self.epochs = trial_epochs(job.config)
        for trial in ended:
            tracker.total -= self.epochs - len(trial.compared)
        tracker.resumed(sum(len(trial.compared) for trial in ended))

    def begins(self, number: int, settings: Settings) -> None:
        """Records the settings, with which the trial runs again after a kill."""
        self.step.ledger.append([{"begins": number, "settings": dict(settings)}])

    def epoch(self, number: int, epoch: int, compared: float) -> None:
        """Shows the epoch, and the best results so far."""
        best = best_of(tuple(self.ended), self.job.config.tune.objectives)
        shown_best = ", ".join(f"{name} {value:.4f}" for name, value in best.values.items()) if best else "none yet"
        note = f"trial {number}: epoch {epoch} of {self.epochs}, top-1 {compared:.4f}; best: {shown_best}"
        self.tracker.advance(note=note)

    def ends(self, past: Past) -> None:
        """Records the results, and deletes the trial's weights."""
        trial = Trial(
            trial=past.number,
            state=past.state,
            settings=dict(past.settings),
            compared=tuple(past.compared),
            values=dict(past.values),
            reason=past.reason or None,
        )
        self.step.ledger.append([{"ends": trial.to_json()}])
        self.ended.append(trial)
        self.tracker.total -= self.epochs - len(trial.compared)
        delete_training(self.job.run, trial.trial)


def delete_training(run: Run, number: int) -> None:
    """Deletes the weights of a trial that has ended: of short trainings only the results are of use."""
    for key in run.keys(f"{files.trial_folder(number)}/"):
        run.store.delete(f"{run.id}/{key}")


def past_of(trial: Trial) -> Past:
    """A recorded trial, for Ray Tune."""
    state: Any = trial.state
    return Past(trial.trial, trial.settings, state, trial.compared, trial.values, trial.reason or "")


def axis_of(config: Experiment, name: str, found: Range) -> Axis:
    """The values of a setting, for Ray Tune."""
    if found.values:
        return Axis(values=found.values)
    whole = not found.relative and all(isinstance(value, int) for value in _given(config, name))
    return Axis(found.low, found.high, found.log, whole)


def given_point(config: Experiment) -> tuple[dict[str, Value], bool]:
    """The settings of the config as a point in the ranges, and whether it only stands for them.

    It does where a value is outside its range, or where phases have different ones.
    """
    point, apart = dict[str, Value](), False
    for name, found in config.ranges.items():
        values = [1.0] if found.relative else _given(config, name)
        value = values[0]
        if found.values:
            inside = value in found.values
            value = value if inside else found.values[0]
        else:
            assert not isinstance(value, str)
            near = min(max(value, found.low), found.high)
            inside, value = near == value, type(value)(near)
        point[name], apart = value, apart or not inside or len(set(values)) > 1
    return point, apart


def _given(config: Experiment, name: str) -> list[Value]:
    return values_of(asdict(config), name)


def trial_epochs(config: Experiment) -> int:
    """The epochs of a trial."""
    return config.tune.epochs or EPOCHS * len(config.train.phases)


def tuned_config(config: Experiment, settings: Settings) -> Experiment:
    """The config with a trial's settings, and without `tune`; it has as many epochs in all as before."""
    found = with_settings(config, settings)
    total = sum(phase.epochs for phase in config.train.phases)
    lengths = shares([phase.epochs for phase in found.train.phases], total)
    phases = tuple(replace(phase, epochs=epochs) for phase, epochs in zip(found.train.phases, lengths, strict=True))
    return replace(found, train=replace(found.train, phases=phases), tune=Tune())


def short_config(config: Experiment, epochs: int) -> Experiment:
    """The config with `epochs` epochs in all, of which every phase and its warm-up have their share."""

    def short(phase: PhaseConfig, length: int) -> PhaseConfig:
        return replace(phase, epochs=length, warmup_epochs=phase.warmup_epochs * length / phase.epochs)

    lengths = shares([phase.epochs for phase in config.train.phases], epochs)
    phases = tuple(short(phase, length) for phase, length in zip(config.train.phases, lengths, strict=True))
    return replace(config, train=replace(config.train, phases=phases))


def shares(lengths: Sequence[int], total: int) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to `lengths` and at least 1 each (largest remainders)."""
    spare, every = total - len(lengths), sum(lengths)
    exact = [max(0.0, total * length / every - 1) for length in lengths]
    scale = spare / sum(exact) if sum(exact) else 0.0
    whole = [math.floor(share * scale) for share in exact]
    left = sorted(range(len(lengths)), key=lambda i: (whole[i] - exact[i] * scale, i))[: spare - sum(whole)]
    return [1 + count + (i in left) for i, count in enumerate(whole)]


def plan_of_trial(config: Experiment, number: int, settings: Settings, classes: int) -> Plan:
    """The training of a trial. The first one has the config's own settings."""
    tuned = tuned_config(config, settings) if number else config
    plan = plan_of(short_config(tuned, trial_epochs(config)), classes)
    return replace(plan, validate_every=1)


def run_trial(
    config: Experiment,
    place: Place,
    number: int,
    settings: Settings,
    arrays: Mapping[str, np.ndarray],
    report: Callable[[int, float, Mapping[str, float] | None], None],
) -> None:
    """Trains a trial in this process, from its latest checkpoint; see `cluster.runtime.tuning.RunTrial`."""
    data, folder = Dataset.of(arrays), files.trial_folder(number)
    plan = plan_of_trial(config, number, settings, data.classes)
    run = Run.at(place.store_url, place.run_id, place.code, place.attempt, known=True)
    total = sum(phase.epochs for phase in plan.phases)
    latest = Checkpoints(run, folder).latest()
    rows: list[Mapping[str, Any]] = list(latest[1].history) if latest is not None else []

    def compared(row: Mapping[str, Any]) -> float:
        return float(row["largest"] + row["smallest"]) / 2

    for epoch, row in enumerate(rows[: total - 1], start=1):
        report(epoch, compared(row), None)

    def on_event(event: Event) -> None:
        if isinstance(event, EpochDone):
            rows.append(event.row)
            if len(rows) < total:  # the last one is reported with the results
                report(len(rows), compared(event.row), None)

    own = with_settings(config, settings) if number else config
    shards = own.train.most_workers  # a step is then the same as with as many workers
    loop(plan, own.data, replace(place, folder=folder), Worker(0, 1, on_event, shards), arrays)
    last = rows[-1]
    found = {"top1": compared(last), "largest": float(last["largest"]), "smallest": float(last["smallest"])}
    if "hypervolume" in config.tune.objectives:
        weights = net_tensors(safetensors.torch.load(run.raw(files.supernet(plan.phases[-1].name, folder).key)))
        found["hypervolume"] = hypervolume(own, data, {name: tensor.numpy() for name, tensor in weights.items()})
    report(total, compared(last), {name: found[name] for name in config.tune.objectives})


def hypervolume(config: Experiment, data: Dataset, weights: Mapping[str, np.ndarray]) -> float:
    """The hypervolume of a short measured search on a supernet, as a share of what an ideal network would have.

    The reference point has top-1 0 and a cost beyond that of the largest network; the ideal is top-1 1 at the smallest cost.
    """
    space, setting, objectives = config.search_space, config.measure, config.objectives
    net = load_supernet(config, data.classes, weights)
    evaluator = data.evaluator(net, setting.calibration_images, setting.fixed_batch, setting.norm_batch)
    meters = {o.field: METERS[o.field] for o in objectives if o.field in METERS}
    known: dict[Arch, Measured] = {}

    def evaluate(archs: Sequence[Arch]) -> list[Measured]:
        for arch in archs:
            if arch not in known:
                known[arch] = measured(Subject(arch, space, data.classes, evaluator, data.selection), meters, "selection")
        return [known[arch] for arch in archs]

    try:
        extremes = values(objectives, evaluate([space.smallest(), space.largest()]))
        seen = search(
            space,
            objectives,
            evaluate,
            algorithm=config.search.algorithm,
            sampler=config.search.sampler,
            evaluations=config.tune.evaluations,
            batch=min(config.search.population, config.tune.evaluations),
            seed=config.seed,
            islands=config.search.islands,
            migrate_every=config.search.migrate_every,
        ).history
    except NotFinite as error:
        raise Diverged(f"{error}: the training has diverged") from None
    reference = reference_point(objectives, extremes)
    curve = Curve(objectives, reference)
    curve.add(values(objectives, seen))
    return curve.volume / math.prod(side(o, worst, extremes[:, m]) for m, (o, worst) in
                                    enumerate(zip(objectives, reference, strict=True)))  # fmt: skip


def side(objective: Objective, reference: float, extremes_2: np.ndarray) -> float:
    """The distance of the reference point from the best value that there can be."""
    best = 1.0 if objective.direction == "maximize" else float(extremes_2.min())
    return abs(reference - best)


def document_of(config: Experiment, trials: tuple[Trial, ...]) -> Trials:
    """The document of all trials; a `StepError` if none has trained to its end."""
    objectives = config.tune.objectives
    best = best_of(trials, objectives)
    if best is None:
        reasons = next((f": {trial.reason}" for trial in trials if trial.reason), "")
        raise StepError(f"tune: none of {len(trials)} trials trained to its end{reasons}; narrow tune.settings")
    return Trials(
        objectives=objectives,
        relative=tuple(name for name, found in config.ranges.items() if found.relative),
        epochs=trial_epochs(config),
        best=best.trial,
        front=tuple(trial.trial for trial in front_of(trials, objectives)),
        trials=trials,
    )


def tuned_text(job: Job, trials: Trials) -> str:
    """The config file with the best settings."""
    config, best = job.config, trials.best_trial
    found = tuned_config(config, best.settings) if best.trial else replace(config, tune=Tune())
    results = ", ".join(f"{name} {value:.4f}" for name, value in best.values.items())
    settings = shown(best.settings, trials.relative) if best.trial else "as in the config"
    return (
        f"# `ofa tune` of the run {job.run.id}: trial {best.trial} of {len(trials.trials)}, with {results} on the selection "
        f"split.\n# {settings}\n\n{dump(found)}"
    )
