"""Measures a GPU in one command of at most eight minutes: training steps, subset scores, evaluations, training.

    python -m bench.gpu --data DIR --out gpu.jsonl   all but recipes and ofav2; or --steps --subsets --evaluate --train
    python -m bench.gpu --data DIR --recipes         recipes of training a supernet at equal updates, three seeds
    python -m bench.gpu --data DIR --ofav2           OFAv2's trainings (Tiny ImageNet): the best sub-network after each phase
    python -m bench.gpu --tiny                       all parts on the CPU in seconds, to test the command itself

Needs torch, numpy, numba, pyarrow and pillow, and CIFAR-10's Parquet files in DIR (train-*.parquet, test-*.parquet; other
images of 32 px in that layout work too); without DIR, images are synthetic and accuracies have no meaning. Every result is
printed as a row of a Markdown table and appended to the file as a line of JSON as soon as it is known; if a part fails, the
results of the others are kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.tables import realistic
from cluster.seeds import stream
from ensemble.score import SubsetScorer
from ofa.arch import Arch
from ofa.decode import centre, decode
from ofa.draws import Sandwich, Uniform
from ofa.evaluate import Evaluator
from ofa.extract import extract
from ofa.images import Augment, Scale, Split, steps_per_epoch, torch_generator
from ofa.phases import Phase, Recipe, by_phase
from ofa.sorting import sort_channels
from ofa.space import Space
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.teacher import Teacher
from ofa.train import Learner, train_step

SEED = 1
CLASSES = 10
STEP_CLASSES = 1000  # of the timed steps
AUGMENT = Augment(min_area=0.5, flip=True)  # as in configs/cifar10.toml
LR_BATCH = 128  # the batch of the learning rates below; larger batches scale them in proportion
FAST_ENOUGH = 0.8  # fraction of the highest images/s: the smallest such batch is used, because it makes the most updates
EVALUATED = 3  # archs of an evaluation's timing
SPARE = 0.9  # planned fraction of a training's time; the rest is for work that was not measured


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase of a recipe: `epochs` relative to the other phases', `largest` the choices that are fixed at their largest."""

    name: str
    epochs: int
    lr: float
    warmup_epochs: float = 1.0
    distil: float = 0.0
    sandwich: bool = False
    largest: tuple[str, ...] = ()
    subnets: int = 1
    joint_exits: str = "last"
    ramp: float = 0.0  # of the weight of all but the largest network, relative as the epochs are
    extremes: tuple[float, float] = (0.0, 0.0)  # see `ofa.draws.Uniform`

    def phase(self, space: Space, epochs: int, batch: int) -> Phase:
        """The phase for `space`, with its number of epochs and its batch; choices that the space lacks are left out."""
        fixed = [name for name in self.largest if name in space.choice_names]
        smaller = space.only(**{name: getattr(space, name)[-1:] for name in fixed})
        return Phase(
            name=self.name,
            space=smaller,
            epochs=epochs,
            lr=self.lr,
            warmup_epochs=self.warmup_epochs,
            draw=Sandwich(self.subnets) if self.sandwich else Uniform(self.subnets, extremes=self.extremes),
            distil=self.distil,
            lr_scale=max(1.0, batch / LR_BATCH),
            joint_exits=self.joint_exits if "exits" in space.choice_names else "last",
            ramp_epochs=self.ramp * epochs / self.epochs,
        )


# The phases of configs/cifar10.toml, and the whole space at once with the sandwich rule and in-place distillation.
RECIPES = {
    "largest alone, then progressive phases": (
        PhasePlan("largest", 6, 0.1, largest=("depths", "kernels", "expands")),
        PhasePlan("kernel", 2, 0.04, 0.1, 1.0, largest=("depths", "expands")),
        PhasePlan("depth", 2, 0.04, 0.1, 1.0, largest=("expands",)),
        PhasePlan("width", 5, 0.06, 0.1, 1.0),
    ),
    "whole space, sandwich": (PhasePlan("sandwich", 15, 0.1, sandwich=True),),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The amount of work of each part; `cases` of steps are (space, pixels, batch)."""

    cases: tuple[tuple[str, int, int], ...]
    step_archs: int  # random archs, beside the largest
    rounds: int
    space: str
    batches: tuple[int, ...]
    probe_steps: int
    held_out: int
    calibration: int
    evaluation_batches: tuple[int, ...]
    random_archs: int
    members: int
    table_images: int
    masks: int
    synthetic: tuple[int, int]  # synthetic images of the training and the test split
    ofav2: tuple[str, int, int]  # the end of the names of OFAv2's spaces, the batch, and how many of its trainings
    tiny: bool = False


FULL = Sizes(
    cases=(("ofa_mbv3_w1.0", 224, 128), ("ofa_mbv3_w0.5_32px", 32, 1024)),
    step_archs=2,
    rounds=30,
    space="ofa_mbv3_w0.5_32px",
    batches=(1024,),
    probe_steps=6,
    held_out=5000,
    calibration=1000,
    evaluation_batches=(5000,),
    random_archs=10,
    members=100,
    table_images=20_000,
    masks=8192,
    synthetic=(50_000, 10_000),
    ofav2=("_w1.0_64px", 256, 8),
)
TINY = Sizes(
    cases=(("digits", 24, 4),),
    step_archs=0,
    rounds=1,
    space="digits",
    batches=(8, 16),
    probe_steps=1,
    held_out=40,
    calibration=16,
    evaluation_batches=(20,),
    random_archs=2,
    members=40,
    table_images=200,
    masks=64,
    synthetic=(80, 40),
    ofav2=("_w0.1_32px", 40, 2),
    tiny=True,
)


class Report:
    """Writes each result at once: Markdown on standard output, JSON lines in `path`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.columns: tuple[str, ...] = ()

    def line(self, text: str, **values: object) -> None:
        """Writes a line outside the tables."""
        self.columns = ()
        print(f"\n{text}", flush=True)
        self._keep(values)

    def row(self, part: str, values: Mapping[str, object]) -> None:
        """Writes a row of the part's table; a new table begins if the columns differ from those of the last row."""
        if tuple(values) != self.columns:
            self.columns = tuple(values)
            print(f"\n{part}\n\n| {' | '.join(values)} |\n|{'---|' * len(values)}")
        print(f"| {' | '.join(map(_shown, values.values()))} |", flush=True)
        self._keep({"part": part, **values})

    def _keep(self, values: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4 if abs(value) < 1 else 3
    return f"{value:,.{digits}f}"


@dataclass(frozen=True)
class Bench:
    """The settings that every part shares."""

    report: Report
    sizes: Sizes
    device: torch.device
    data: str  # a directory of Parquet files, or "" for synthetic images
    pixels: int  # side of the images
    augment: Augment = AUGMENT

    @cached_property
    def images(self) -> Images:
        """The images, loaded at the first use."""
        started = time.perf_counter()
        images = load_images(self, self.pixels)
        seconds = time.perf_counter() - started
        self.report.line(f"{images.origin}; loaded in {seconds:.1f} s", images=images.origin, seconds=seconds)
        return images

    def wait(self) -> None:
        """Waits until the device has completed its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self, precision: str) -> Any:
        """The context of a forward pass in that precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


# Elastic steps


def steps(bench: Bench, until: float) -> None:
    """Times forward and backward: elastic against the same network extracted, channels-last against contiguous images."""
    sizes, device = bench.sizes, bench.device
    todo = [(case, number) for case in sizes.cases for number in range(sizes.step_archs + 1)]
    for done, ((name, pixels, batch), number) in enumerate(todo):
        space = get_space(name).only(resolutions=(pixels,))
        net = Supernet(space, STEP_CLASSES, torch.Generator().manual_seed(SEED)).to(device).train()
        images = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(2)).to(device)
        labels = torch.arange(batch, device=device) % STEP_CLASSES
        rng = stream(SEED, "steps", name, number)
        arch = space.sample(rng) if number else space.largest()
        plain = extract(net, arch).to(device).train()
        layouts = {"last": images.contiguous(memory_format=torch.channels_last), "flat": images.contiguous()}
        works = {
            (precision, layout, kind): partial(step, bench, precision, network, (x, *rest), labels)
            for precision in ("float32", "bfloat16")
            for layout, x in layouts.items()
            for kind, network, rest in (("plain", plain, ()), ("elastic", net, (arch,)))
        }
        share = time.monotonic() + (until - time.monotonic()) / (len(todo) - done)
        seconds = dict(zip(works, medians(bench, list(works.values()), sizes.rounds, share), strict=True))
        for precision in ("float32", "bfloat16"):
            elastic = seconds[precision, "last", "elastic"]
            row = {
                "space": name, "pixels": pixels, "batch": batch, "arch": f"random {number}" if number else "largest",
                "precision": precision, "plain ms": seconds[precision, "last", "plain"] * 1e3, "elastic ms": elastic * 1e3,
                "elastic / plain": elastic / seconds[precision, "last", "plain"],
                "contiguous / channels-last": seconds[precision, "flat", "elastic"] / elastic,
                "plain: contiguous / channels-last":
                    seconds[precision, "flat", "plain"] / seconds[precision, "last", "plain"],
                "float32 / this": seconds["float32", "last", "elastic"] / elastic,
            }  # fmt: skip
            bench.report.row("steps", row)


def step(bench: Bench, precision: str, network: nn.Module, inputs: tuple[Any, ...], labels: Tensor) -> None:
    """Computes one forward and backward pass, without an update."""
    network.zero_grad()
    with bench.autocast(precision):
        logits = network(*inputs)
    F.cross_entropy(logits.float(), labels).backward()


def medians(bench: Bench, works: Sequence[Callable[[], None]], rounds: int, until: float) -> list[float]:
    """Median seconds of each of `works`, which alternate for `rounds` or until that time, after two rounds of warm-up."""
    taken: list[list[float]] = [[] for _ in works]
    for done in range(rounds + 2):
        if done > 2 and time.monotonic() > until:
            break
        for seconds, work in zip(taken, works, strict=True):
            if done < 2:
                work()
            else:
                seconds.append(timed(bench, work))
    return [statistics.median(seconds) for seconds in taken]


def timed(bench: Bench, work: Callable[[], object]) -> float:
    """The seconds that `work` takes on the device, by CUDA events on a GPU."""
    bench.wait()
    if bench.device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    bench.wait()
    return float(start.elapsed_time(end)) / 1e3


# Subset scores


def subsets(bench: Bench, until: float) -> None:
    """Times scoring of subsets by matrix products on the device and by tables on the CPU; the counts must be equal."""
    sizes = bench.sizes
    table = realistic(members=sizes.members, images=sizes.table_images)
    arrays = table.classes_MNK, table.probs_MNK, table.labels_N
    here, there = SubsetScorer(*arrays), SubsetScorer(*arrays, device=str(bench.device))
    rng = np.random.default_rng(SEED)
    unequal = 0
    for warm in (here.correct, there.correct_weighted):  # compiles, builds tables, loads the device's library
        warm(np.eye(sizes.members, dtype=bool))
    for share in (0.03, 0.1, 0.5):
        masks = rng.random((sizes.masks, sizes.members)) < share
        (cpu, cpu_s), (device, device_s) = clocked(here, here.correct, masks), clocked(there, there.correct_weighted, masks)
        unequal += int((cpu != device).sum())
        row = {
            "members of a subset": round(share * sizes.members), "images": sizes.table_images, "CPU threads": here.threads,
            "CPU subsets/s": len(masks) / cpu_s, f"{bench.device.type} subsets/s": len(masks) / device_s,
            "ratio": cpu_s / device_s, "same counts": bool((cpu == device).all()),
        }  # fmt: skip
        bench.report.row("subsets", row)
        if time.monotonic() > until:
            break
    assert not unequal, f"subsets: {unequal} counts of the device differ from the CPU's exact ones"


def clocked(scorer: SubsetScorer, score: Callable[[np.ndarray], np.ndarray], masks: np.ndarray) -> tuple[np.ndarray, float]:
    """The counts, on the CPU, and the seconds of their computation."""
    started = time.perf_counter()
    counts = score(masks)
    return counts, time.perf_counter() - started


# Images


@dataclass(frozen=True)
class Images:
    """Splits on the device; the held-out one is part of the training images. origin: a description of the images."""

    train: Split
    held_out: Split
    test: Split
    scale: Scale
    classes: int
    origin: str


def load_images(bench: Bench, side: int) -> Images:
    """CIFAR-10 from Parquet, or as many synthetic images."""
    if bench.data:
        train, test = (read_parquet(Path(bench.data), split, side) for split in ("train", "test"))
        origin = f"{len(train)} training and {len(test)} test images of {bench.data}"
    else:
        train, test = (
            synthetic(count, side, name) for count, name in zip(bench.sizes.synthetic, ("train", "test"), strict=True)
        )
        origin = "synthetic images: accuracies have no meaning"
    order = torch.randperm(len(train), generator=torch_generator(stream(SEED, "held out")))
    held, rest = order[: bench.sizes.held_out], order[bench.sizes.held_out :]
    scale = Scale.of(train[rest[:10_000]])
    there = [Split(s.pixels.to(bench.device), s.labels.to(bench.device)) for s in (train[rest], train[held], test)]
    return Images(there[0], there[1], there[2], scale, int(train.labels.max()) + 1, origin)


def read_parquet(folder: Path, split: str, side: int) -> Split:
    """The images of `split`-*.parquet, decoded, each as its central square of `side` pixels."""
    files = sorted(folder.glob(f"{split}-*.parquet"))
    assert files, f"{folder}: there is no {split}-*.parquet; give the folder of CIFAR-10's Parquet files, or no --data"
    tables = [pq.read_table(file, columns=["image", "label"]) for file in files]

    def pixels(data: bytes) -> np.ndarray:
        return centre(decode(data)[0], side)

    stored = [data for table in tables for data in table["image"].combine_chunks().field("bytes").to_pylist()]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        decoded = np.stack(list(threads.map(pixels, stored, chunksize=256)))
    labels = np.concatenate([table["label"].to_numpy() for table in tables]).astype(np.int64)
    return Split(torch.from_numpy(decoded), torch.from_numpy(labels))


def synthetic(count: int, side: int, name: str) -> Split:
    """Images with noise around one picture for each of ten classes."""
    pictures = torch.rand(CLASSES, 3, side, side, generator=torch_generator(stream(SEED, "pictures")))
    labels = torch.arange(count) % CLASSES
    noise = torch.rand(count, 3, side, side, generator=torch_generator(stream(SEED, "noise", name)))
    return Split(((pictures[labels] + 3 * noise) * (255 / 4)).to(torch.uint8), labels)


# Evaluations


def evaluate(bench: Bench, until: float) -> None:
    """Times evaluations of sub-networks on the held-out images, each with calibration; weights are random.

    On a GPU the first evaluation of an arch takes cuDNN's plans for every new shape of a convolution: it is timed by itself.
    """
    sizes, images = bench.sizes, bench.images
    space = get_space(sizes.space)
    net = Supernet(space, images.classes, torch.Generator().manual_seed(SEED)).to(bench.device)
    todo = [(batch, precision) for batch in sizes.evaluation_batches for precision in ("float32", "bfloat16")]
    for done, (batch, precision) in enumerate(todo):

        def round_s(batch: int = batch, precision: str = precision) -> list[float]:
            """Seconds of each evaluation, by an evaluator without statistics; the same archs in every round."""
            fresh, rng = Evaluator(net, images.scale, images.train[: sizes.calibration], batch), stream(SEED, "evaluate")
            with bench.autocast(precision):
                archs = [space.sample(rng) for _ in range(EVALUATED)]
                return [timed(bench, partial(fresh.top1, arch, images.held_out)) for arch in archs]

        share = time.monotonic() + (until - time.monotonic()) / (len(todo) - done)
        first, later = round_s(), round_s()
        while time.monotonic() < share:
            later += round_s()
        rate = 1 / statistics.median(later)
        row = {
            "batch": batch, "precision": precision, "images": len(images.held_out), "calibration images": sizes.calibration,
            "evaluations": len(later), "first evaluation s": statistics.median(first), "evaluations/s": rate,
            "images/s": rate * (len(images.held_out) + sizes.calibration),
        }  # fmt: skip
        bench.report.row("evaluate", row)


# Training


def train(bench: Bench, until: float) -> None:
    """Trains the space from scratch by each recipe for as many epochs as fit, then evaluates on the test split.

    At one resolution: cuDNN plans every new shape of a convolution, which would take much of so short a training.
    """
    space = get_space(bench.sizes.space)
    space = space.only(resolutions=space.resolutions[-1:])
    batch, seconds = fastest(bench, space)
    archs = reference_archs(space, bench.sizes.random_archs)
    for done, (name, plans) in enumerate(RECIPES.items()):
        share = time.monotonic() + (until - time.monotonic()) / (len(RECIPES) - done)
        learner = start(bench, space)
        evaluation = partial(evaluator(bench, learner.net).top1, archs[0], bench.images.test)
        end = share - 1.5 * len(archs) * timed(bench, evaluation)
        per_epoch = steps_per_epoch(len(bench.images.train), batch)
        epoch_s = {plan.name: per_epoch * seconds[batch][plan.name] for plan in plans}
        scale = SPARE * (end - time.monotonic()) / sum(plan.epochs * epoch_s[plan.name] for plan in plans)
        phases = [plan.phase(space, max(1, int(scale * plan.epochs)), batch) for plan in plans]
        done_row = trained(bench, learner, name, phases, batch, epoch_s, end)
        smallest, middle, largest, *several = (evaluator(bench, learner.net).top1(arch, bench.images.test) for arch in archs)
        row = {
            **done_row, "smallest": smallest, "middle": middle, "largest": largest,
            f"mean of {len(several)}": statistics.mean(several),
        }  # fmt: skip
        bench.report.row("train: test top-1", row)


def fastest(bench: Bench, space: Space) -> tuple[int, dict[int, dict[str, float]]]:
    """The smallest batch near the highest images/s over all phases; and for each batch the seconds of a step by phase."""
    seconds: dict[int, dict[str, float]] = {}
    rates: dict[int, float] = {}
    plans = [plan for plans in RECIPES.values() for plan in plans]
    for batch in bench.sizes.batches:
        learner, teacher = start(bench, space), teacher_of(bench, start(bench, space).net)
        seconds[batch], waits = {}, []
        for plan in plans:
            phase = plan.phase(space, 1, batch)
            given = teacher if plan.distil else None
            some = partial(some_steps, bench, learner, phase, given, batch)
            some(2)
            seconds[batch][plan.name] = timed(bench, partial(some, bench.sizes.probe_steps)) / bench.sizes.probe_steps
            waits += synchronisations(bench, partial(some, 1))
        rates[batch] = sum(plan.epochs for plan in plans) * batch / sum(seconds[batch][p.name] * p.epochs for p in plans)
        each = {f"{plan.name} images/s": batch / seconds[batch][plan.name] for plan in plans}
        row = {
            "batch": batch, **each, "all images/s": rates[batch], "synchronisations a step": len(waits) / len(plans),
        }  # fmt: skip
        bench.report.row("train: batches", row)
        for place in sorted(set(waits)):
            bench.report.line(f"a step waits for the GPU at {place}", part="train: batches", waits_at=place)
    best = max(rates.values())
    return next(batch for batch in sorted(rates) if rates[batch] >= FAST_ENOUGH * best), seconds


def some_steps(bench: Bench, learner: Learner, phase: Phase, teacher: Teacher | None, batch: int, count: int) -> Tensor:
    """Trains the first steps of an epoch; the sum of their losses, on the device."""
    total = torch.zeros((), device=learner.net.device)
    for number, (loss, _) in enumerate(epoch_steps(bench, learner, phase, 0, teacher, batch)):
        total += loss
        if number + 1 == count:
            break
    return total


def epoch_steps(
    bench: Bench, learner: Learner, phase: Phase, epoch: int, teacher: Teacher | None, batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Loss and images of each step of an epoch; no value is copied from the device, since a copy waits for it."""
    images, device = bench.images, learner.net.device
    generator = torch.Generator(device).manual_seed(stream(SEED, "images", phase.name, epoch).getrandbits(63))
    order = torch.randperm(len(images.train), generator=generator, device=device)
    per_epoch = steps_per_epoch(len(images.train), batch)
    for number in range(per_epoch):
        part = images.train[order[number * batch : (number + 1) * batch]]
        x = bench.augment(part.pixels, bench.images.scale, generator)
        lr = by_phase([phase], 0, epoch * per_epoch + number, per_epoch)
        lessons = phase.lessons(stream(SEED, "arch", phase.name, epoch, number))
        yield train_step(learner, lessons, x, part.labels, teacher, lr), len(part)


def synchronisations(bench: Bench, work: Callable[[], object]) -> list[str]:
    """The places (file and line) where `work` waited for a GPU, one entry for each time."""
    bench.wait()
    if bench.device.type != "cuda":
        work()
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]


def start(bench: Bench, space: Space) -> Learner:
    """A new supernet with its optimiser; on a GPU the forward pass is in bfloat16."""
    net = Supernet(space, bench.images.classes, torch.Generator().manual_seed(SEED)).to(bench.device)
    recipe = Recipe(0.9, 1e-4, label_smoothing=0.0, clip_norm=5.0, bfloat16=bench.device.type == "cuda")
    return Learner(net, recipe, average=lambda gradient: None)


def teacher_of(bench: Bench, net: Supernet, exits: str = "last") -> Teacher:
    """A teacher with the network's present weights, and with these weights of its exits."""
    return Teacher(evaluator(bench, copy.deepcopy(net)), exits=exits)


def evaluator(bench: Bench, net: Supernet) -> Evaluator:
    """An evaluator of trained networks, calibrated on training images."""
    images = bench.images
    return Evaluator(net, images.scale, images.train[: bench.sizes.calibration], max(bench.sizes.evaluation_batches))


def trained(
    bench: Bench, learner: Learner, name: str, phases: Sequence[Phase], batch: int, planned_s: Mapping[str, float],
    until: float, *,
    teaches: Literal["first", "previous"] = "first", exits: str = "last",
    after: Callable[[Phase, Learner], None] = lambda phase, learner: None,
) -> dict[str, object]:  # fmt: skip
    """Trains by one recipe, with fewer epochs of a phase if it would be late at `until`; the row of its time and memory.

    planned_s: seconds of an epoch by phase; teaches: the phase whose largest network is the teacher; exits: the weights of
    its exits; after: called after each phase.
    """
    images = bench.images
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    per_epoch = steps_per_epoch(len(images.train), batch)
    started, teacher, epochs, before, work_s = time.perf_counter(), None, 0, phases[0].space, 0.0
    for number, planned in enumerate(phases):
        slower = max(1.0, (time.perf_counter() - started) / work_s) if work_s else 1.0
        rest_s = slower * sum(planned_s[later.name] * later.epochs for later in phases[number:])
        phase = replace(planned, epochs=max(1, int(planned.epochs * min(1.0, (until - time.monotonic()) / rest_s))))
        learner.reset_momentum()
        if phase.space.values("expand") != before.values("expand"):
            sort_channels(learner.net, before.values("expand"))
        before = phase.space
        for epoch in range(phase.epochs):
            epoch_start, loss, seen = time.perf_counter(), torch.zeros((), device=bench.device), 0
            for one, count in epoch_steps(bench, learner, phase, epoch, teacher if phase.distil else None, batch):
                loss += one
                seen += count
            mean = loss.item() / per_epoch  # waits for the epoch's end
            epoch_s = time.perf_counter() - epoch_start
            epochs, work_s = epochs + 1, work_s + planned_s[phase.name]
            if time.monotonic() + epoch_s > until:
                break
        row = {
            "recipe": name, "phase": phase.name, "epochs": epoch + 1, "planned": planned.epochs, "batch": batch,
            "images/s": seen / epoch_s, "loss": mean,
        }  # fmt: skip
        bench.report.row("train: phases", row)
        after(phase, learner)
        if len(phases) > 1 and (teacher is None or teaches == "previous"):
            teacher = teacher_of(bench, learner.net, exits)
    bench.wait()
    seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated(bench.device) / 2**30 if bench.device.type == "cuda" else 0.0
    return {
        "recipe": name, "batch": batch, "epochs": epochs, "updates": epochs * per_epoch, "seconds": seconds,
        "images/s": epochs * per_epoch * batch / seconds, "memory GiB": memory,
    }  # fmt: skip


def ofav2(bench: Bench, until: float) -> None:
    """OFAv2's trainings, all at once."""
    from bench.ofav2_gpu import train_all  # which uses this module

    train_all(bench, until)


def recipes(bench: Bench, until: float) -> None:
    """The recipes of a supernet's training, all at once."""
    from bench.recipes_gpu import train_all  # which uses this module

    train_all(bench, until)


def reference_archs(space: Space, count: int) -> list[Arch]:
    """The smallest, a middle and the largest network at the largest resolution, and `count` random ones."""
    side = space.resolutions[-1]
    wanted = {field: space.values(field)[-1] for field in space.forest.fields}  # of kernel and expand the middle ones
    wanted |= {field: space.values(field)[len(space.values(field)) // 2] for field in ("kernel", "expand")}
    middle = space.uniform(*wanted.values())
    rng = random.Random("progressive shrinking")  # the archs of bench.recipes
    return [replace(space.smallest(), resolution=side), middle, space.largest(), *(space.sample(rng) for _ in range(count))]


# The command


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the bench: `run(bench, until)`, and its share of the time; unused time goes to the later parts."""

    run: Callable[[Bench, float], None]
    share: float
    images: bool = False  # whether the part needs images


PARTS = {
    "steps": Part(steps, 0.17),
    "subsets": Part(subsets, 0.15),
    "evaluate": Part(evaluate, 0.08, images=True),
    "train": Part(train, 0.6, images=True),
}
# Parts that run only if they are asked for.
ASKED = {"recipes": Part(recipes, 1.0, images=True), "ofav2": Part(ofav2, 1.0, images=True)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the selected parts; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder of CIFAR-10's Parquet files; without it images are synthetic")
    parser.add_argument("--minutes", type=float, help="for all parts together (default 8, with --tiny 0.2)")
    parser.add_argument("--out", type=Path, help="JSON lines (default: gpu.jsonl in the folder $OUT, or else in runs)")
    parser.add_argument("--device", help="default cuda, with --tiny cpu")
    parser.add_argument("--tiny", action="store_true", help="a minimal amount of each part, to test the command")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true", help=f"run {part} (default: these parts)")
    for part in ASKED:
        parser.add_argument(f"--{part}", action="store_true", help=f"run {part}")
    options = parser.parse_args(argv)
    started = time.monotonic()
    device = torch.device(options.device or ("cpu" if options.tiny else "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; use --tiny to test the command, or --device cpu")
    out = options.out or Path(os.environ.get("OUT", "runs")) / "gpu.jsonl"
    if options.tiny and device.type == "cpu":
        torch.set_num_threads(1)
    chosen = [part for part in PARTS | ASKED if getattr(options, part)] or list(PARTS)
    sizes = TINY if options.tiny else FULL
    largest = f"ofav2_mbv3_se_b{sizes.ofav2[0]}" if "ofav2" in chosen else sizes.space
    bench = Bench(Report(out), sizes, device, options.data, get_space(largest).resolutions[-1])
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    about = {"device": machine, "torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count()}
    bench.report.line(", ".join(f"{name} {value}" for name, value in about.items()) + f"; JSON lines in {out}", **about)
    minutes = options.minutes or (0.2 if options.tiny else 8.0)
    return run(bench, chosen, started + 60 * minutes)


def run(bench: Bench, chosen: Sequence[str], end: float) -> int:
    """Runs every chosen part until `end` (of the monotonic clock), even if others fail; returns 1 if one failed."""
    failed, parts = False, PARTS | ASKED
    for number, name in enumerate(chosen):
        try:
            if parts[name].images:
                assert bench.images  # loaded before the remaining time is divided
            now = time.monotonic()
            share = parts[name].share / sum(parts[other].share for other in chosen[number:])
            parts[name].run(bench, now + (end - now) * share)
        except Exception as error:
            failed = True
            traceback.print_exc()
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            bench.report.line(f"{name} failed: {cause}", part=name, error=cause)
    left = end - time.monotonic()
    bench.report.line(f"done, {left:.0f} s left", failed=failed, seconds_left=left)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
