"""Searches settings with Ray Tune: Optuna's TPE proposes them, ASHA stops trials early.

Every trial that begins and ends is reported to the caller, whose records resume the search: each `Past` is added to Optuna's
study and to ASHA's rungs, and trials that had begun run again with the same settings. Ray Tune's own files are never read.
With one trial at a time the settings of a trial are a function of the seed, its number, and the trials before it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import optuna
import ray.tune
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cluster.errors import Diverged, InputError, StepError

Value = bool | int | float | str
Settings = Mapping[str, Value]
# Trains with these settings, and reports every epoch (from 1) with the value that ASHA compares, larger is better; the last
# report also has the objectives' values.
Report = Callable[[int, float, Mapping[str, float] | None], None]
RunTrial = Callable[[int, Settings, Mapping[str, np.ndarray], Report], None]

STUDY = "tune"
STARTUP = 6  # trials, the given settings among them, before those that TPE proposes; Optuna's default is 10
TUNE_SETTINGS = {  # environment variables of Ray Tune: no files of its own loggers, and Ctrl-C ends the process
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output writes to stdout at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # objectives are known at the end of a trial
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}


@dataclass(frozen=True, slots=True)
class Axis:
    """The values that one setting may have: numbers from `low` to `high`, or one of `values`.

    log: uniform in the logarithm. whole: integers.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    values: tuple[Value, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution of these values."""
        if self.values:
            return CategoricalDistribution(self.values)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True)
class Past:
    """A trial that has ended.

    state: complete; stopped by ASHA; or diverged. compared: the value of every epoch that ASHA compares. values: of the
    objectives, all maximised, of a complete trial.
    """

    number: int
    settings: Settings
    state: Literal["complete", "stopped", "diverged"]
    compared: tuple[float, ...]
    values: Mapping[str, float]
    reason: str = ""  # of a diverged trial


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is searched. A trial has `epochs`; of those that reach `grace` epochs, one in `reduction` goes on."""

    trials: int
    epochs: int
    grace: int
    reduction: float
    concurrent: int  # trials at a time, a process each
    gpu: bool = False  # each trial has a GPU
    max_failures: int = 0  # restarts of a trial whose process was lost


class Watcher:
    """What the caller of `tune` does with events; all are called in its thread."""

    def begins(self, number: int, settings: Settings) -> None:
        """A trial gets its settings, before anything of it runs."""

    def epoch(self, number: int, epoch: int, compared: float) -> None:
        """An epoch of a trial is complete."""

    def ends(self, past: Past) -> None:
        """A trial has ended."""


class Repeatable(BaseSampler):
    """TPE with a random stream for each trial, so that a study which was rebuilt proposes what it would have proposed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.number, self.sampler = seed, -1, TPESampler(n_startup_trials=STARTUP)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self.number:
            seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
            self.number, self.sampler = trial.number, TPESampler(n_startup_trials=STARTUP, seed=seed)
        return self.sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE's."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As TPE's."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: BaseDistribution) -> Any:
        """As TPE's."""
        return self._of(trial).sample_independent(study, trial, param_name, distribution)


def study_of(axes: Mapping[str, Axis], objectives: Sequence[str], past: Sequence[Past], waiting: Sequence[Settings],
             apart: int | None = None) -> InMemoryStorage:  # fmt: skip
    """A storage with the study of these trials, in which those `waiting` come next.

    apart: the number of a trial that the sampler must not learn from.
    """
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name=STUDY, directions=[StudyDirection.MAXIMIZE] * len(objectives))
    distributions = {name: axis.distribution for name, axis in axes.items()}
    for trial in past:
        state = state_of(trial, apart)
        values = [trial.values[name] for name in objectives] if state == TrialState.COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, values=values, params=dict(trial.settings),
                                                  distributions=distributions))  # fmt: skip
    for settings in waiting:
        study.enqueue_trial(dict(settings))
    return storage


def state_of(past: Past, apart: int | None) -> TrialState:
    """How a trial is recorded for the sampler: for TPE those that are pruned are worse than all that are complete."""
    if past.number == apart:
        return TrialState.FAIL
    return TrialState.COMPLETE if past.state == "complete" else TrialState.PRUNED


class _OfThisProcess:
    """Objects that hold the caller's: Ray Tune copies and pickles its own state, in which these are left out."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


class Search(_OfThisProcess, OptunaSearch):
    """Optuna's search as Ray Tune has it, but for three things.

    Trials have numbers and are reported before they begin; a stopped trial has no values, since it has not trained as long;
    and nothing is pickled.
    """

    def __init__(self, axes: Mapping[str, Axis], objectives: Sequence[str], storage: InMemoryStorage, seed: int,
                 numbers: Iterator[int], apart: int | None, begins: Callable[[int, Settings], None]) -> None:  # fmt: skip
        metric: Any = list(objectives) if len(objectives) > 1 else objectives[0]
        mode: Any = ["max"] * len(objectives) if len(objectives) > 1 else "max"
        space = {name: axis.distribution for name, axis in axes.items()}
        super().__init__(space, metric, mode, sampler=Repeatable(seed), study_name=STUDY, storage=storage)
        self.numbers, self.apart, self.begins = numbers, apart, begins
        self.number_of: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The number and the settings of the next trial."""
        settings = super().suggest(trial_id) or {}
        number = self.number_of[trial_id] = next(self.numbers)
        self.begins(number, settings)
        return {"number": number, "settings": settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the sampler learns from complete trials."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study the values of a complete trial, or that it was pruned."""
        apart = self.number_of[trial_id] == self.apart
        complete = result is not None and result.get("complete") and not apart
        super().on_trial_complete(trial_id, result if complete else None, error=apart)

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: the caller's records are what is resumed from."""


class _Callback(_OfThisProcess, ray.tune.Callback):
    """Passes on what Ray Tune reports; the first error ends the search."""

    def __init__(self, watcher: Watcher, objectives: Sequence[str]) -> None:
        self.watcher, self.objectives = watcher, objectives
        self.compared: dict[int, dict[int, float]] = {}
        self.error: BaseException | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.error = self.error or result.get("error")
        if self.error is None and "compared" in result:
            number, epoch = trial.config["number"], result["epoch"]
            seen = self.compared.setdefault(number, {})
            if epoch not in seen:  # a trial that was restarted reports its epochs again
                seen[epoch] = result["compared"]
                self._do(lambda: self.watcher.epoch(number, epoch, result["compared"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.error is not None:
            return
        number, last = trial.config["number"], trial.last_result
        values = {name: last[name] for name in self.objectives} if last.get("complete") else {}
        state: Any = "complete" if last.get("complete") else "diverged" if "diverged" in last else "stopped"
        compared = tuple(value for _, value in sorted(self.compared.get(number, {}).items()))
        past = Past(number, trial.config["settings"], state, compared, values, last.get("diverged", ""))
        self._do(lambda: self.watcher.ends(past))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        times = trial.num_failures
        self.error = self.error or StepError(
            f"tune: trial {trial.config['number']} failed: its process was lost {times} times"
        )

    def _do(self, call: Callable[[], None]) -> None:
        """Calls the watcher; an error there is raised once Ray Tune has ended."""
        try:
            call()
        except (InputError, StepError) as error:
            self.error = error


class _Stopper(_OfThisProcess, ray.tune.Stopper):
    """Ends the search after an error."""

    def __init__(self, callback: _Callback) -> None:
        self.callback = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.callback.error is not None

    def stop_all(self) -> bool:
        """Whether there was an error."""
        return self.callback.error is not None


@dataclass
class _Recorded:
    """What ASHA reads of a trial."""

    trial_id: str


def scheduler_of(budget: Budget, past: Sequence[Past]) -> ASHAScheduler:
    """ASHA with the epochs of past trials in its rungs, added in their order."""
    asha = ASHAScheduler(time_attr="epoch", metric="compared", mode="max", max_t=budget.epochs,
                         grace_period=min(budget.grace, budget.epochs), reduction_factor=budget.reduction)  # fmt: skip
    nobody: Any = None  # ASHA does not use the controller
    for trial in past:
        one: Any = _Recorded(f"past-{trial.number}")
        asha.on_trial_add(nobody, one)
        for epoch, compared in enumerate(trial.compared, start=1):
            asha.on_trial_result(nobody, one, {"epoch": epoch, "compared": compared})
        asha.on_trial_remove(nobody, one)
    return asha


def tune(
    run: RunTrial,
    arrays: Mapping[str, np.ndarray],
    axes: Mapping[str, Axis],
    objectives: Sequence[str],
    budget: Budget,
    watcher: Watcher,
    *,
    seed: int,
    first: Settings,
    apart: bool = False,
    past: Sequence[Past] = (),
    begun: Mapping[int, Settings] = {},
) -> None:
    """Runs trials until `budget.trials` have ended, those `past` included; Ray is connected.

    The first trial has the settings `first`; apart: it only stands for others, so the sampler does not learn from it. begun:
    the settings of trials that had begun and not ended, by their numbers. An `InputError` or `StepError` of a trial or of
    the watcher ends the search and is raised here; a `Diverged` ends the trial alone.
    """
    waiting = dict(sorted(begun.items())) if past or begun else {0: first}
    taken = {trial.number for trial in past} | set(waiting)
    missing = budget.trials - len(past)
    if missing <= 0:
        return
    numbers = iter([*waiting, *range(max(taken) + 1, max(taken) + 1 + missing)])
    callback, special = _Callback(watcher, objectives), 0 if apart else None
    with _quiet(), tempfile.TemporaryDirectory(prefix="ofa-tune-", ignore_cleanup_errors=True) as folder:
        storage = study_of(axes, objectives, past, list(waiting.values()), special)
        search = Search(axes, objectives, storage, seed, numbers, special, watcher.begins)
        trainable = ray.tune.with_parameters(_on_worker, run=run, arrays=dict(arrays))
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trainable, {"cpu": 1, "gpu": 1 if budget.gpu else 0}),
            tune_config=ray.tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler_of(budget, past),
                num_samples=missing,
                max_concurrent_trials=budget.concurrent,
                reuse_actors=True,
            ),
            run_config=ray.tune.RunConfig(
                name=STUDY,
                storage_path=folder,
                callbacks=[callback],
                stop=_Stopper(callback),
                verbose=0,
                failure_config=ray.tune.FailureConfig(max_failures=budget.max_failures),
            ),
        )
        try:
            tuner.fit()
        except (InputError, StepError) as error:  # of the watcher, when a trial began
            raise error from None
        except ray.tune.TuneError as error:
            raise StepError(f"tune: Ray Tune failed: {str(error).strip().splitlines()[-1]}") from None
    if callback.error is not None:
        raise callback.error


def _on_worker(config: dict[str, Any], run: RunTrial, arrays: Mapping[str, np.ndarray]) -> None:
    """The function that Ray Tune runs for a trial."""
    last = 0

    def report(epoch: int, compared: float, values: Mapping[str, float] | None) -> None:
        nonlocal last
        last = epoch
        ray.tune.report({"epoch": epoch, "compared": compared, "complete": values is not None, **(values or {})})

    try:
        run(config["number"], config["settings"], arrays, report)
    except Diverged as error:
        ray.tune.report({"epoch": last, "diverged": str(error)})
    except (InputError, StepError) as error:
        ray.tune.report({"epoch": last, "error": error})
    except Exception as error:  # a mistake of ours, which a retry would repeat
        reason = (str(error).strip().splitlines() or [""])[0]
        what = f"tune: trial {config['number']}: {type(error).__name__}: {reason}"
        ray.tune.report({"epoch": last, "error": StepError(what)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what Optuna and Ray Tune write: results are reported by the watcher."""
    verbosity = optuna.logging.get_verbosity()
    before = {name: os.environ.get(name) for name in TUNE_SETTINGS}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    log = logging.getLogger("ray.tune")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    os.environ.update(TUNE_SETTINGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        optuna.logging.set_verbosity(verbosity)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
