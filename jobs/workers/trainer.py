"""The code of every worker of a training: the loop of `ofa.train` with a run's images, checkpoints and events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cluster.checkpoint import Checkpoints, Progress
from cluster.config import ConfigError
from cluster.errors import Diverged
from cluster.run import Run
from cluster.runtime.workers import EpochDone, Progressed, Skipped, Worker
from cluster.seeds import stream
from cluster.store import read_object
from cluster.stores.errors import StoreError
from cluster.texts import json_text, sha256
from jobs.config import Data
from jobs.images.dataset import Dataset
from jobs.images.decoding import DecodingCounts
from ofa.evaluate import NotFinite
from ofa.images import steps_per_epoch, torch_generator
from ofa.norms import store
from ofa.phases import Phase, Plan, best_epoch
from ofa.space import Space
from ofa.supernet import Supernet
from ofa.teacher import State, Teacher, Teachers
from ofa.threads import torch_threads
from ofa.train import Learner, Observer, Position, Shard, train_phases

REPORT_S = 0.5  # seconds between events within an epoch


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a training's checkpoints and weights: a folder of a run in a store."""

    store_url: str
    run_id: str
    code: str  # version of the code
    folder: str
    attempt: int = 0
    checkpoint_s: float = 10.0  # seconds between checkpoints within a phase


def loop(plan: Plan, images: Data, place: Place, worker: Worker, arrays: Mapping[str, np.ndarray]) -> None:
    """Trains by `plan` from the latest checkpoint at `place`; runs on every worker.

    images: how training images are read and augmented. arrays: the data set (`Dataset.arrays`).
    """
    with torch_threads(plan.threads):
        data, streams = Dataset.of(arrays), partial(stream, plan.seed)
        run = Run.at(place.store_url, place.run_id, place.code, place.attempt, known=True)
        checkpoints = Checkpoints(run, place.folder)
        net, given = initial(plan)
        net.to(plan.device)
        learner = Learner(net, plan.recipe, worker.average)
        progress = Progress()
        if (latest := agreed(checkpoints, worker)) is not None:
            state = safetensors.torch.load(latest[0])
            if (name := not_finite(state)) is not None:
                raise Diverged(
                    f"train: the checkpoint in {checkpoints.run.url}/{place.folder}: {name} has values that are not finite: "
                    "training had diverged; delete that folder, and lower the learning rate of the phases"
                )
            learner.load(state)
            progress = latest[1]
        start = Position(progress.phase, progress.epoch, progress.step)
        monitor = Monitor(plan, data, learner, worker, checkpoints, progress, place.checkpoint_s)

        def teacher(state: State) -> Teacher:
            copy = Supernet(plan.space, plan.classes)
            copy.load_state_dict(dict(state))
            own = data.evaluator(copy.to(plan.device), *plan.evaluation)
            return Teacher(own, plan.teacher_norm, plan.teacher_exits)

        def stored(phase: Phase) -> State:
            return net_tensors(safetensors.torch.load(checkpoints.phase(phase.name, progress)))

        teachers = Teachers(plan.phases, teacher, given, stored)
        feed = WorkerFeed(plan, images, data, worker)
        train_phases(plan, learner, feed, streams, teachers.enter, monitor, start=start)


def description(
    phase: str, space: Space, classes: int, archs: Sequence[str] = (), history: Sequence[Any] = ()
) -> dict[str, Any]:
    """The document beside the weights at the end of a phase."""
    return {
        "phase": phase,
        "space": space.name,
        "classes": classes,
        "archs": list(archs),
        "choices": {name: getattr(space, name) for name in space.choice_names},
        "history": list(history),
    }


def untrained(plan: Plan) -> bytes:
    """The content of a checkpoint with the weights that a plan starts from, and their stored statistics as given."""
    return safetensors.torch.save(named_state(initial(plan)[0]))


def initial(plan: Plan) -> tuple[Supernet, State | None]:
    """The network before its training, and the weights of the teacher that there is then: those given with their head."""
    weights = torch_generator(stream(plan.seed, "weights"))
    net = Supernet(plan.space, plan.classes, weights, zero_last_gamma=plan.zero_last_gamma)
    if not plan.weights:
        return net, None
    given = given_weights(plan.weights, plan.space, plan.classes, plan.head)
    net.load_state_dict({**net.state_dict(), **given})
    return net, given if plan.head == "kept" else None


def agreed(checkpoints: Checkpoints, worker: Worker) -> tuple[bytes, Progress] | None:
    """The latest checkpoint, the same on every worker.

    Workers of a killed driver live on for some seconds; a checkpoint that they publish meanwhile must not give their
    successors different states.
    """
    while True:
        latest = checkpoints.latest()
        digest = bytes.fromhex(sha256(latest[0])) if latest else bytes(32)
        mine = torch.tensor(list(digest), dtype=torch.float64)
        mean = mine.clone()
        worker.average(mean)
        differs = (mean != mine).any().double()
        worker.average(differs)
        if differs == 0:
            return latest
        time.sleep(0.2)


class WorkerFeed:
    """A worker's shards of the training images, augmented."""

    def __init__(self, plan: Plan, images: Data, data: Dataset, worker: Worker) -> None:
        self.plan, self.images, self.data, self.worker = plan, images, data, worker
        self.steps_per_epoch = steps_per_epoch(data.sizes["train"], plan.batch)
        self.augment = data.augment(images)
        self.counts = DecodingCounts(images.source, images.max_corrupt)

    def epoch(self, phase: str, epoch: int, start: int) -> Iterator[tuple[int, Sequence[Shard]]]:
        """See `ofa.train.Feed`; images that were skipped are reported after the epoch."""
        known, count = len(self.counts.failed), self.worker.shards or self.worker.world
        parts = (self._shards(phase, epoch, start, (number, count)) for number in self.worker.own)
        yield from enumerate(zip(*parts, strict=True), start)
        if len(self.counts.failed) > known:
            self.worker.report(Skipped(self.counts.messages()[0]))

    def _shards(self, phase: str, epoch: int, start: int, shard: tuple[int, int]) -> Iterator[Shard]:
        """A shard of every step from `start` on. shard: its number, and the number of shards."""
        plan, data, number = self.plan, self.data, shard[0]
        weight = data.weight(plan, shard, self.worker.world)
        for step, pixels, labels in data.batches(plan, self.images, phase, epoch, shard, self.counts, start):
            rng = stream(plan.seed, "crop", phase, epoch, step, number)
            yield Shard(number, self.augment(pixels, data.scale, torch_generator(rng)), labels, weight)


class Monitor(Observer):
    """Counts steps, evaluates the extremes, saves checkpoints and reports; only the first worker writes and reports."""

    def __init__(
        self,
        plan: Plan,
        data: Dataset,
        learner: Learner,
        worker: Worker,
        checkpoints: Checkpoints,
        progress: Progress,
        checkpoint_s: float,
    ) -> None:
        self.plan, self.learner, self.worker, self.checkpoints = plan, learner, worker, checkpoints
        self.progress, self.checkpoint_s = progress, checkpoint_s
        self.per_epoch = steps_per_epoch(data.sizes["train"], plan.batch)
        self.evaluator = data.evaluator(learner.evaluated, *plan.evaluation)
        self.selection = data.selection[: plan.validate_images] if "selection" in data.splits else None
        self.cheap = learner.net.device.type == "cpu"  # reading a loss there waits for nothing
        # of the means over all workers
        self.loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=learner.net.device)
        self.saved = self.reported = time.monotonic()
        self.report(resumed=True)

    def step_done(self, number: int, loss: Tensor) -> None:
        self.progress.step += 1
        mean = loss.double().clone()
        self.worker.average(mean)
        self.loss_sum += mean  # stays on the device: reading it would wait for the step
        now = time.monotonic()
        if now - self.reported > REPORT_S or self.cheap:
            self.check_loss(number)
        if now - self.reported > REPORT_S:
            self.reported = now
            self.report()
        if now - self.saved > self.checkpoint_s or self.worker.awaited():
            self.save(number)

    def epoch_done(self, number: int) -> None:
        """Records the epoch's loss and learning rate; every few epochs and at a phase's end also the extremes' top-1.

        Without a selection split nothing is evaluated.
        """
        self.check_loss(number)
        self.check_weights(number)
        p, phase = self.progress, self.plan.phases[number]
        loss = torch.tensor(self.loss_sum.item() / self.per_epoch)
        lr = self.plan.lr_at(number, (p.epoch + 1) * self.per_epoch - 1, self.per_epoch)
        row: dict[str, Any] = {"phase": phase.name, "epoch": p.epoch + 1, "loss": round(loss.item(), 6), "lr": lr}
        last = p.epoch + 1 == phase.epochs
        evaluates = self.worker.rank == 0 and (last or (p.epoch + 1) % self.plan.validate_every == 0)
        if self.selection is not None and evaluates:
            try:
                found = {arch: self.evaluator.top1(arch, self.selection, phase.summed_exits)
                         for arch in dict.fromkeys(phase.extremes)}  # fmt: skip
            except NotFinite as error:
                raise self.diverged(number, str(error)) from None
            row |= {name: found[arch] for name, arch in zip(("largest", "smallest"), phase.extremes, strict=True)}
        p.history.append(row)
        p.epoch, p.step, p.loss_sum = p.epoch + 1, 0, 0.0
        self.loss_sum.zero_()
        if self.worker.rank == 0:
            self.worker.report(EpochDone(row))

    def ends(self, number: int) -> bool:
        """Whether the phase has had no better epoch for long enough; the first worker, which evaluates, decides."""
        phase = self.plan.phases[number]
        if not phase.patience:
            return False
        top1 = [row["largest"] for row in self.progress.history if row["phase"] == phase.name and "largest" in row]
        late = self.worker.rank == 0 and len(top1) - best_epoch(top1) >= phase.patience
        ends = torch.tensor(float(late))
        self.worker.average(ends)
        return bool(ends > 0)

    def phase_done(self, number: int) -> None:
        """Publishes the phase's weights, with the largest network's batch-norm statistics in them."""
        p, net, phase = self.progress, self.learner.evaluated, self.plan.phases[number]
        largest = self.plan.space.largest()
        store(net, self.evaluator.statistics(largest, tuple(range(1, largest.exit + 1))))
        self.check_weights(number)
        p.phase, p.epoch = p.phase + 1, 0
        if self.worker.rank == 0:
            weights = safetensors.torch.save(named_state(net))
            p.phases[phase.name] = sha256(weights)
            archs = [arch.key for arch in getattr(phase.draw, "archs", ())]
            history = [row for row in p.history if row["phase"] == phase.name]
            meta = description(phase.name, phase.space, net.classes, archs, history)
            more = self.plan.keep_momentum or self.plan.recipe.average  # than the phase's weights
            keeps = more and p.phase < len(self.plan.phases)
            state = safetensors.torch.save(self.learner.state()) if keeps else None
            self.checkpoints.finish_phase(weights, json_text(meta, indent=1).encode(), p, phase.name, state)
            self.worker.saved()
            self.saved = time.monotonic()
        self.report()

    def save(self, number: int) -> None:
        """Publishes a checkpoint within a phase."""
        self.check_loss(number)
        self.check_weights(number)
        if self.worker.rank == 0:
            self.progress.loss_sum = self.loss_sum.item()
            name = self.plan.phases[number].name
            self.checkpoints.save(safetensors.torch.save(self.learner.state()), self.progress, name)
            self.worker.saved()
        self.saved = time.monotonic()

    def check_loss(self, number: int) -> None:
        """Raises a `Diverged` once a loss of this epoch was not finite; on a GPU this waits for the last step."""
        if not math.isfinite(loss := self.loss_sum.item()):
            raise self.diverged(number, f"the loss is {loss}")

    def check_weights(self, number: int) -> None:
        """Raises a `Diverged` if a weight, a stored statistic, a momentum or an average is not finite."""
        if (name := not_finite(self.learner.state())) is not None:
            raise self.diverged(number, f"{name} has values that are not finite")

    def diverged(self, number: int, what: str) -> Diverged:
        """The error of a training that cannot go on from its present weights."""
        p, phase = self.progress, self.plan.phases[number]
        last = max(0, p.epoch * self.per_epoch + p.step - 1)
        epoch, step = divmod(last, self.per_epoch)
        lr = self.plan.lr_at(number, last, self.per_epoch)
        return Diverged(
            f"train: phase {phase.name!r}, epoch {epoch + 1}, step {step + 1} of {self.per_epoch}: {what}, at learning rate "
            f"{lr:.3g}: training has diverged; lower the phase's lr ({phase.lr:g}), give it more warmup_epochs, or lower "
            "train.clip_norm; the last good checkpoint is kept"
        )

    def report(self, *, resumed: bool = False) -> None:
        """Sends an event with the number of completed steps and the last accuracies."""
        if self.worker.rank:
            return
        p, phases = self.progress, self.plan.phases
        epochs = sum(phase.epochs for phase in phases[: p.phase]) + p.epoch
        note = f"phase {phases[p.phase].name}" if p.phase < len(phases) else "done"
        if self.worker.world < self.worker.shards:
            note += f", {self.worker.world} of {self.worker.shards} workers"
        seen = next((row for row in reversed(p.history) if "largest" in row), None)
        if seen:
            note += f", top-1 largest {seen['largest']:.4f} smallest {seen['smallest']:.4f} ({seen['phase']})"
        self.worker.report(Progressed(epochs * self.per_epoch + p.step, note, resumed))


def named_state(net: Supernet) -> dict[str, Tensor]:
    """The weights and stored statistics of `net`, named as in a checkpoint."""
    return {f"net.{name}": tensor for name, tensor in net.state_dict().items()}


def net_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that belong to a supernet, as `Supernet.state_dict` names them.

    A file of `ofa import` has nothing but these, under their own names.
    """
    return {n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")} or dict(tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with NaN or infinite values, or None."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)


def given_weights(url: str, space: Space, classes: int, head: Literal["kept", "new"] = "kept") -> dict[str, Tensor]:
    """The weights that training starts from, `train.weights`, as `Supernet.state_dict` names them.

    head: "new" leaves out the classifiers, which may then have any number of classes.
    Raises an `InputError` if they are not there or do not fit.
    """
    try:
        tensors = safetensors.torch.load(read_weights(url))
    except SafetensorError as error:
        raise ConfigError(f"train.weights: {url}: is no safetensors file: {error}; give the weights of a run") from None
    with torch.device("meta"):
        net = Supernet(space, classes)
    return fitting(tensors, net, url, head)


def read_weights(url: str) -> bytes:
    """The file that `train.weights` names; a `ConfigError` if it cannot be read."""
    try:
        return read_object(url)
    except StoreError as error:
        raise ConfigError(f"train.weights: {error}; give the weights.safetensors of a run") from None


def fitting(
    tensors: Mapping[str, Tensor], net: Supernet, where: str, head: Literal["kept", "new"] = "kept"
) -> dict[str, Tensor]:
    """The tensors of a checkpoint as `net` names them; raises a `ConfigError` for those of another space.

    head: "new" leaves out the classifiers.
    """
    named, wanted = net_tensors(tensors), net.state_dict()
    classifiers = net.classifier_names
    kept = [name for name in wanted if head == "kept" or name not in classifiers]
    wrong = next((n for n in kept if n not in named or named[n].shape != wanted[n].shape), None)
    wrong = wrong or next((n for n in named if n not in wanted), None)
    if wrong is not None:
        found, expected = (tuple(of[wrong].shape) if wrong in of else "nothing" for of in (named, wanted))
        advice = "give the weights of a run on the same space and classes"
        if wrong in classifiers and wrong in named:
            advice += ', or set train.head to "new"'
        raise ConfigError(
            f"train.weights: {where}: {wrong} is {found}, the space {net.space.name} with {net.classes} classes has "
            f"{expected}; {advice}"
        )
    if (bad := not_finite({name: named[name] for name in kept})) is not None:
        raise ConfigError(
            f"train.weights: {where}: {bad} has values that are not finite; give the weights of a sound training"
        )
    return {name: named[name] for name in kept}
