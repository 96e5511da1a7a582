"""Subset scores from Ray actors: each scores shards of the images, and the integer counts are added."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from cluster.runtime.pool import Pool
from ensemble.score import SubsetScorer
from ensemble.table import Table
from jobs.workers.devices import usable

_SHARDS_AN_ACTOR = 2  # so that the tasks of a lost actor are spread over the others


class ShardScorer:
    """An actor's scorers of shards of the images, each built at its first use."""

    def __init__(self, shards: int, device: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays, self.device = arrays, usable(device, "ray.scorer_gpus")
        self.edges = np.linspace(0, len(arrays["labels"]), shards + 1).astype(int)
        self.scorers: dict[int, SubsetScorer] = {}

    def scorer(self, shard: int) -> SubsetScorer:
        """The scorer of a shard."""
        if shard not in self.scorers:
            here = slice(self.edges[shard], self.edges[shard + 1])
            classes, probs, labels = self.arrays["classes"], self.arrays["probs"], self.arrays["labels"]
            self.scorers[shard] = SubsetScorer(classes[:, here], probs[:, here], labels[here], threads=1, device=self.device)
        return self.scorers[shard]

    def correct(self, task: tuple[int, np.ndarray]) -> np.ndarray:
        """The result of `SubsetScorer.correct` for a (shard, masks)."""
        shard, masks = task
        return self.scorer(shard).correct(masks)

    def correct_changed(self, task: tuple[int, np.ndarray]) -> np.ndarray:
        """The result of `SubsetScorer.correct_changed` for a (shard, masks)."""
        shard, masks = task
        return self.scorer(shard).correct_changed(masks)

    def correct_choices(self, task: tuple[int, np.ndarray]) -> np.ndarray:
        """The result of `SubsetScorer.correct_choices` for a (shard, masks)."""
        shard, masks = task
        return self.scorer(shard).correct_choices(masks)

    def correct_weighted(self, task: tuple[int, np.ndarray]) -> np.ndarray:
        """The result of `SubsetScorer.correct_weighted` for a (shard, weights)."""
        shard, weights = task
        return self.scorer(shard).correct_weighted(weights)


class PooledScorer:
    """A scorer on Ray actors, with the counts of a `SubsetScorer` of the whole table for any number of actors.

    The tasks of an actor that dies are given to the others. gpus: of each actor, on which it then computes.
    """

    group = SubsetScorer.group

    def __init__(self, table: Table, actors: int, gpus: float = 0) -> None:
        self.members, self.images, _ = table.classes_MNK.shape
        self.shards = min(self.images, _SHARDS_AN_ACTOR * actors)
        arrays = {"classes": table.classes_MNK, "probs": table.probs_MNK, "labels": table.labels_N}
        self.pool = Pool(partial(ShardScorer, self.shards, "cuda" if gpus else "cpu"), arrays, actors, gpus, "scorers")

    def correct(self, masks: np.ndarray) -> np.ndarray:
        """See `SubsetScorer.correct`."""
        return self._summed("correct", masks)

    def correct_changed(self, masks: np.ndarray) -> np.ndarray:
        """See `SubsetScorer.correct_changed`."""
        return self._summed("correct_changed", masks)

    def correct_choices(self, masks: np.ndarray) -> np.ndarray:
        """See `SubsetScorer.correct_choices`."""
        return self._summed("correct_choices", masks)

    def correct_weighted(self, weights: np.ndarray) -> np.ndarray:
        """See `SubsetScorer.correct_weighted`."""
        return self._summed("correct_weighted", weights)

    def _summed(self, method: str, argument: np.ndarray) -> np.ndarray:
        tasks = [(shard, argument) for shard in range(self.shards)]
        return np.sum([counts for _, counts in self.pool.map(method, tasks)], axis=0)

    def close(self) -> None:
        """Ends the actors."""
        self.pool.close()
