"""Everything a run can be told: one section a step, every default here, unknown names are errors."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from cluster import config
from cluster.config import STRICT, ConfigError
from ofa.arch import ArchError
from ofa.phases import Phase
from ofa.space import Space
from ofa.spaces import get_space

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Data:
    """Which images, and how they are divided: what is neither `selection` nor `test` is trained on."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: Literal["digits"] = "digits"  # scikit-learn's, embedded
    selection: Fraction = 0.3  # predictors, search and ensembles choose on it; never trained on
    test: Fraction = 0.2  # only for the numbers in the report
    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.75  # least area of a training image's random crop
    flip: bool = False  # mirror half of the training images


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of training; a choice that is left out is wholly open."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    epochs: Count
    lr: Positive
    depths: tuple[int, ...] = ()
    kernels: tuple[int, ...] = ()
    expands: tuple[int, ...] = ()
    warmup_epochs: NotNegative = 1.0
    subnets: Count = 1  # drawn a step by each worker
    largest: bool = False  # every step also trains the largest network
    distil: NotNegative = 0.0  # weight of the first phase's largest network as a teacher

    def phase(self, space: Space) -> Phase:
        """This phase of `space`."""
        smaller = space.only(
            depths=self.depths or space.depths,
            kernels=self.kernels or space.kernels,
            expands=self.expands or space.expands,
        )
        return Phase(self.name, smaller, self.epochs, self.warmup_epochs, self.lr, self.subnets, self.largest, self.distil)


@dataclass(frozen=True)
class Train:
    """How the supernet is trained, on Ray Train workers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    phases: tuple[PhaseConfig, ...]
    workers: Count = 2
    threads: Count = 1  # of each worker; the result depends on it
    batch: Count = 64  # images a step, of all workers together
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4  # not on norms and biases
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: Positive = 5.0
    validate_every: Count = 5  # epochs between looks at the selection split
    checkpoint_s: NotNegative = 10.0  # seconds between checkpoints within a phase
    max_failures: Annotated[int, Field(ge=0)] = 10  # lost workers before training gives up


@dataclass(frozen=True)
class Measure:
    """What is measured of the trained supernet before any search."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    archs: Annotated[int, Field(ge=10)] = 240  # random ones and the two extremes
    calibration_images: Count = 512  # of the training split, for each arch's batch-norm statistics
    batch: Count = 128
    latency_archs: Annotated[int, Field(ge=5)] = 40  # the first of them, also timed
    latency_runs: Annotated[int, Field(ge=5)] = 30
    latency_threads: Count = 1


@dataclass(frozen=True)
class Fit:
    """How predictors are judged."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    held_out: Fraction = 0.2  # of the measured rows


@dataclass(frozen=True)
class Search:
    """Measured search (Optuna on Ray) and predicted search (gene arrays)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    algorithm: Literal["default", "nsga2", "random"] = "default"
    evaluations: Annotated[int, Field(ge=4)] = 300  # measured, the two extremes among them
    population: Annotated[int, Field(ge=4)] = 40  # archs of a generation, of all islands together
    islands: Count = 2
    migrate_every: Count = 3  # generations between exchanges of the best
    predicted_algorithm: Literal["default", "archive", "random"] = "default"
    predicted_evaluations: Count = 20000
    predicted_members: Count = 40  # most archs of the predicted front that are then measured


@dataclass(frozen=True)
class Ensemble:
    """Which subsets of the front are looked for."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    costs: tuple[Literal["max", "sum"], ...] = ("max", "sum")  # members run in parallel, or one after the other
    unit: Literal["macs"] = "macs"
    algorithm: Literal["default", "greedy", "exhaustive"] = "default"
    top_k: Annotated[int, Field(ge=0)] = 0  # classes kept of every prediction; 0 keeps all


@dataclass(frozen=True)
class Ray:
    """Where it runs; this section has no part in the run's id."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    address: str = "local"
    evaluators: Count = 2


@dataclass(frozen=True)
class Experiment:
    """One run: what is trained, searched and combined."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    train: Train
    name: str = "run"
    space: str = "digits"
    seed: int = 1
    data: Data = field(default_factory=Data)
    measure: Measure = field(default_factory=Measure)
    fit: Fit = field(default_factory=Fit)
    search: Search = field(default_factory=Search)
    ensemble: Ensemble = field(default_factory=Ensemble)
    ray: Ray = field(default_factory=Ray)

    @cached_property
    def id(self) -> str:
        """The run's name in a store: asking for the same again gives the same."""
        asked = {key: value for key, value in asdict(self).items() if key != "ray"}
        return f"{self.name}-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]}"

    @cached_property
    def search_space(self) -> Space:
        return get_space(self.space)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        return tuple(phase.phase(self.search_space) for phase in self.train.phases)


def load(path: str, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """The experiment at `path`; what cannot work is a `ConfigError` before anything starts."""
    experiment = config.load(path, Experiment, overrides)
    try:
        _check(experiment)
    except (ArchError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return experiment


def _check(experiment: Experiment) -> None:
    """What no single setting can tell."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", experiment.name):
        raise ConfigError(f"name is {experiment.name!r}; use small letters, digits, dots and dashes")
    phases, search, train = experiment.phases, experiment.search, experiment.train  # phases: checks its choices too
    if not phases:
        raise ConfigError("train: there are no phases; add a [[train.phases]] section")
    names = [phase.name for phase in phases]
    bad = next((n for n in names if names.count(n) > 1 or not re.fullmatch("[a-z0-9_-]+", n)), None)
    if bad is not None:
        raise ConfigError(
            f"train.phases: {bad!r} is no name or stands twice; use small letters, digits and dashes, once each"
        )
    if phases[0].distil:
        raise ConfigError(f"train.phases: {names[0]!r} comes first and has no teacher yet; set its distil to 0")
    if experiment.data.selection + experiment.data.test >= 1:
        raise ConfigError("data: selection and test together leave nothing to train on; lower one of them")
    if train.batch % train.workers:
        raise ConfigError(
            f"train.batch is {train.batch}, not a multiple of train.workers ({train.workers}); "
            f"use {train.batch // train.workers * train.workers or train.workers}"
        )
    if search.population < 4 * search.islands:
        raise ConfigError(
            f"search.population is {search.population}, "
            f"too few for {search.islands} islands; use at least {4 * search.islands}"
        )
    if experiment.measure.latency_archs > experiment.measure.archs:
        raise ConfigError(f"measure.latency_archs is {experiment.measure.latency_archs}, more than measure.archs")
    if experiment.measure.archs > experiment.search_space.size:
        raise ConfigError(f"measure.archs is {experiment.measure.archs}; the space has {experiment.search_space.size}")
