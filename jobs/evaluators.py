"""The pool of evaluators: Ray actors that hold the trained supernet and score sub-networks with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import safetensors.numpy
import torch

from cluster.run import Step
from cluster.runtime.pool import Pool
from jobs import files
from jobs.config import Experiment
from jobs.images.dataset import Dataset, read_only_tensor
from jobs.job import Job
from ofa.arch import Arch
from ofa.cost import cost
from ofa.evaluate import Evaluator
from ofa.images import Split
from ofa.record import Measured
from ofa.supernet import Supernet

TRAINING_IMAGES = 50  # of a class, where ensembles are chosen on training images
_WEIGHT = "weight:"  # marks the supernet's tensors among the arrays of the data set


def read_weights(step: Step, config: Experiment) -> dict[str, np.ndarray]:
    """The trained supernet's tensors, noted as an input of `step`."""
    data = step.read(files.supernet(config.phases[-1].name))
    return {name.removeprefix("net."): array for name, array in safetensors.numpy.load(data).items()}


def load_supernet(config: Experiment, classes: int, weights: Mapping[str, np.ndarray]) -> Supernet:
    """The supernet on these arrays, without a copy: its parameters must not be written to."""
    with torch.device("meta"):
        net = Supernet(config.search_space, classes)
    tensors = {name: read_only_tensor(array) for name, array in weights.items()}
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False)


def trained_evaluator(job: Job, step: Step) -> Evaluator:
    """Evaluates the run's trained supernet in this process; its weights are noted as an input of `step`."""
    net, setting = load_supernet(job.config, job.data.classes, read_weights(step, job.config)), job.config.measure
    return job.data.evaluator(net, setting.calibration_images, setting.batch)


def evaluators(job: Job) -> Pool:
    """`ray.evaluators` actors, which the steps of one command share.

    Weights and images go into the object store once for all of them.
    """

    def start() -> Pool:
        weights = read_weights(job.run.begin("evaluate"), job.config)
        arrays = {**{_WEIGHT + name: array for name, array in weights.items()}, **job.data.arrays()}
        return Pool(partial(Scorer, job.config), arrays, job.config.ray.evaluators)

    return job.pool(start)


def rescale(job: Job) -> None:
    """Resizes the pool to the number of evaluators that `ofa scale` requested, if it did."""
    wanted, pool = job.scale.overrides().evaluators, evaluators(job)
    if wanted is not None and wanted != pool.workers:
        pool.resize(wanted)


def predicted_split(data: Dataset, name: str) -> Split:
    """The images that a prediction table is of: a split, but of `train` the first 50 of each class, as OFA³ chose on."""
    if name != "train":
        return data.splits[name]
    labels = data.sample.labels
    order = torch.argsort(labels, stable=True)
    place = torch.arange(len(order)) - torch.searchsorted(labels[order], labels[order])
    return data.sample[order[place < TRAINING_IMAGES].sort().values]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a prediction table: archs of one resolution on images start to stop of a split, k classes each."""

    archs: tuple[Arch, ...]
    split: str
    start: int
    stop: int
    k: int


class Scorer:
    """What each actor does; every answer is a function of its argument alone."""

    def __init__(self, config: Experiment, arrays: Mapping[str, np.ndarray]) -> None:
        torch.set_num_threads(1)
        self.data = Dataset.of(arrays)
        weights = {name.removeprefix(_WEIGHT): array for name, array in arrays.items() if name.startswith(_WEIGHT)}
        self.space = config.search_space
        net, setting = load_supernet(config, self.data.classes, weights), config.measure
        self.evaluator = self.data.evaluator(net, setting.calibration_images, setting.batch)

    def measure(self, arch: Arch) -> Measured:
        """The arch on the selection split, with its exact costs."""
        macs, params = cost(self.space, arch, self.data.classes)
        top1 = self.evaluator.top1(arch, self.data.selection)
        return Measured(arch, top1, macs, params, split="selection")

    @torch.no_grad()
    def tables(self, question: Part) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities [archs, images, k], likeliest first: images are resized once for all the archs."""
        images = predicted_split(self.data, question.split)[question.start : question.stop]
        resolution = question.archs[0].resolution
        statistics = [self.evaluator.statistics(arch) for arch in question.archs]
        net = self.evaluator.net.eval()
        answers: list[list[torch.Tensor]] = [[] for _ in question.archs]
        for x in self.evaluator.batches(images, resolution):
            for answer, arch, known in zip(answers, question.archs, statistics, strict=True):
                answer.append(net(x, arch, known).cpu().softmax(1))
        classes, probs = [], []
        for answer in answers:
            ordered, order = torch.cat(answer).sort(dim=1, descending=True, stable=True)
            classes.append(order[:, : question.k].numpy().astype(np.int32))
            probs.append(ordered[:, : question.k].numpy())
        return np.stack(classes), np.stack(probs)


def measure_all(
    job: Job, step: Step, archs: Sequence[Arch], known: dict[str, Measured], seen: Callable[[Measured], None]
) -> list[Measured]:
    """Every arch measured once: from `known` where it is there, else by the pool, a part of the ledger at a time.

    Adds what it measured to `known`; `seen` is called for every new one.
    """
    wanted = list({arch.key: arch for arch in archs if arch.key not in known}.values())
    fresh: list[Measured] = []
    if wanted:
        rescale(job)
        for _, measured in evaluators(job).map("measure", wanted):
            known[measured.arch.key] = measured
            fresh.append(measured)
            seen(measured)
            rescale(job)
            if len(fresh) >= 4 * job.config.ray.evaluators:
                step.ledger.append([row.to_json() for row in fresh])
                fresh = []
        step.ledger.append([row.to_json() for row in fresh])
    return [known[arch.key] for arch in archs]
