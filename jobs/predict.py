"""Predict with every member of the front; leaves the tables that ensembles are scored on, and the results of exits.

    ofa predict configs/digits.toml --store ./runs

Members of one resolution process every image together, so it is resized once for all of them. Parts of the tables are
written to the store as they finish and are not predicted again; a table is assembled on disk, so neither this process nor
an actor ever holds more than some parts of 32 MiB (`ensemble/assemble.py`).

This is the only step that reads images of the test split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.run import Step
from cluster.texts import sha256
from ensemble.assemble import Assembly, part_images
from ensemble.table import Table
from jobs import files
from jobs.batches import batch_of
from jobs.evaluators import evaluators, read_weights, trained_evaluator, weights_file
from jobs.exits import Predictions, exit_results, network_of
from jobs.job import Job
from jobs.workers.evaluator import Part, predicted_split
from ofa.images import Split
from ofa.record import Measured
from search.errors import ProblemError
from search.front import Front
from search.objective import LATENCY, OBJECTIVES, objective_named

_TOGETHER = 32  # members that an actor runs on the same images: it keeps the statistics of 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part, the indices of its members of the front, and its place; parts of another front have other places."""

    part: Part
    members: tuple[int, ...]
    weights: str  # the sha256 of the supernet's weights

    @property
    def key(self) -> str:
        """The part's key in the store."""
        names = [arch.key for arch in self.part.archs]
        digest = sha256("/".join([self.weights, str(self.part.k), *names]).encode())
        return files.prediction_part(self.part.split, digest, self.part.start)


def predict(job: Job) -> None:
    """Runs the step `predict`: writes the prediction tables of the front's members on the splits."""
    config, step = job.config, job.run.begin("predict")
    front = Front.from_json(step.read_json(files.FRONT))
    read_weights(step, config)  # the objects that the evaluators hold
    batch = batch_of(job, step)
    weights = step.inputs[weights_file(config).key]
    k = min(config.ensemble.top_k or job.data.classes, job.data.classes)
    splits = (config.ensemble.chosen_on, "test")
    images = {split: job.test if split == "test" else predicted_split(job.data, split) for split in splits}
    sizes = {split: len(images[split]) for split in splits}
    parts = [(part, group) for split in splits for part, group in parts_of(front.members, split, sizes[split], k, batch)]
    wanted = [Wanted(part, group, weights) for part, group in parts]
    cost_M = costs_of_members(front.members, config.ensemble.unit)
    predict_parts(job, wanted, images)
    for split in splits:
        write_table(job, step, split, images[split], [one for one in wanted if one.part.split == split], cost_M, k)
    if config.search_space.values("exit"):
        look_at_exits(job, step, front)
    step.finish(config.seed, top_k=k, images=sizes)
    job.reporter.say(f"predict: {len(front.members)} members on {' and '.join(splits)}, {k} classes each")


def costs_of_members(members: Sequence[Measured], unit: str) -> np.ndarray:
    """The cost of each member in the unit of ensembles: float64 [M]; a `ProblemError` for one whose cost is not known."""
    objective = objective_named(unit)
    if objective is None:
        raise ProblemError(f"no cost is called {unit!r}; there are {', '.join(OBJECTIVES)} and {LATENCY.field}.<device>")
    return np.array([objective.of(member) for member in members], dtype=np.float64)


def parts_of(
    members: Sequence[Measured], split: str, images: int, k: int, batch: int
) -> Iterator[tuple[Part, tuple[int, ...]]]:
    """The parts of one table: each of members of one resolution, some at a time, on some whole batches."""
    for resolution in sorted({member.arch.resolution for member in members}):
        alike = [index for index, member in enumerate(members) if member.arch.resolution == resolution]
        for at in range(0, len(alike), _TOGETHER):
            group = tuple(alike[at : at + _TOGETHER])
            archs = tuple(members[index].arch for index in group)
            step = part_images(len(group), k, batch)
            for start in range(0, images, step):
                yield Part(archs, split, start, min(start + step, images), k), group


def predict_parts(job: Job, wanted: Sequence[Wanted], images: Mapping[str, Split]) -> None:
    """Predicts on the evaluators every part that is not in the store yet. images: of each split."""
    there = set(job.run.keys(files.PREDICTION_PARTS))
    missing = [one for one in wanted if one.key not in there]
    with job.reporter.track("predict", len(wanted), "parts") as tracker:
        tracker.at(len(wanted) - len(missing))
        if not missing:
            return
        test = {"pixels": images["test"].pixels.numpy(), "labels": images["test"].labels.numpy()}
        for index, (classes, probs) in evaluators(job).map("tables", [one.part for one in missing], test):
            here = slice(missing[index].part.start, missing[index].part.stop)
            labels = images[missing[index].part.split].labels[here].numpy()
            part = Table(classes, probs, labels, np.zeros(len(classes))).checked(missing[index].key)
            job.run.store.write(f"{job.run.id}/{missing[index].key}", part.to_npz())
            tracker.advance()


def write_table(
    job: Job, step: Step, split: str, images: Split, wanted: Sequence[Wanted], cost_M: np.ndarray, k: int
) -> None:
    """Assembles a split's parts and publishes the table."""
    labels = images.labels.numpy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assembly = Assembly(folder, len(cost_M), len(labels), k, job.data.classes)
        for one in wanted:
            where = f"{job.run.url}/{one.key}"
            assembly.put(one.members, one.part.start, Table.from_npz(job.run.raw(one.key), where), where)
        assembly.table(labels, cost_M).save(folder / "table.npz")
        step.publish(files.predictions(split), folder / "table.npz")


def look_at_exits(job: Job, step: Step, front: Front) -> None:
    """Writes what the exits of the front's most accurate network reach, if it has several; chosen on the selection split."""
    arch = network_of(front.members)
    if arch is None:
        return job.reporter.say("predict: no network on the front has more than one exit")
    evaluator = trained_evaluator(job, step)
    selection, test = (Predictions.of(evaluator, arch, split) for split in (job.data.selection, job.test))
    found = exit_results(job.config, arch, job.data.classes, selection, test)
    step.write_json(files.EXITS, found.to_json())
    last, cheapest = found.singles[-1], next(one for one in found.cascade if one.top1 >= found.singles[-1].top1)
    return job.reporter.say(
        f"predict: {arch.key} keeps exits {', '.join(map(str, found.kept.exits))} of {arch.exit}, test top-1 "
        f"{found.kept.test_top1:.4f} (the last alone {last.test_top1:.4f}); as a cascade it reaches the last "
        f"exit's top-1 with {100 * cheapest.test_macs / last.macs:.0f} % of its MACs on average"
    )
