"""Train the supernet phase by phase; leaves the weights of every phase in the run.

    ofa train configs/digits.toml --store ./runs

Takes about two minutes on two cores with the digits; a killed job resumes from its last checkpoint to the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cluster.checkpoint import Checkpoints, Progress
from cluster.config import ConfigError
from cluster.run import Run
from cluster.runtime.training import Worker, train_on_ray
from cluster.seeds import stream
from cluster.store import open_store
from cluster.texts import sha256
from jobs import files
from jobs.config import Experiment
from jobs.images.dataset import Dataset
from jobs.images.decoding import DecodingCounts
from jobs.job import Job
from ofa.evaluate import Evaluator
from ofa.images import steps_per_epoch, torch_generator
from ofa.norms import store
from ofa.phases import Phase
from ofa.sorting import sort_channels
from ofa.supernet import Supernet
from ofa.train import Learner, Recipe, Teacher, train_step


def train(job: Job) -> None:
    config = job.config
    step = job.run.begin("train")
    Checkpoints(job.run, files.SUPERNET).latest()  # a damaged checkpoint is said here, not by every worker
    job.need_ray()
    per_epoch = steps_per_epoch(job.data.sizes["train"], config.train.batch)
    total = sum(phase.epochs for phase in config.phases) * per_epoch
    with job.reporter.track("train", total, "steps") as tracker:

        def hear(letter: dict[str, Any]) -> None:
            if "skipped" in letter:
                return job.reporter.say(letter["skipped"])
            if letter["resumed"]:
                tracker.resumed(letter["done"])
            return tracker.at(letter["done"], letter["note"])

        loop = partial(train_loop, config, job.run.store.url, job.run.code, attempt=job.run.attempt)
        train = config.train
        train_on_ray(loop, job.data.arrays(), train.workers, train.max_failures, hear, gpu=train.device == "cuda")
    for phase in config.phases:
        step.adopt(files.supernet(phase.name))
        step.adopt(files.supernet_meta(phase.name))
    step.finish(config.seed, images=job.data.sizes)
    last = json.loads(job.run.raw(files.supernet_meta(config.phases[-1].name).key))["history"][-1]
    job.reporter.say(
        f"train: supernet of {config.space}, {config.search_space.size:.2e} sub-networks; on the selection split "
        f"the largest has top-1 {last['largest']:.4f}, the smallest {last['smallest']:.4f}"
    )


def train_loop(
    config: Experiment, store_url: str, code: str, worker: Worker, arrays: Mapping[str, np.ndarray], attempt: int = 0
) -> None:
    """Runs on every worker; continues from the latest checkpoint of the run."""
    torch.set_num_threads(config.train.threads)
    data, draw = Dataset.of(arrays), partial(stream, config.seed)
    checkpoints = Checkpoints(Run.at(store_url, config.id, code, attempt), files.SUPERNET)
    net = Supernet(config.search_space, data.classes, torch_generator(draw("weights")))
    given = None
    if config.train.weights:
        given = safetensors.torch.load(read_weights_file(config.train.weights))
        net.load_state_dict(fitting(given, net, config.train.weights))
    net.to(config.train.device)
    learner = Learner(net, recipe(config), worker.average)
    progress = Progress()
    if (latest := agreed(checkpoints, worker)) is not None:
        learner.load(safetensors.torch.load(latest[0]))
        progress = latest[1]
    watch = Watch(config, data, learner, worker, checkpoints, progress)
    weights = None if progress.phase == 0 else checkpoints.phase(config.phases[0].name, progress)
    teacher = None
    if given is not None or weights is not None:
        teacher = teacher_of(config, data, given or safetensors.torch.load(weights or b""))
    counts = DecodingCounts(config.data.source, config.data.max_corrupt)
    for number, phase in list(enumerate(config.phases))[progress.phase :]:
        if progress.epoch == progress.step == 0:
            learner.reset_momentum()
            before = config.phases[number - 1].space.expands if number else phase.space.expands
            if before != phase.space.expands:
                sort_channels(net, before)
        for epoch in range(progress.epoch, phase.epochs):
            train_epoch(config, data, learner, phase, epoch, teacher, worker, watch, counts)
        watch.end_phase(phase)
        if teacher is None:
            teacher = teacher_of(config, data, net_state(net))


def agreed(checkpoints: Checkpoints, worker: Worker) -> tuple[bytes, Progress] | None:
    """The latest checkpoint, the same on every worker.

    Workers of a killed driver live on for some seconds; what they publish meanwhile must not part their successors.
    """
    while True:
        latest = checkpoints.latest()
        digest = bytes.fromhex(sha256(latest[0])) if latest else bytes(32)
        mine = torch.tensor(list(digest), dtype=torch.float64)
        mean = mine.clone()
        worker.average(mean)
        apart = (mean != mine).any().double()
        worker.average(apart)
        if apart == 0:
            return latest
        time.sleep(0.2)


def train_epoch(
    config: Experiment,
    data: Dataset,
    learner: Learner,
    phase: Phase,
    epoch: int,
    teacher: Teacher | None,
    worker: Worker,
    watch: Watch,
    counts: DecodingCounts,
) -> None:
    """One pass over the training images, from the step that `watch` says."""
    draw, known = partial(stream, config.seed), len(counts.failed)
    augment = data.augment(config)
    per_epoch = steps_per_epoch(data.sizes["train"], config.train.batch)
    drawn_by = () if config.train.draws == "shared" else (worker.rank,)
    for step, pixels, labels in data.batches(config, phase.name, epoch, worker, counts, watch.progress.step):
        images = augment(pixels, data.scale, torch_generator(draw("crop", phase.name, epoch, step, worker.rank)))
        lr = phase.lr_at(epoch * per_epoch + step, per_epoch)
        archs = draw("arch", phase.name, epoch, step, *drawn_by)
        dropped = torch_generator(draw("drop", phase.name, epoch, step, worker.rank))
        loss = train_step(learner, phase, images, labels, teacher, lr, archs, dropped)
        watch.end_step(phase, loss.item())
    watch.end_epoch(phase)
    if len(counts.failed) > known:
        worker.report({"skipped": counts.messages()[0]})


class Watch:
    """Keeps count of where training stands, saves it, and tells the driver; only the first worker writes."""

    def __init__(
        self,
        config: Experiment,
        data: Dataset,
        learner: Learner,
        worker: Worker,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self.config, self.learner, self.worker, self.checkpoints = config, learner, worker, checkpoints
        self.progress = progress
        self.per_epoch = steps_per_epoch(data.sizes["train"], config.train.batch)
        self.evaluator = evaluator(config, data, learner.net)
        self.selection = data.selection[: config.train.validate_images]
        self.saved = self.told = time.monotonic()
        self.tell(resumed=True)

    def end_step(self, phase: Phase, loss: float) -> None:
        self.progress.step += 1
        self.progress.loss_sum += loss
        now = time.monotonic()
        if now - self.told > 0.5:
            self.told = now
            self.tell()
        if now - self.saved > self.config.train.checkpoint_s:
            self.save(phase)

    def end_epoch(self, phase: Phase) -> None:
        """Writes down how the epoch went; every few epochs and at a phase's end also how good the extremes are."""
        p = self.progress
        loss = torch.tensor(p.loss_sum / self.per_epoch)
        self.worker.average(loss)
        lr = phase.lr_at((p.epoch + 1) * self.per_epoch - 1, self.per_epoch)
        row: dict[str, Any] = {"phase": phase.name, "epoch": p.epoch + 1, "loss": round(loss.item(), 6), "lr": lr}
        last = p.epoch + 1 == phase.epochs
        if self.worker.rank == 0 and (last or (p.epoch + 1) % self.config.train.validate_every == 0):
            for name, arch in zip(("largest", "smallest"), phase.extremes, strict=True):
                row[name] = self.evaluator.top1(arch, self.selection)
        p.history.append(row)
        p.epoch, p.step, p.loss_sum = p.epoch + 1, 0, 0.0

    def end_phase(self, phase: Phase) -> None:
        """Publishes the phase's weights, with the largest network's statistics in them."""
        p, net = self.progress, self.learner.net
        store(net, self.evaluator.statistics(self.config.search_space.largest()))
        p.phase, p.epoch = p.phase + 1, 0
        if self.worker.rank == 0:
            weights = safetensors.torch.save(net_state(net))
            p.phases[phase.name] = sha256(weights)
            space = phase.space
            meta = {
                "phase": phase.name,
                "space": space.name,
                "classes": net.classes,
                "archs": [arch.key for arch in phase.archs],
                "choices": {name: getattr(space, name) for name in ("resolutions", "depths", "kernels", "expands")},
                "history": [row for row in p.history if row["phase"] == phase.name],
            }
            self.checkpoints.finish_phase(weights, json.dumps(meta, indent=1).encode(), p, phase.name)
            self.saved = time.monotonic()
        self.tell()

    def save(self, phase: Phase) -> None:
        if self.worker.rank == 0:
            self.checkpoints.save(safetensors.torch.save(self.learner.state()), self.progress, phase.name)
        self.saved = time.monotonic()

    def tell(self, *, resumed: bool = False) -> None:
        if self.worker.rank:
            return
        p, phases = self.progress, self.config.phases
        epochs = sum(phase.epochs for phase in phases[: p.phase]) + p.epoch
        note = f"phase {phases[p.phase].name}" if p.phase < len(phases) else "done"
        seen = next((row for row in reversed(p.history) if "largest" in row), None)
        if seen:
            note += f", top-1 largest {seen['largest']:.4f} smallest {seen['smallest']:.4f} ({seen['phase']})"
        self.worker.report({"done": epochs * self.per_epoch + p.step, "note": note, "resumed": resumed})


def net_state(net: Supernet) -> dict[str, Tensor]:
    """The weights and stored statistics of `net`, named as in a checkpoint."""
    return {f"net.{name}": tensor for name, tensor in net.state_dict().items()}


def load_net(config: Experiment, classes: int, tensors: Mapping[str, Tensor]) -> Supernet:
    """The supernet with the weights of a checkpoint."""
    net = Supernet(config.search_space, classes)
    net.load_state_dict({n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")})
    return net.eval()


def teacher_of(config: Experiment, data: Dataset, tensors: Mapping[str, Tensor]) -> Teacher:
    """The largest network with these weights, which it copies."""
    net = load_net(config, data.classes, tensors).to(config.train.device)
    return Teacher(evaluator(config, data, net), in_training_mode=config.train.teacher == "train")


def read_weights_file(url: str) -> bytes:
    """The supernet's weights that a config names."""
    place, _, key = url.rpartition("/")
    return open_store(place or ".").read(key)


def fitting(tensors: Mapping[str, Tensor], net: Supernet, where: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint as `net` names them; those of another space are a `ConfigError`."""
    named = {n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")}
    wanted = net.state_dict()
    wrong = next((n for n in wanted if n not in named or named[n].shape != wanted[n].shape), None)
    if wrong is not None:
        found = tuple(named[wrong].shape) if wrong in named else "nothing"
        raise ConfigError(
            f"train.weights: {where}: {wrong} is {found}, the space {net.space.name} with {net.classes} classes has "
            f"{tuple(wanted[wrong].shape)}; give the weights of a run on the same space and classes"
        )
    return named


def evaluator(config: Experiment, data: Dataset, net: Supernet) -> Evaluator:
    """Scores sub-networks of `net`, each with statistics from the first training images."""
    return Evaluator(net, data.scale, data.sample[: config.measure.calibration_images], config.measure.batch)


def recipe(config: Experiment) -> Recipe:
    train = config.train
    return Recipe(
        train.momentum, train.weight_decay, train.label_smoothing, train.clip_norm, train.distil_loss, train.gradients,
        train.dropout, train.precision == "bfloat16",
    )  # fmt: skip
