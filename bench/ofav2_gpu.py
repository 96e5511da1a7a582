"""OFAv2's trainings on a GPU (arXiv:2302.01888): the best sub-network after each phase.

Run by `python -m bench.gpu --ofav2`. One training waits more for Python than for the GPU, so all train at once, each in a
process. They make equally many epochs of each phase, as many as the slowest can make in the time; a phase that a space lacks
is left out, as published.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from bench import at_once
from bench.gpu import (
    SPARE,
    Bench,
    PhasePlan,
    Report,
    some_steps,
    start,
    teacher_of,
    timed,
    trained,
)
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.images import Augment, steps_per_epoch
from ofa.phases import Phase
from ofa.space import Space
from ofa.spaces import get_space
from ofa.train import Learner

AUGMENT = Augment(min_area=0.85, flip=True)  # as published
JUDGED = 2_000  # held-out images on which the best sub-network is chosen
BATCH = 1_000  # images of an evaluation's batch, calibration included: cuDNN plans every new shape for tens of ms
PROBE = 4  # steps of each phase that are timed

# The phases in the proportions of the published ones (configs/tiny_imagenet_ofav2.toml).
PHASES = (
    PhasePlan("full", 180, 0.1, 0.0, largest=("kernels", "levels", "exits", "depths", "expands"), joint_exits="ascending"),
    PhasePlan("kernel", 125, 0.04, 0.1, 1.0, largest=("levels", "exits", "depths", "expands")),
    PhasePlan("level", 150, 0.04, 0.1, 1.0, largest=("exits", "depths", "expands"), subnets=2),
    PhasePlan("height", 150, 0.04, 0.1, 1.0, largest=("depths", "expands"), subnets=2),
    PhasePlan("depth", 150, 0.04, 0.1, 1.0, largest=("expands",), subnets=2),
    PhasePlan("width", 150, 0.04, 0.1, 1.0, subnets=4),
)
OPENED = {"level": "levels", "height": "exits"}  # phases that spaces without the choice leave out
# By name: the variant of the space, the phase whose largest network is the teacher, and the weights of its exits.
TRAININGS: dict[str, tuple[str, Literal["first", "previous"], str]] = {
    "base": ("se_b", "first", "last"),
    "base, extracted teacher": ("se_b", "previous", "last"),
    "exits": ("ee_b", "first", "ascending"),
    "exits, extracted teacher": ("ee_b", "previous", "ascending"),
    "exits and dense": ("ee_d", "first", "ascending"),
    "exits and dense, extracted teacher": ("ee_d", "previous", "ascending"),
    "parallel": ("se_p", "first", "last"),
    "parallel, extracted teacher": ("se_p", "previous", "last"),
    "exits and dense, plain distillation": ("ee_d", "first", "last"),
    "parallel, normalised sums": ("se_p_norm", "first", "last"),
}
# The trainings on a GPU, of which a small one takes the first.
ON_GPU = (
    "base", "exits and dense, extracted teacher", "base, extracted teacher", "exits", "exits, extracted teacher",
    "exits and dense", "exits and dense, plain distillation", "parallel",
)  # fmt: skip


def constants(space: Space) -> list[Arch]:
    """The sub-networks with one value for each kind of choice, its first or its last; all exits, the largest resolution."""
    ends = [
        values if field == "exit" else values[-1:] if field == "resolution" else (values[0], values[-1])
        for field, values in ((field, space.values(field)) for field in space.forest.fields)
    ]
    return list(dict.fromkeys(space.uniform(*values) for values in itertools.product(*ends)))


def train_all(bench: Bench, until: float) -> None:
    """Trains in one process each until that time, then prints the table; fails if a training has failed."""
    names = ON_GPU[: bench.sizes.ofav2[2]]
    lines, failed = at_once.train_all(bench, "bench.ofav2_gpu", names, until)
    for name in names:
        best = {line["phase"]: line for line in lines if line.get("training") == name}
        cells = {plan.name: f"{best[plan.name]['test top-1']:.4f}" if plan.name in best else "" for plan in PHASES}
        bench.report.row("ofav2: test top-1 of the best sub-network", {"of": name, **cells})
    assert not failed, f"trainings failed: {', '.join(failed)}"


def train_one(bench: Bench, name: str, plans: Path, until: float) -> None:
    """Trains by name; `plans` is the folder where all trainings leave their times."""
    (variant, teaches, exits), (end, batch, count) = TRAININGS[name], bench.sizes.ofav2
    space = get_space(f"ofav2_mbv3_{variant}{end}")
    space = space.only(resolutions=space.resolutions[-1:])  # fewer shapes, as above
    own = [plan for plan in PHASES if OPENED.get(plan.name, "depths") in space.choice_names]
    per_epoch = steps_per_epoch(len(bench.images.train), batch)
    epoch_s = {plan.name: per_epoch * step_seconds(bench, space, plan, batch, exits) for plan in own}
    judging = partial(judge_of(bench, start(bench, space)).top1, space.largest(), bench.images.held_out[:JUDGED])
    judged = sum(len(constants(plan.phase(space, 1, batch).space)) for plan in own)
    judge_s = judged * (judging(), timed(bench, judging))[1]
    work_s = sum(plan.epochs * epoch_s[plan.name] for plan in own)
    scale = at_once.agreed(plans, name, count, max(0.0, SPARE * (until - time.monotonic() - judge_s) / work_s))
    row = {"plan of": name, "judging s": judge_s, "scale": scale}
    bench.report.row(
        "ofav2: plans, seconds of an epoch", {**row, **{plan.name: epoch_s.get(plan.name, 0.0) for plan in PHASES}}
    )
    phases = [plan.phase(space, max(1, round(scale * plan.epochs)), batch) for plan in own]

    def judge(phase: Phase, learner: Learner) -> None:
        """Evaluates sub-networks of the phase on held-out images, and the best of them on the test split."""
        fresh = judge_of(bench, learner)
        found = {arch: fresh.top1(arch, bench.images.held_out[:JUDGED]) for arch in constants(phase.space)}
        best = max(found, key=lambda arch: found[arch])
        row = {
            "training": name, "phase": phase.name, "arch": best.key, "exit": best.exit, "held-out top-1": found[best],
            "test top-1": fresh.top1(best, bench.images.test),
        }  # fmt: skip
        bench.report.row("ofav2: best sub-network", row)

    learner = start(bench, space)
    row = trained(bench, learner, name, phases, batch, epoch_s, until, teaches=teaches, exits=exits, after=judge)
    bench.report.row("ofav2: times", row)


def judge_of(bench: Bench, learner: Learner) -> Evaluator:
    """An evaluator of trained networks whose batches have one shape."""
    return Evaluator(learner.net, bench.images.scale, bench.images.train[:BATCH], BATCH)


def step_seconds(bench: Bench, space: Space, plan: PhasePlan, batch: int, exits: str) -> float:
    """Seconds of a step of a phase."""
    learner = start(bench, space)
    teacher = teacher_of(bench, learner.net, exits) if plan.distil else None
    some = partial(some_steps, bench, learner, plan.phase(space, 1, batch), teacher, batch)
    some(2)
    return timed(bench, partial(some, PROBE)) / PROBE


def main(argv: Sequence[str] | None = None) -> None:
    """One training, started by `train_all`."""
    options, sizes = at_once.options_of(__doc__, ON_GPU, argv)
    pixels = get_space(f"ofav2_mbv3_se_b{sizes.ofav2[0]}").resolutions[-1]
    bench = Bench(Report(options.out), sizes, torch.device(options.device), options.data, pixels, AUGMENT)
    train_one(bench, options.name, options.plans, options.until)


if __name__ == "__main__":
    main()
