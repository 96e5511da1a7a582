"""The workers of the pool of evaluators: each holds the trained supernet and the images, and evaluates archs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cluster.errors import Diverged, InputError
from jobs.config import Experiment
from jobs.images.dataset import Dataset, read_only_tensor, split_of
from jobs.workers.devices import name_of, usable
from ofa.arch import Arch
from ofa.energy import NoCounter
from ofa.evaluate import NotFinite, top1
from ofa.extract import extract
from ofa.images import Split
from ofa.latency import Latency, measure_latencies
from ofa.meters import Meter, Subject, measured
from ofa.record import Measured
from ofa.supernet import Supernet

TRAINING_IMAGES = 50  # training images of each class, where ensembles are chosen on them
_WEIGHT = "weight:"  # marks the supernet's tensors among the arrays of the data set


def weight_arrays(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The supernet's tensors as arrays of workers."""
    return {_WEIGHT + name: array for name, array in weights.items()}


def shared_arrays(weights: Mapping[str, np.ndarray], data: Dataset) -> dict[str, np.ndarray]:
    """The supernet's tensors and the images as one set of arrays, the input of workers."""
    return {**weight_arrays(weights), **data.arrays()}


def load_supernet(config: Experiment, classes: int, weights: Mapping[str, np.ndarray]) -> Supernet:
    """The supernet on these arrays, without a copy: its parameters must not be written to."""
    with torch.device("meta"):
        net = Supernet(config.search_space, classes)
    tensors = {name: read_only_tensor(array) for name, array in weights.items()}
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False)


def predicted_split(data: Dataset, name: str) -> Split:
    """The images of a prediction table: selection, or of `train` the first 50 of each class, on which OFA³ chose."""
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


class EvaluationWorker:
    """The worker of an actor; every result is a function of its argument alone. batch: the images that it takes at once."""

    def __init__(
        self, config: Experiment, meters: Mapping[str, Meter], batch: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        torch.set_num_threads(1)
        self.config, self.data, self.meters, self.batch = config, Dataset.of(arrays), meters, batch
        self.space = config.search_space
        self.renew(arrays)

    def renew(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes the supernet's weights among the arrays."""
        weights = {name.removeprefix(_WEIGHT): array for name, array in arrays.items() if name.startswith(_WEIGHT)}
        net, setting = load_supernet(self.config, self.data.classes, weights), self.config.measure
        net = net.to(usable(setting.device, "measure.device"))
        self.evaluator = self.data.evaluator(net, setting.calibration_images, self.batch, setting.norm_batch)

    def measure(self, arch: Arch) -> Measured:
        """The record of an arch on the selection split: top-1, exact costs, and the objectives' further quantities."""
        subject = Subject(arch, self.space, self.data.classes, self.evaluator, self.data.selection)
        try:
            return measured(subject, self.meters, "selection")
        except NoCounter as error:
            raise InputError(str(error)) from None
        except NotFinite as error:
            raise Diverged(f"{error}: the supernet's training has diverged; train it with a lower learning rate") from None

    @torch.inference_mode()
    def extracted(self, arch: Arch) -> float:
        """The top-1 of the extracted network of an arch on the selection split."""
        network = extract(self.evaluator.net, arch, self.evaluator.statistics(arch)).to(self.evaluator.net.device)
        logits = [network(images) for images in self.evaluator.batches(self.data.selection, arch.resolution)]
        return top1(torch.cat(logits), self.data.selection.labels)

    def latencies(self, archs: Sequence[Arch]) -> tuple[str, list[Latency]]:
        """The name of this device, and the latency of every arch's extracted network on it."""
        setting, net = self.config.measure, self.evaluator.net
        plain = [(extract(net, a, self.evaluator.statistics(a)).to(net.device), a.resolution) for a in archs]
        found = measure_latencies(plain, runs=setting.latency_runs, threads=setting.latency_threads, device=setting.device)
        return name_of(setting.device), found

    @torch.no_grad()
    def tables(self, part: Part, test: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities [archs, images, k], most probable first; images are resized once for all the archs.

        test: `pixels` and `labels` of the test split, which no other method gets.
        """
        split = split_of(test) if part.split == "test" else predicted_split(self.data, part.split)
        images = split[part.start : part.stop]
        resolution = part.archs[0].resolution
        statistics = [self.evaluator.statistics(arch) for arch in part.archs]
        net = self.evaluator.net.eval()
        answers: list[list[torch.Tensor]] = [[] for _ in part.archs]
        for x in self.evaluator.batches(images, resolution):
            for answer, arch, known in zip(answers, part.archs, statistics, strict=True):
                answer.append(net(x, arch, known).cpu().softmax(1))
        classes, probs = [], []
        for answer in answers:
            ordered, order = torch.cat(answer).sort(dim=1, descending=True, stable=True)
            classes.append(order[:, : part.k].numpy().astype(np.int32))
            probs.append(ordered[:, : part.k].numpy())
        return np.stack(classes), np.stack(probs)
