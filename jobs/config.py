"""The settings of a run: one section for each step, with every default; unknown names are errors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from cluster import address, config
from cluster.config import MOST, STRICT, ConfigError, Count, NotNegative, NotNegativeInt, one_of
from cluster.kube.rayjob import Kube
from cluster.runtime.backends import BACKENDS
from cluster.runtime.machine import gpus_of
from cluster.store import canonical
from cluster.texts import json_text
from ensemble.rule import RULES
from jobs import files
from jobs.images.source import reader_of_text
from jobs.settings import PHASES, Value, changed, values_of
from ofa.arch import ArchError
from ofa.draws import Draw, Given, Pairs, Sandwich, Uniform
from ofa.meters import ALWAYS, METERS
from ofa.phases import Phase
from ofa.space import Space
from ofa.spaces import get_space
from search.errors import ProblemError
from search.objective import LATENCY, OBJECTIVES, Objective, objective_named
from search.predict.quality import held_out_rows

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Every number has a range (`tests/jobs/test_config.py`); upper bounds only exclude what cannot be meant.
Positive = Annotated[float, Field(gt=0, le=1e30)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Processes = Annotated[int, Field(ge=1, le=10_000)]
Threads = Annotated[int, Field(ge=1, le=1024)]


def _workers(given: Any, parsed: ValidatorFunctionWrapHandler) -> Any:
    """A number of workers, or the fewest and the most."""
    try:
        found = parsed(given)
    except ValidationError as error:
        pair = isinstance(given, list | tuple)
        reason = next((e["msg"] for e in error.errors() if (len(e["loc"]) > 1) == pair), error.errors()[0]["msg"])
        raise ValueError(f"{reason}; give a number, or [least, most]" if pair else reason) from None
    if isinstance(found, tuple) and found[0] > found[1]:
        raise ValueError("expected a number, or [least, most]")
    return found


def _batch(given: Any, parsed: ValidatorFunctionWrapHandler) -> Any:
    """A number of images, or `AUTO`."""
    try:
        return parsed(given)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(reason if isinstance(given, int | float) else f"give a number, or {AUTO!r}") from None


Workers = Annotated[Processes | tuple[Processes, Processes], WrapValidator(_workers)]
Batch = Annotated[Count | Literal["auto"], WrapValidator(_batch)]
Gpus = Annotated[float, Field(ge=0, le=1024)]
ExitWeights = Annotated[str, one_of("ofa.exits", "WEIGHTS")]
CostRule = Annotated[str, one_of("ensemble.rule", "RULES")]


def _measured_algorithm(name: str) -> str:
    """`search.algorithm`; whether a sampler of Optuna can be used with its settings is checked by `_check_names`."""
    from search.islands.external import PREFIX
    from search.measured import ALGORITHMS, ALTERNATIVES

    if name not in ALGORITHMS and not name.startswith(PREFIX):
        raise ValueError(ALTERNATIVES)
    return name


def _source(text: str) -> str:
    """`data.source`, in one spelling for each place."""
    if reader_of_text(text) is not None:
        return text
    canonical(text)  # raises an error if it can be no store
    found = address.portable(text)
    return found if reader_of_text(found) is None else f"./{found}"


Source = Annotated[str, AfterValidator(_source)]
Address = Annotated[str, AfterValidator(address.portable)]

FEWEST_ARCHS = 10  # that are measured
FEWEST_ROWS = 3  # that a predictor is fitted to

# Settings that were added later, by section: they are no part of the id while they have their defaults.
LATER: dict[str, tuple[str, ...]] = {
    "phases": ("extremes", "coupled", "ramp_epochs"),
    "train": ("zero_last_gamma", "average"),
    "data": ("alternating_flip",),
    "measure": ("calibration_batch",),
    "search": ("latency_tables", "at_most", "at_least", "sampler"),
}
AUTO = "auto"  # the batch size of evaluators is chosen by measurement
FIXED_BATCH = 128  # where it is, images per batch of all else
LONGEST_NAME = 200  # characters; a run's id, which has nine more, is the name of a directory
HERE = "here"  # the device of `latency_ms.here`: the machine that measures
TRIALS = ("trials", "concurrent")  # of `tune`, which are no part of the id: more trials continue the same search
ELSEWHERE = ("backend", "workers", "max_failures", "checkpoint_s", "tensorboard", "readers")  # no part of the id


# Values of some kinds of genes by their plurals, such as `kernels`; each space has its own kinds.
Choices = dict[str, tuple[Annotated[float, Field(ge=0, le=1e6)], ...]]


def _flat(doc: Any) -> Any:
    """Limits by name: `latency_ms.phone = 25` is a table in a table in TOML, and one name here."""
    if not isinstance(doc, dict):
        return doc
    found: dict[Any, Any] = {}
    for name, value in doc.items():
        inner = _flat(value)
        found.update({f"{name}.{key}": one for key, one in inner.items()} if isinstance(inner, dict) else {name: inner})
    return found


Limits = Annotated[dict[str, Annotated[float, Field(ge=-1e18, le=1e18)]], BeforeValidator(_flat)]


@dataclass(frozen=True)
class Data:
    """The images and their splits: images that are neither in `selection` nor in `test` are training images."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: Source = "digits"  # resolved by jobs/images/source.py: scikit-learn's digits, a directory, s3://bucket/prefix
    classes: tuple[str, ...] = ()  # names (or numbers) of the classes whose images are used, in this order; () is all
    selection: Positive = 0.3  # share or (from 1 on) number; predictors, search and ensembles are evaluated on it
    test: Positive = 0.2  # held-out test split, share or number; not used where the source has a test split
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # centre-crop ratio at evaluation
    min_crop: Annotated[float, Field(gt=0, le=1)] = 0.75  # smallest area of a training image's random crop, as a share
    flip: bool = False  # mirror training images with probability 0.5
    alternating_flip: bool = False  # instead, mirror a random half, and in the next epoch the other one
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0  # colour jitter: largest deviation of the factor from 1
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    randaugment: Annotated[int, Field(ge=0, le=10)] = 0  # RandAugment operations on every training image
    magnitude: Annotated[float, Field(ge=0, le=1)] = 0.3  # of the RandAugment operations
    max_corrupt: NotNegativeInt = 10  # images that may be skipped because they cannot be decoded
    memory_mib: Count = 2048  # for decoded training images; a larger training split is streamed
    readers: Processes = 2  # processes that decode while streaming


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of training; a kind of gene without `choices` has all those of the run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    epochs: Count
    lr: Rate
    choices: Choices = field(default_factory=dict)  # restricts the run's; also as settings of the phase: kernels = [7]
    archs: tuple[str, ...] = ()  # train only these sub-networks, given by name
    warmup_epochs: NotNegative = 1.0  # of the learning rate
    subnets: Count = 1  # sub-networks that each worker samples per step
    largest: bool = False  # every step also trains the largest network
    sandwich: bool = False  # also trains the largest and the smallest; all others learn from the largest in the same step
    distil: NotNegative = 0.0  # weight of the teacher's soft labels
    # the largest network after the first phase, after the phase before, or in the same step
    teacher: Literal["first", "previous", "largest"] = "first"
    joint_exits: ExitWeights = "last"  # weights of the losses of all exits up to a sampled network's own
    extremes: tuple[Share, Share] = (0.0, 0.0)  # probabilities that a sampled sub-network is the smallest, or the largest
    coupled: tuple[tuple[NotNegative, Positive], ...] = ()  # the pairs of depth and expand ratio that a stage may have
    ramp_epochs: NotNegative = 0.0  # in which the weight of all but the largest network rises from 0 to 1

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, doc: Any) -> Any:
        """Collects lists under other names than the settings' as choices of genes."""
        if not isinstance(doc, dict) or not isinstance(doc.get("choices", {}), dict):
            return doc
        known = {setting.name for setting in fields(cls)}
        genes = {name: values for name, values in doc.items() if name not in known and isinstance(values, list)}
        rest = {name: value for name, value in doc.items() if name not in genes}
        twice = next((name for name in genes if name in doc.get("choices", {})), None)
        if twice is not None:
            raise ValueError(f"{twice} is a setting of the phase and of its choices; give it once")
        return rest | {"choices": {**doc.get("choices", {}), **genes}}

    def phase(self, space: Space, lr_scale: float) -> Phase:
        """This phase for `space`."""
        others = [setting.name for setting in fields(self) if setting.name != "choices"]
        smaller = narrowed(space, self.choices, f"train.phases: {self.name!r}", others)
        pairs = self._pairs(smaller)
        draw: Draw = Uniform(self.subnets, self.largest, self.extremes, pairs)
        if self.sandwich:
            draw = Sandwich(self.subnets, pairs)
        self._check_steps()
        if self.archs:
            draw = Given(tuple(smaller.checked(smaller.named(name)) for name in self.archs))
        return Phase(
            name=self.name,
            space=smaller,
            epochs=self.epochs,
            lr=self.lr,
            warmup_epochs=self.warmup_epochs,
            draw=draw,
            distil=self.distil,
            teacher=self.teacher,
            lr_scale=lr_scale,
            joint_exits=of_exits(self.joint_exits, space, f"train.phases: {self.name!r}: joint_exits"),
            ramp_epochs=self.ramp_epochs,
        )

    def _check_steps(self) -> None:
        """Raises a `ConfigError` for settings of a step that exclude each other."""
        where = f"train.phases: {self.name!r}"
        if self.archs and (self.coupled or any(self.extremes) or self.ramp_epochs):
            raise ConfigError(f"{where}: archs are trained one per step; leave out extremes, coupled and ramp_epochs")
        if sum(self.extremes) > 1 or (any(self.extremes) and self.sandwich):
            raise ConfigError(
                f"{where}: extremes is {list(self.extremes)}; give two probabilities that are at most 1 together, and only "
                "where sandwich, which trains both in every step, is false"
            )
        if self.ramp_epochs and not (self.sandwich or self.largest):
            raise ConfigError(
                f"{where}: ramp_epochs is {self.ramp_epochs:g}, but not every step trains the largest network; set "
                "sandwich or largest to true"
            )
        if self.ramp_epochs > self.epochs:
            raise ConfigError(f"{where}: ramp_epochs is {self.ramp_epochs:g}, of {self.epochs} epochs; lower it")
        if self.teacher == "largest" and (self.sandwich or not self.largest):
            raise ConfigError(
                f"{where}: teacher is 'largest', which needs largest = true and no sandwich (with which all others learn "
                "from the largest anyway)"
            )

    def _pairs(self, space: Space) -> Pairs:
        """The coupled depths and expand ratios; a `ConfigError` for values that `space` lacks, or another order."""
        if not self.coupled:
            return ()
        depths, expands = space.values("depth"), space.values("expand")
        known = all(depth in depths and expand in expands for depth, expand in self.coupled)
        if not known or any(a > c or b > d for (a, b), (c, d) in pairwise(self.coupled)):
            raise ConfigError(
                f"train.phases: {self.name!r}: coupled is {[list(pair) for pair in self.coupled]}; give pairs of a depth "
                f"({', '.join(f'{value:g}' for value in depths)}) and an expand ratio "
                f"({', '.join(f'{value:g}' for value in expands)}) that ascend in both"
            )
        return self.coupled


@dataclass(frozen=True)
class Train:
    """The training of the supernet."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    phases: tuple[PhaseConfig, ...]  # none, []: the supernet of `weights` is searched as it is
    backend: str = "ray"  # a name in `cluster.runtime.backends.BACKENDS`
    workers: Workers = 2  # or [least, most]: as many as the cluster has places for
    threads: Threads = 1  # CPU threads of each worker; part of the run's id, since the last bits of results depend on it
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: a GPU for every worker
    precision: Literal["float32", "bfloat16"] = "float32"  # of the forward pass
    batch: Count = 64  # images per step, of all workers together
    lr_batch: NotNegativeInt = 0  # learning rates are scaled by batch / lr_batch; 0: not scaled
    schedule: Literal["phase", "whole"] = "phase"  # learning rate: one cosine per phase, or one over all phases
    momentum_across_phases: bool = False  # otherwise every phase starts with zero momentum
    weights: Address = ""  # initial weights: weights.safetensors of a supernet of another run, or of `ofa import`
    head: Literal["kept", "new"] = "kept"  # classifiers of these weights: kept, or sampled anew for other classes
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4  # not on norms and biases
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the classifier's features
    clip_norm: Positive = 5.0  # gradient-norm clipping threshold
    gradients: Literal["mean", "sum"] = "mean"  # of the sub-networks of a step
    draws: Literal["own", "shared"] = "own"  # each worker samples its own sub-networks, or all train the same ones
    # soft cross-entropy, squared error of logits, or adaptive alpha-divergence
    distil_loss: Literal["ce", "mse", "alpha"] = "ce"
    teacher_norm: Literal["own", "batch"] = "own"  # a teacher's batch-norm statistics: its own, or each batch's as published
    teacher_exits: ExitWeights = "last"  # weights of the logits of a teacher's exits
    validate_every: Count = 5  # epochs between evaluations on the selection split
    validate_images: Count = 10000  # most images of the selection split in these evaluations
    checkpoint_s: NotNegative = 10.0  # seconds between checkpoints within a phase
    max_failures: NotNegativeInt = 10  # worker failures after which training fails
    zero_last_gamma: bool = False  # scale of the last norm of every residual block: starts at 0, otherwise at 1
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the moving average of weights that is evaluated; 0: none
    tensorboard: bool = False  # event files for TensorBoard in the run's logs/tensorboard/

    @property
    def least_workers(self) -> int:
        """The fewest workers with which training goes on."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """The most workers, which is the number of shards of every batch."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True)
class Adapt:
    """The search that adapts its supernet (NAT, arXiv:2005.05859; NATv2, arXiv:2307.00960); the defaults are NATv2's."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    iterations: NotNegativeInt = 0  # 0: the supernet is not adapted; published: 30
    archs: Annotated[int, Field(ge=FEWEST_ARCHS, le=MOST)] = 300  # of the first archive; NAT: 100
    initial: Annotated[str, one_of("search.adapt.laws", "INITIAL")] = "natv2"  # law of the first sub-networks; NAT: nat
    oversample: Count = 10  # times as many are evaluated first, and the best kept; NAT: 1
    archive: Literal["constant", "growing"] = "constant"  # its size; NAT: growing
    batch: Count = 25  # sub-networks that an iteration evaluates; NAT: 8
    predictor: Annotated[str, one_of("search.predict.models", "FITS")] = "boosting"
    features: Annotated[str, one_of("search.predict.predictor", "FEATURES")] = "integers"  # NAT: one-hot
    predicted_evaluations: Count = 2000  # of an iteration's search on the predictions
    candidates: Count = 100  # of that search's results, from which the batch is selected
    pick: Annotated[str, one_of("search.adapt.pick", "PICKS")] = "spread"  # how the batch is selected
    survivors: Count = 150  # of the archive, whose genes give the distribution
    law: Annotated[str, one_of("search.adapt.laws", "LAWS")] = "categorical"  # how the distribution is estimated
    epochs: Count = 5  # of an iteration's fine-tuning
    lr: Rate = 0.0025  # one cosine over all iterations
    subnets: Count = 4  # sub-networks a training step
    distil: NotNegative = 1.0  # weight of the soft labels of the largest network before the iteration


@dataclass(frozen=True)
class Measure:
    """The measurements of the trained supernet before any search."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    archs: Annotated[int, Field(ge=FEWEST_ARCHS, le=MOST)] = 240  # the smallest sub-network, the largest and random ones
    calibration_images: Count = 512  # training images for the batch-norm calibration of each arch
    batch: Batch = FIXED_BATCH  # images per batch of an evaluation; auto: the fastest one, by measurement
    calibration_batch: NotNegativeInt = 0  # images per batch of the calibration; 0: as `batch`, 128 where that is auto
    device: Literal["cpu", "cuda"] = "cpu"  # of evaluators: they evaluate, predict and time networks on it
    latency_archs: Annotated[int, Field(ge=5, le=MOST)] = 40  # the first of them, which are also timed
    latency_runs: Annotated[int, Field(ge=5, le=MOST)] = 30  # timed runs of each
    latency_threads: Threads = 1  # CPU threads while timing

    @property
    def fixed_batch(self) -> int:
        """Images per batch of evaluations that the evaluators do not do: in training, and in the command's own process."""
        return FIXED_BATCH if isinstance(self.batch, str) else self.batch

    @property
    def norm_batch(self) -> int:
        """Images per batch of the batch-norm calibration, on which its statistics depend."""
        return self.calibration_batch or self.fixed_batch


@dataclass(frozen=True)
class Fit:
    """The predictors and their evaluation."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    predictor: Literal["default", "ridge", "residual", "gp", "svr", "rbf", "boosting", "forest", "mlp", "knn"] = "default"
    held_out: Fraction = 0.2  # of the measured rows


@dataclass(frozen=True)
class LatencyTableConfig:
    """The latency table of a device, in a published format (JSON or YAML)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str  # of the device, as in the objective latency_ms.<name>
    file: Address  # a path, or s3://bucket/key; the run keeps a copy when its training begins


@dataclass(frozen=True)
class Search:
    """Measured search (Optuna on Ray) and predicted search (gene arrays)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    objectives: tuple[str, ...] = ("top1", "macs")  # two or more of search.objective.OBJECTIVES, or latency_ms.<device>
    latency_tables: tuple[LatencyTableConfig, ...] = ()  # devices besides `here`, the machine that measures
    at_most: Limits = field(default_factory=dict)  # highest value that members of the front may have, by objective
    at_least: Limits = field(default_factory=dict)  # lowest value, of objectives that are maximised
    algorithm: Annotated[str, AfterValidator(_measured_algorithm)] = "default"  # of the measured search
    mode: Literal["generations", "asynchronous"] = "generations"  # the second is faster on many evaluators, not repeatable
    evaluations: Annotated[int, Field(ge=4, le=MOST)] = 300  # of the measured search, the smallest and the largest included
    population: Annotated[int, Field(ge=4, le=MOST)] = 40  # archs per generation, of all islands together
    islands: Processes = 2  # populations, each in its own Ray task
    migrate_every: Count = 3  # generations between migrations of the best archs
    predicted_algorithm: Annotated[str, one_of("search.predicted", "ALGORITHMS")] = "default"  # one that needs no limit
    predicted_evaluations: Count = 20000
    predicted_members: Count = 40  # most archs of the predicted front that are then measured
    sampler: dict[str, bool | int | float | str] = field(default_factory=dict)  # of an algorithm optuna:...: its arguments


@dataclass(frozen=True)
class Ensemble:
    """The search for ensembles among subsets of the front."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    costs: Annotated[tuple[CostRule, ...], Field(min_length=1)] = ("max", "sum")  # members in parallel, or in turn
    unit: str = "macs"  # a cost that is an objective or that every record has: macs, params
    algorithm: Annotated[str, one_of("ensemble.select", "ALGORITHMS")] = "default"
    evaluations: Count = 200_000  # subsets that nsga2, sms-emoa and spea2 score
    top_k: NotNegativeInt = 0  # classes kept of every prediction; 0 keeps all
    vote: Annotated[str, one_of("ensemble.vote", "VOTES")] = "soft"  # probabilities, one vote each, weighted probabilities
    calibrate: bool = False  # apply a fitted temperature to each member's probabilities
    most_members: NotNegativeInt = 0  # most members of an ensemble; 0 is no limit
    most_cost: NotNegative = 0.0  # highest cost of an ensemble, in the unit; 0 is no limit
    chosen_on: Literal["selection", "train"] = "selection"  # train is the published protocol: 50 training images a class


def _without_later(section: dict[str, Any], name: str, kind: Any) -> dict[str, Any]:
    """A section without those of its settings in `LATER` that have their defaults. kind: its dataclass."""
    defaults = {one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(kind)}
    return {key: value for key, value in section.items() if key not in LATER[name] or value != defaults[key]}


@dataclass(frozen=True)
class Export:
    """The networks that are exported; this section is no part of the run's id while nothing is fine-tuned."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    finetune_epochs: NotNegativeInt = 0  # for which every network of the front is trained further, alone, and exported
    finetune_lr: Rate = 0.01  # of the first step; a cosine to 0
    finetune_distil: NotNegative = 0.0  # weight of the soft labels of the supernet's largest network


def _ranges(doc: Any) -> Any:
    """Ranges by the name of a setting: `train.phases.lr` may be a table in tables in TOML, and a list is one of values."""
    if not isinstance(doc, dict):
        return doc
    found: dict[str, Any] = {}
    for name, value in doc.items():
        if not isinstance(value, dict) or set(value) & {one.name for one in fields(Range)} or not value:
            found[name] = {"values": value} if isinstance(value, list | tuple) else value
        else:
            found |= {f"{name}.{key}": one for key, one in _ranges(value).items()}
    return found


@dataclass(frozen=True)
class Range:
    """The values that trials give to a setting: numbers from `low` to `high`, or one of `values`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    low: Annotated[float, Field(ge=-1e18, le=1e18)] = 0.0
    high: Annotated[float, Field(ge=-1e18, le=1e18)] = 0.0
    log: bool = False  # uniform in the logarithm
    relative: bool = False  # the numbers are factors of the value in the config
    values: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Range:
        if bool(self.values) == (self.low < self.high):
            raise ValueError("give low and a higher high, or values")
        if self.values and (self.log or self.relative):
            raise ValueError("give log and relative with low and high, not with values")
        if (self.log or self.relative) and not self.values and self.low < 0:
            raise ValueError("low is below 0; use a positive number")
        if self.log and self.low == 0:
            raise ValueError("low is 0, which has no logarithm; use a positive number")
        return self

    def ends(self, whole: bool) -> tuple[Value, ...]:
        """The values between which, or among which, a setting is. whole: of an integer."""
        if self.values:
            return self.values
        return (int(self.low), int(self.high)) if whole and not self.relative else (self.low, self.high)


@dataclass(frozen=True)
class Tune:
    """The settings that `ofa tune` searches over short runs, and how; no step of the run itself uses this section."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    trials: Count = 20  # in all; not part of the run's id, so more continue the same search
    concurrent: Processes = 1  # trials at a time, a process each; placement
    epochs: NotNegativeInt = 0  # of a trial, shared by the phases as in the config; 0: two for each phase
    grace: Count = 2  # epochs before a trial may be stopped
    reduction: Annotated[float, Field(ge=1.5, le=1e6)] = 3.0  # of the trials that get so far, one in so many goes on
    # what is maximised: top-1 of the largest network, of the smallest, of both on average, or of a search on the supernet
    objectives: Annotated[tuple[Literal["top1", "largest", "smallest", "hypervolume"], ...], Field(min_length=1)] = ("top1",)
    evaluations: Annotated[int, Field(ge=4, le=MOST)] = 120  # of that search
    settings: Annotated[dict[str, Range], BeforeValidator(_ranges)] = field(default_factory=dict)  # none: see `ranges`


@dataclass(frozen=True)
class Ray:
    """The placement of the run on Ray; this section is not part of the run's id."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    address: str = "local"  # local starts a Ray cluster; auto or host:port joins one
    evaluators: Processes = 2  # actors that hold the supernet and evaluate archs
    scorers: Annotated[int, Field(ge=0, le=10_000)] = 0  # actors that score subsets of members; 0: threads of the driver
    evaluator_gpus: Gpus = 0.0  # of each evaluator: a share below 1, of one GPU, or a whole number
    scorer_gpus: Gpus = 0.0  # of each scorer
    autoscales: bool = False  # the joined cluster adds nodes when they are needed


@dataclass(frozen=True)
class Experiment:
    """One run: its training, searches and ensembles."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    train: Train
    name: str = "run"
    space: str = "digits"
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 1
    choices: Choices = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    adapt: Adapt = field(default_factory=Adapt)
    measure: Measure = field(default_factory=Measure)
    fit: Fit = field(default_factory=Fit)
    search: Search = field(default_factory=Search)
    ensemble: Ensemble = field(default_factory=Ensemble)
    export: Export = field(default_factory=Export)
    tune: Tune = field(default_factory=Tune)
    ray: Ray = field(default_factory=Ray)
    kube: Kube = field(default_factory=Kube)

    @cached_property
    def id(self) -> str:
        """The run's name in a store, which is the same for the same settings.

        Settings of placement are excluded, so a run continues with other workers when the cluster has changed; those of an
        adaptation and of fine-tuning are, where there is none, the device of evaluators, unless it is a GPU, and those of
        `LATER`. So is `tune` while it has its defaults, and always its number of trials.
        """
        used = {"adapt": self.adapt.iterations, "export": self.export.finetune_epochs}
        left_out = ("ray", "kube", *(section for section, count in used.items() if not count))
        identity = {key: value for key, value in asdict(self).items() if key not in left_out}
        identity["train"] = {key: value for key, value in identity["train"].items() if key not in ELSEWHERE}
        phases = identity["train"]["phases"]
        identity["train"]["phases"] = [_without_later(phase, "phases", PhaseConfig) for phase in phases]
        identity["data"] = {key: value for key, value in identity["data"].items() if key not in ELSEWHERE}
        if self.measure.device == "cpu":
            del identity["measure"]["device"]
        tune, defaults = identity.pop("tune"), asdict(Tune())
        if differs := {key: value for key, value in tune.items() if key not in TRIALS and value != defaults[key]}:
            identity["tune"] = differs
        for section, kind in (("train", Train), ("data", Data), ("measure", Measure), ("search", Search)):
            identity[section] = _without_later(identity[section], section, kind)
        return f"{self.name}-{hashlib.sha256(json_text(identity, sort_keys=True).encode()).hexdigest()[:8]}"

    def gpus(self, training: int) -> int:
        """The GPUs that the run needs, with `training` of them while the supernet is trained.

        An adaptation's evaluators keep theirs meanwhile.
        """
        pools = gpus_of(self.ray.evaluators, self.ray.evaluator_gpus) + gpus_of(self.ray.scorers, self.ray.scorer_gpus)
        if self.adapt.iterations:
            return pools + (self.train.least_workers if self.train.device == "cuda" else 0)
        return max(training, pools)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The settings that trials change: those of `tune.settings`, or rates, distillation weight and weight decay."""
        if self.tune.settings:
            return dict(self.tune.settings)
        found = {f"{PHASES}.lr": Range(0.3, 3.0, log=True, relative=True)}
        if any(phase.distil for phase in self.train.phases):
            found[f"{PHASES}.distil"] = Range(0.25, 4.0, log=True, relative=True)
        if self.train.weight_decay:
            found["train.weight_decay"] = Range(0.1, 10.0, log=True, relative=True)
        return found

    @property
    def last_phase(self) -> str:
        """The name of the last phase, or what stands for it in a run without phases."""
        return self.train.phases[-1].name if self.train.phases else files.UNTRAINED

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the searches, with their bounds; `jobs.costs` adds how those by latency tables are computed."""
        found = []
        for name in self.search.objectives:
            objective = objective_named(name)
            assert objective is not None, name  # checked by `load`
            limits = self.search.at_most if objective.direction == "minimize" else self.search.at_least
            found.append(replace(objective, bound=limits.get(name)))
        return tuple(found)

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """The devices whose latencies every record has: those of the tables, and `here` where it is named."""
        tables = tuple(table.name for table in self.search.latency_tables)
        named = (*self.search.objectives, self.ensemble.unit)
        return (*tables, HERE) if f"{LATENCY.field}.{HERE}" in named else tables

    @cached_property
    def search_space(self) -> Space:
        """The space restricted to the configured choices."""
        space = get_space(self.space)
        resolutions = self.choices.get("resolutions", ())
        if (fraction := next((side for side in resolutions if side != int(side)), None)) is not None:
            raise ConfigError(f"choices.resolutions has {fraction:g}; use whole numbers of pixels")
        resized = space.at([int(side) for side in resolutions]) if resolutions else space
        return narrowed(resized, {name: v for name, v in self.choices.items() if name != "resolutions"}, "choices")

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The training phases, in their order."""
        lr_scale = self.train.batch / self.train.lr_batch if self.train.lr_batch else 1.0
        return tuple(phase.phase(self.search_space, lr_scale) for phase in self.train.phases)


def with_settings(experiment: Experiment, settings: Mapping[str, Value]) -> Experiment:
    """The experiment with these settings, as a trial has them; those with a relative range are factors.

    Raises a `ConfigError` for a value that a setting cannot have.
    """
    relative = [name for name, found in experiment.ranges.items() if found.relative]
    given = ", ".join(f"{name} = {value}" for name, value in settings.items())
    where = f"tune.settings: {given}"
    found = config.parse(changed(asdict(experiment), settings, relative), Experiment, where)
    try:
        _check(replace(found, tune=Tune()))
    except (ArchError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return found


def check_tuning(experiment: Experiment) -> None:
    """Raises a `ConfigError` for settings that trials cannot change, or values that these cannot have."""
    tune, doc = experiment.tune, asdict(experiment)
    if not experiment.train.phases:
        raise ConfigError("tune: the config has no phases, so there is no training whose settings could be searched")
    if 0 < tune.epochs < len(experiment.train.phases):
        raise ConfigError(
            f"tune.epochs is {tune.epochs}; a trial has all {len(experiment.train.phases)} phases, of one epoch at least"
        )
    for name, found in experiment.ranges.items():
        values = values_of(doc, name)
        if not found.values and any(isinstance(value, bool | str) for value in values):
            raise ConfigError(f"tune.settings: {name} is {values[0]!r}, no number; give a list of values")
        if found.relative and not all(values):
            raise ConfigError(f"tune.settings: {name} is 0, so no factor changes it; give low and high without relative")
        for value in found.ends(whole=isinstance(values[0], int)):
            with_settings(experiment, {name: value})
        if name.startswith("search.") and "hypervolume" not in tune.objectives:
            raise ConfigError(
                f"tune.objectives is {list(tune.objectives)}, on which {name} has no influence; add hypervolume"
            )
    if len(set(tune.objectives)) < len(tune.objectives):
        raise ConfigError(f"tune.objectives is {list(tune.objectives)}; give each of them once")
    timed = [o.key for o in experiment.objectives if o.exact is None and o.field not in ALWAYS]
    if "hypervolume" in tune.objectives and timed:
        raise ConfigError(
            f"tune.objectives: the hypervolume of a trial needs exact costs, and search.objectives has {timed[0]}; "
            "set search.objectives to top1, macs or others that are counted"
        )


def narrowed(space: Space, choices: Choices, where: str, settings: Sequence[str] = ()) -> Space:
    """`space` restricted to these choices; raises a `ConfigError` for a kind of gene that it does not have.

    where: the section, for the error. settings: the other settings that are allowed there, for the error.
    """
    unknown = next((name for name in choices if name not in space.choice_names), None)
    if unknown is not None:
        raise ConfigError(f"{where}: no setting {unknown!r}; here you may set {', '.join([*settings, *space.choice_names])}")
    return space.only(**{name: values or None for name, values in choices.items()})


def of_exits(weights: str, space: Space, where: str) -> str:
    """`weights`, unless they are of several exits and the space has one: then a `ConfigError` that begins with `where`."""
    if weights != "last" and not space.values("exit"):
        raise ConfigError(f"{where} is {weights!r}, but the space {space.name} has a single exit; leave it at 'last'")
    return weights


def load(path: str, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """The experiment at `path`; raises a `ConfigError` for settings that cannot work before anything starts."""
    experiment = config.load(path, Experiment, overrides)
    try:
        _check(experiment)
    except (ArchError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return experiment


def _check(experiment: Experiment) -> None:
    """Checks that involve several settings; a `ConfigError` names the first that fails."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", experiment.name):
        raise ConfigError(f"name is {experiment.name!r}; use small letters, digits, dots and dashes")
    if len(experiment.name) > LONGEST_NAME:
        raise ConfigError(f"name has {len(experiment.name)} characters; use at most {LONGEST_NAME}")
    phases, search, train = experiment.phases, experiment.search, experiment.train  # phases: checks its choices too
    if not phases and not train.weights:
        raise ConfigError("train: there are no phases; add a [[train.phases]] section, or give train.weights to search")
    names = [phase.name for phase in phases]
    bad = next((n for n in names if names.count(n) > 1 or not re.fullmatch("[a-z0-9_-]+", n)), None)
    if bad is not None:
        raise ConfigError(
            f"train.phases: {bad!r} is not a valid name or is used twice; use small letters, digits and dashes, once each"
        )
    if train.head == "new" and not train.weights:
        raise ConfigError("train.head is 'new', but there are no train.weights whose head it could replace; leave it out")
    if phases and phases[0].has_teacher and (not train.weights or train.head == "new"):
        raise ConfigError(f"train.phases: {names[0]!r} comes first and has no teacher yet; set its distil to 0")
    both = next((phase.name for phase in train.phases if phase.sandwich and phase.largest), None)
    if both is not None:
        raise ConfigError(f"train.phases: {both!r}: sandwich trains the largest network anyway; leave out largest")
    held = (experiment.data.selection, experiment.data.test)
    reader = reader_of_text(experiment.data.source)
    if reader is not None and reader.embedded and (max(held) >= 1 or sum(held) >= 1):
        raise ConfigError("data: selection and test together leave nothing to train on; lower one of them")
    if experiment.data.alternating_flip and not experiment.data.flip:
        raise ConfigError("data.alternating_flip is true, but data.flip is false; set it to true")
    if train.backend not in BACKENDS:
        raise ConfigError(f"train.backend is {train.backend!r}; there are {', '.join(BACKENDS)}")
    if train.device == "cuda" and not BACKENDS[train.backend].gpus:
        raise ConfigError(
            f"train.device is 'cuda', and train.backend {train.backend!r} is built for CPUs alone; use train.backend 'ray'"
        )
    of_exits(train.teacher_exits, experiment.search_space, "train.teacher_exits")
    if train.batch < train.most_workers:
        raise ConfigError(
            f"train.batch is {train.batch}, less than one image for each of train.workers ({train.most_workers}); use at "
            f"least {train.most_workers}"
        )
    _check_elastic(experiment)
    if search.population < 4 * search.islands:
        raise ConfigError(
            f"search.population is {search.population}, "
            f"too few for {search.islands} islands; use at least {4 * search.islands}"
        )
    _check_gpus(experiment)
    _check_measurements(experiment)
    _check_adaptation(experiment)
    _check_names(experiment)
    if experiment.tune != Tune():
        check_tuning(experiment)


def _check_elastic(experiment: Experiment) -> None:
    """Checks that the number of workers can change where it may."""
    train = experiment.train
    if train.least_workers == train.most_workers:
        return
    setting = f"train.workers is [{train.least_workers}, {train.most_workers}]"
    if not BACKENDS[train.backend].elastic:
        elastic = ", ".join(repr(name) for name, backend in BACKENDS.items() if backend.elastic)
        raise ConfigError(
            f"{setting}, but the number of workers of train.backend {train.backend!r} is fixed; give one number, or use "
            f"the backend {elastic}"
        )
    if experiment.adapt.iterations:
        raise ConfigError(
            f"{setting}, but the evaluators of an adaptation stay while it trains, on places that Ray would count for more "
            "workers; give one number"
        )


def _check_gpus(experiment: Experiment) -> None:
    """Checks shares of GPUs, and that evaluators that compute on GPUs have some."""
    ray, device = experiment.ray, experiment.measure.device
    for name, gpus in (("evaluator_gpus", ray.evaluator_gpus), ("scorer_gpus", ray.scorer_gpus)):
        if gpus > 1 and gpus != int(gpus):
            raise ConfigError(f"ray.{name} is {gpus:g}; use a share of one GPU, below 1, or a whole number")
    if device == "cuda" and not ray.evaluator_gpus:
        raise ConfigError("measure.device is 'cuda', but ray.evaluator_gpus is 0; set it to 1, or to a share of a GPU")
    if ray.evaluator_gpus and device == "cpu":
        raise ConfigError(
            f"ray.evaluator_gpus is {ray.evaluator_gpus:g}, but measure.device is 'cpu'; set measure.device to 'cuda', or "
            "leave out ray.evaluator_gpus"
        )
    if ray.scorer_gpus and not ray.scorers:
        raise ConfigError(f"ray.scorer_gpus is {ray.scorer_gpus:g}, but ray.scorers is 0; set the number of scorers")


def _check_measurements(experiment: Experiment) -> None:
    """Checks that there are enough archs to measure, and that enough of them are left to fit predictors to."""
    measure, held_out = experiment.measure, experiment.fit.held_out
    if measure.archs > (size := experiment.search_space.size):
        raise ConfigError(
            f"measure.archs is {measure.archs}; the space {experiment.space} with its choices has {size} sub-networks; "
            + (f"use at most {size}, or give it more choices" if size >= FEWEST_ARCHS else "give it more choices")
        )
    if measure.latency_archs > measure.archs:
        raise ConfigError(f"measure.latency_archs is {measure.latency_archs}, more than measure.archs")
    for name, rows in (("measure.archs", measure.archs), ("measure.latency_archs", measure.latency_archs)):
        if (left := rows - held_out_rows(rows, held_out)) < FEWEST_ROWS:
            raise ConfigError(
                f"fit.held_out is {held_out:g}, which leaves {left} of {name} ({rows}) to fit a predictor to; "
                f"it needs {FEWEST_ROWS}: lower fit.held_out, or raise {name}"
            )


def _check_adaptation(experiment: Experiment) -> None:
    """Checks that the space has the sub-networks that an adaptation evaluates, and that its numbers fit together."""
    adapt, size = experiment.adapt, experiment.search_space.size
    if not adapt.iterations:
        return
    needed = adapt.archs * adapt.oversample + adapt.batch * adapt.iterations
    if needed > size:
        raise ConfigError(
            f"adapt: {adapt.archs} archs, {adapt.oversample} times as many at first, and {adapt.batch} in each of "
            f"{adapt.iterations} iterations are {needed}; the space {experiment.space} with its choices has {size}: "
            "lower them"
        )
    if adapt.survivors > adapt.archs:
        raise ConfigError(f"adapt.survivors is {adapt.survivors}, more than adapt.archs ({adapt.archs}); lower it")


def _check_names(experiment: Experiment) -> None:
    """Checks names that `one_of` cannot check."""
    search = experiment.search
    _check_tables(experiment)
    devices = experiment.devices
    there = [name for name, objective in OBJECTIVES.items() if objective.field in METERS]
    there += [LATENCY.field] if len(devices) == 1 else []
    there += [f"{LATENCY.field}.{device}" for device in dict.fromkeys((*devices, HERE))]
    for name in search.objectives:
        _known(f"search.objectives: {name!r}", name, there)
    if len(set(search.objectives)) < max(2, len(search.objectives)):
        raise ConfigError(
            f"search.objectives is {list(search.objectives)}; give two or more of {', '.join(there)}, once each"
        )
    found = {name: objective for name in there if (objective := objective_named(name)) is not None}
    for name, limits, direction in (("at_most", search.at_most, "minimize"), ("at_least", search.at_least, "maximize")):
        of_this = [key for key in search.objectives if found[key].direction == direction]
        for key in limits:
            _known(f"search.{name}: {key!r} is no objective of this run for which it is a limit", key, of_this)
    fields_known = (*ALWAYS, LATENCY.field)
    known = [name for name, o in found.items() if o.field in fields_known or name in search.objectives]
    costs = [name for name in known if found[name].direction == "minimize"]
    _known(f"ensemble.unit is {experiment.ensemble.unit!r}", experiment.ensemble.unit, costs)
    ensemble = experiment.ensemble
    if ensemble.unit not in ("macs", "params") and any(RULES[rule].needs_pieces for rule in ensemble.costs):
        raise ConfigError(
            f"ensemble.unit is {ensemble.unit!r}, but what members have in common is known of macs and params only; "
            "use one of them, or leave 'shared' out of ensemble.costs"
        )
    if search.algorithm != "default" or search.sampler:
        from search.measured import check_algorithm

        try:
            check_algorithm(search.algorithm, search.sampler, search.population // search.islands)
        except ProblemError as error:
            raise ConfigError(f"search.algorithm: {error}") from None
    if search.predicted_algorithm != "default":
        from search.predicted import NEED_LIMITS

        limited = len(search.at_most) + len(search.at_least)
        if search.predicted_algorithm in NEED_LIMITS and limited < len(search.objectives) - 1:
            raise ConfigError(
                f"search.predicted_algorithm is {search.predicted_algorithm!r}, which needs a limit on every objective but "
                "one; use default, or give search.at_most"
            )


def _check_tables(experiment: Experiment) -> None:
    """Checks the names of latency tables, and that the space's parts have keys in such tables."""
    names = [table.name for table in experiment.search.latency_tables]
    bad = next((n for n in names if names.count(n) > 1 or n == HERE or not re.fullmatch("[A-Za-z0-9_-]+", n)), None)
    if bad is not None:
        raise ConfigError(
            f"search.latency_tables: {bad!r} is not a valid name or is used twice; use letters, digits, - and _, once each, "
            f"and not {HERE!r}, which is the machine that measures"
        )
    if experiment.devices:
        from search.costs.latency import has_keys

        if not has_keys(experiment.search_space):
            raise ConfigError(
                f"search: {experiment.space} has parts that latency tables do not describe; leave out the latency of "
                f"{', '.join(experiment.devices)}, or use a MobileNetV3 space"
            )


def _known(found: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ConfigError(f"{found}; there are {', '.join(names)}")
