"""The study of training recipes on a GPU: the part `--recipes` of `python -m bench.gpu`.

One process for each recipe, all at once, trains `ofa_mbv3_w0.5_32px` at 32 pixels with one seed after the other, for equally
many epochs: as many as the slowest recipe can make with all seeds in the time. Every training is reported when it ends, so a
bench that is cut off compares all recipes with the seeds that it had time for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch

from bench import at_once
from bench.gpu import (
    RECIPES,
    Bench,
    PhasePlan,
    Report,
    evaluator,
    reference_archs,
    some_steps,
    start,
    teacher_of,
    timed,
)
from cluster.seeds import stream
from ofa.evaluate import Evaluator
from ofa.images import steps_per_epoch
from ofa.phases import Plan, Recipe
from ofa.space import Space
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.teacher import State, Teacher, Teachers
from ofa.train import Learner, Observer, Shard, train_phases

SEEDS = (1, 2, 3)
PLANNED = 0.8  # fraction of the time; the phases of the other recipes differ in speed
PROBE = 4  # timed steps of each phase
LABELS = ("smallest", "middle", "largest", "mean of random ones")
ALL = ("depths", "kernels", "expands")
ALONE_FIRST = PhasePlan("largest", 50, 0.1, largest=ALL)
SHRINK = PhasePlan("shrink", 50, 0.1, 0.0, sandwich=True, subnets=2, ramp=2)  # 2 of all 100 epochs


@dataclass(frozen=True, slots=True)
class Study:
    """A recipe: its phases, how gradients are combined, and whether one schedule, with momentum, goes over all phases."""

    phases: tuple[PhasePlan, ...]
    gradients: Literal["mean", "sum"] = "mean"
    whole: bool = False
    average: float = 0.0  # decay of the averaged weights
    labels: tuple[str, ...] = LABELS  # of the networks that are trained


# As in bench.recipes.
STUDIES = {
    "progressive shrinking": Study(RECIPES["largest alone, then progressive phases"]),
    "whole space": Study((PhasePlan("whole", 1, 0.1),)),
    "delayed shrinking": Study((ALONE_FIRST, SHRINK), "sum", whole=True),
    "delayed shrinking, averaged weights": Study((ALONE_FIRST, SHRINK), "sum", whole=True, average=0.98),
    "extremes favoured": Study((PhasePlan("whole", 1, 0.1, extremes=(0.25, 0.25)),)),
    "smallest alone": Study((PhasePlan("alone", 1, 0.1, extremes=(1.0, 0.0)),), labels=LABELS[:1]),
}


class Late(Exception):
    """The time of the bench is over."""


class Clock(Observer):
    """Ends a training that is late."""

    def __init__(self, until: float) -> None:
        self.until = until

    def epoch_done(self, number: int) -> None:
        """See `Observer`."""
        if time.monotonic() > self.until:
            raise Late


class Pictures:
    """Augmented training images on the device, one shard a step."""

    def __init__(self, bench: Bench, batch: int, seed: int) -> None:
        self.bench, self.batch, self.seed = bench, batch, seed
        self.steps_per_epoch = steps_per_epoch(len(bench.images.train), batch)

    def epoch(self, phase: str, epoch: int, start: int) -> Iterator[tuple[int, Sequence[Shard]]]:
        """See `ofa.train.Feed`."""
        images, device = self.bench.images, self.bench.device
        generator = torch.Generator(device).manual_seed(stream(self.seed, "images", phase, epoch).getrandbits(63))
        order = torch.randperm(len(images.train), generator=generator, device=device)
        for step in range(start, self.steps_per_epoch):
            part = images.train[order[step * self.batch : (step + 1) * self.batch]]
            yield step, [Shard(0, self.bench.augment(part.pixels, images.scale, generator), part.labels)]


def train_all(bench: Bench, until: float) -> None:
    """Trains by every recipe until that time, then prints the table; fails if a process has failed."""
    lines, failed = at_once.train_all(bench, "bench.recipes_gpu", STUDIES, until)
    for name in STUDIES:
        rows = [line for line in lines if line.get("part") == "recipes: trainings" and line["recipe"] == name]
        if rows:
            bench.report.row("recipes: test top-1 in %, mean (lowest to highest)", summary(name, rows))
    assert not failed, f"recipes failed: {', '.join(failed)}"


def summary(name: str, rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The row of a recipe in the last table. rows: its trainings."""
    cells = dict.fromkeys(LABELS, "")
    for label in STUDIES[name].labels:
        values = [100 * float(str(row[label])) for row in rows]
        cells[label] = f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    return {"recipe": name, "epochs": rows[0]["epochs"], "seeds": len(rows), **cells}


def parts(epochs: int, shares: Sequence[float]) -> list[int]:
    """The epochs of phases with these shares of all epochs, which are as many as phases at least; each has one at least."""
    ends = [0]
    for number in range(1, len(shares) + 1):
        end = round(epochs * sum(shares[:number]) / sum(shares))
        ends.append(min(max(end, ends[-1] + 1), epochs - (len(shares) - number)))
    return [end - before for before, end in pairwise(ends)]


def plan_of(bench: Bench, study: Study, space: Space, epochs: int, batch: int, seed: int) -> Plan:
    """The training by a recipe."""
    counts = parts(epochs, [phase.epochs for phase in study.phases])
    return Plan(
        space=space,
        classes=bench.images.classes,
        phases=tuple(phase.phase(space, count, batch) for phase, count in zip(study.phases, counts, strict=True)),
        recipe=Recipe(
            momentum=0.9,
            weight_decay=1e-4,
            label_smoothing=0.0,
            clip_norm=5.0,
            gradients=study.gradients,
            average=study.average,
            bfloat16=bench.device.type == "cuda",
        ),
        batch=batch,
        seed=seed,
        schedule="whole" if study.whole else "phase",
        keep_momentum=study.whole,
    )


def train_seed(bench: Bench, plan: Plan, until: float) -> Evaluator:
    """An evaluator of the network that is trained by `plan`; raises `Late` after that time."""
    net = Supernet(plan.space, plan.classes, torch.Generator().manual_seed(plan.seed)).to(bench.device)
    learner = Learner(net, plan.recipe, average=lambda gradient: None)

    def teacher(state: State) -> Teacher:
        copy = Supernet(plan.space, plan.classes).to(bench.device)
        copy.load_state_dict(dict(state))
        return Teacher(evaluator(bench, copy))

    def stored(phase: object) -> State:
        raise AssertionError("nothing is resumed here")

    enter = Teachers(plan.phases, teacher, None, stored).enter
    train_phases(plan, learner, Pictures(bench, plan.batch, plan.seed), partial(stream, plan.seed), enter, Clock(until))
    return evaluator(bench, learner.evaluated)


def train_one(bench: Bench, name: str, plans: Path, until: float) -> None:
    """Trains by one recipe with every seed; `plans` is the folder where all recipes leave the epochs that fit."""
    study, batch, began = STUDIES[name], bench.sizes.batches[-1], time.monotonic()
    seeds = SEEDS[:1] if bench.sizes.tiny else SEEDS
    space = get_space(bench.sizes.space)
    space = space.only(resolutions=space.resolutions[-1:])  # one: cuDNN plans every new shape
    archs = reference_archs(space, bench.sizes.random_archs)
    learner, per_epoch = start(bench, space), steps_per_epoch(len(bench.images.train), batch)
    teacher = teacher_of(bench, learner.net)
    work_s = 0.0  # of an epoch of the mean phase
    for plan in study.phases:
        some = partial(some_steps, bench, learner, plan.phase(space, 1, batch), teacher if plan.distil else None, batch)
        some(2)
        share = plan.epochs / sum(one.epochs for one in study.phases)
        work_s += share * per_epoch * timed(bench, partial(some, PROBE)) / PROBE
    fresh = evaluator(bench, learner.net)
    judged_s = 2 * sum(timed(bench, partial(fresh.top1, arch, bench.images.test)) for arch in archs[:2]) / 2 * len(archs)
    fit = (PLANNED * (until - time.monotonic()) / len(seeds) - judged_s) / work_s
    most = max(len(one.phases) for one in STUDIES.values())
    epochs = most if bench.sizes.tiny else max(most, int(at_once.agreed(plans, name, len(STUDIES), fit)))
    planned = {"recipe": name, "seconds of an epoch": work_s, "epochs that fit": fit, "epochs": epochs}
    bench.report.row("recipes: plans", {**planned, "seconds before": time.monotonic() - began})
    for seed in seeds:
        started = time.perf_counter()
        try:
            judge = train_seed(bench, plan_of(bench, study, space, epochs, batch, seed), until)
        except Late:
            break
        smallest, middle, largest, *several = (judge.top1(arch, bench.images.test) for arch in archs)
        row = {"recipe": name, "seed": seed, "epochs": epochs, "updates": epochs * per_epoch, "batch": batch,
               "seconds": time.perf_counter() - started}  # fmt: skip
        found = dict(zip(LABELS, (smallest, middle, largest, statistics.mean(several)), strict=True))
        row |= {label: found[label] if label in study.labels else "" for label in LABELS}
        bench.report.row("recipes: trainings", row)


def main(argv: Sequence[str] | None = None) -> None:
    """One recipe, started by `train_all`."""
    options, sizes = at_once.options_of(__doc__, STUDIES, argv)
    pixels = get_space(sizes.space).resolutions[-1]
    bench = Bench(Report(options.out), sizes, torch.device(options.device), options.data, pixels)
    train_one(bench, options.name, options.plans, options.until)


if __name__ == "__main__":
    main()
