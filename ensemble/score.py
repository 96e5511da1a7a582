"""The exact accuracy of ensembles that vote with the sum of their members' probabilities.

An image is classified correctly if the right class's sum beats every rival's. So an image is a few rows of
margins, the right class's probability minus a rival's, member by member; a subset is right if all of an image's row
sums are positive. Most images need no row at all and most classes are no rival:

- a class that no member prefers to the right one never beats it, and one that another covers in every member is redundant;
- an image where one rival beats the right class in every member is wrong for all subsets; one without rivals is right.

The remaining images are scored from tables: the members are divided into groups of five, and for every row and group the
rounded sum of each of their 32 choices is kept as int16, so a subset's margin is one addition for each group, of many
images at once. A margin within the rounding error is decided again from the probabilities, in float64. Counts are therefore
those of the definition: float64 sums over the members in their order, equal sums to the lowest class (OFA³,
doi:10.1109/IJCNN60899.2024.10650685, soft voting; a class that a member did not keep counts 0).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ensemble import kernels
from ensemble.lanes import LANES
from ensemble.table import Table

_MANY_CLASSES = 1 << 20


class Scorer(Protocol):
    """The methods of a scorer that selection uses."""

    members: int
    images: int
    group: int  # members of whose choices `correct_choices` counts all

    def correct(self, masks: np.ndarray) -> np.ndarray:
        """The number of images that each subset classifies correctly: int64 [S]. masks: bool [S, M]."""
        ...

    def correct_changed(self, masks: np.ndarray) -> np.ndarray:
        """The numbers of images for each subset with member m added, or removed if the subset has it: int64 [S, M]."""
        ...

    def correct_choices(self, masks: np.ndarray) -> np.ndarray:
        """The numbers of images for each subset with every choice of the first `group` members: int64 [S, 2^group].

        Choice c has member m if bit m of c is set; a bit without a member adds nothing. The masks have none of these.
        """
        ...

    def correct_weighted(self, weights: np.ndarray) -> np.ndarray:
        """The number of images that each weighted vote classifies correctly: int64 [S]. weights: [S, M], none negative."""
        ...


class SubsetScorer:
    """Scores subsets of members on one split.

    classes int, probs float: [M, N, K], each prediction's classes distinct and in descending probability; labels int: [N].
    threads: of this process; None uses all cores of its affinity. device: a torch device for the matrix products of
    `correct_weighted`, and of `correct` if it is not the CPU.
    """

    group = kernels.BITS

    def __init__(
        self,
        classes: np.ndarray,
        probs: np.ndarray,
        labels: np.ndarray,
        *,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.members, self.images, _ = classes.shape
        self.threads = threads or len(os.sched_getaffinity(0))
        self.device = device
        self.labels_N = np.asarray(labels)
        self.empty_correct = int((self.labels_N == 0).sum())  # right where all sums are 0, and class 0 wins
        probs = probs if probs.dtype in (np.float32, np.float64) else probs.astype(np.float32)
        rows = _Rows(classes, probs, self.labels_N, self.threads)
        self.always_N, self.image_I = rows.always_N, rows.image_I
        self.always = int(self.always_N.sum())
        self.probs, self.place_I = rows.probs, rows.place_I
        self.below_R, self.first_I = rows.below_R, rows.first_I
        self.blocks = _blocks(np.diff(self.first_I))
        self.tables: np.ndarray | None = None

    @classmethod
    def of(cls, table: Table) -> SubsetScorer:
        """The scorer of a table whose probabilities are the votes (`ensemble.vote.Voting.of_table`)."""
        return cls(table.classes_MNK, table.probs_MNK, table.labels_N)

    @property
    def exact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arrays that decide a pair of image and subset in float64."""
        return self.probs, self.place_I, self.below_R, self.first_I

    def accuracy(self, masks: np.ndarray) -> np.ndarray:
        """The fraction of images that each subset classifies correctly: float64 [S]. masks: bool [S, M]."""
        return self.correct(masks) / self.images

    def correct(self, masks: np.ndarray) -> np.ndarray:
        """The number of images that each subset classifies correctly: int64 [S]. masks: bool [S, M]."""
        masks_SM = self._masks(masks)
        if self.device != "cpu":
            return self.correct_weighted(masks_SM)
        return self._counted(kernels.count_right, masks_SM, (len(masks_SM),), masks_SM.sum(axis=1) == 0)

    def correct_changed(self, masks: np.ndarray) -> np.ndarray:
        """The numbers of images for each subset with member m added, or removed if it has it: int64 [S, M]."""
        masks_SM = self._masks(masks)
        empty_SM = masks_SM & (masks_SM.sum(axis=1, keepdims=True) == 1)
        return self._counted(kernels.count_changed, masks_SM, masks_SM.shape, empty_SM)

    def correct_choices(self, masks: np.ndarray) -> np.ndarray:
        """See `Scorer.correct_choices`."""
        masks_SM = self._masks(masks)
        assert not masks_SM[:, : kernels.BITS].any()
        empty_SC = ~masks_SM.any(axis=1, keepdims=True) & (
            np.arange(kernels.CODES) % (1 << min(self.members, kernels.BITS)) == 0
        )
        return self._counted(kernels.count_choices, masks_SM, empty_SC.shape, empty_SC)

    def named_right(self, weights: np.ndarray) -> np.ndarray:
        """Whether each vote classifies each image correctly: bool [S, N]. weights: as in `correct_weighted`, or masks."""
        weights_SM = self._weights(weights)
        named_SN = np.repeat(self.always_N[None], len(weights_SM), axis=0)
        kernels.name_right(weights_SM, self.image_I, *self.exact, named_SN)
        named_SN[(weights_SM == 0).all(axis=1)] = self.labels_N == 0
        return named_SN

    def correct_weighted(self, weights: np.ndarray) -> np.ndarray:
        """The number of images that each weighted vote classifies correctly: int64 [S].

        weights: [S, M], not negative; 0 excludes a member. Matrix products in float32 on `device`; margins within their
        error bound are decided again in float64.
        """
        weights_SM = self._weights(weights)
        from ensemble.matrix import Margins

        if not hasattr(self, "_margins"):
            self._margins = Margins(self.probs, self.members, _runs(self.first_I), device=self.device)
        correct_S, (images, subsets) = self._margins.count(weights_SM)
        kernels.count_decided(images, subsets, weights_SM, *self.exact, correct_S)
        return np.where((weights_SM == 0).all(axis=1), self.empty_correct, correct_S + self.always)

    def _weights(self, weights: np.ndarray) -> np.ndarray:
        weights_SM = np.ascontiguousarray(weights, dtype=np.float64)
        assert weights_SM.ndim == 2
        assert weights_SM.shape[1] == self.members
        assert np.isfinite(weights_SM).all()
        assert (weights_SM >= 0).all()
        return weights_SM

    def _masks(self, masks: np.ndarray) -> np.ndarray:
        masks_SM = np.ascontiguousarray(np.asarray(masks).astype(bool))
        assert masks_SM.ndim == 2
        assert masks_SM.shape[1] == self.members
        return masks_SM

    def _counted(
        self, kernel: Callable[..., None], masks_SM: np.ndarray, shape: tuple[int, ...], empty: np.ndarray
    ) -> np.ndarray:
        """The kernel's counts over all blocks; each thread has its own, and integer sums do not depend on the order."""
        if self.tables is None:
            self.tables = _tables(self.probs, self.place_I, self.first_I, self.blocks, self.members, self.threads)
        codes_SG, tables = _codes(masks_SM), self.tables

        def part(start: int, stop: int) -> np.ndarray:
            correct = np.zeros(shape, dtype=np.int64)
            kernel(codes_SG, masks_SM, tables, self.blocks, start, stop, *self.exact, correct)
            return correct

        counts = _in_threads(part, len(self.blocks), self.threads, self.blocks[:, 1])
        return np.where(empty, self.empty_correct, np.sum(counts, axis=0) + self.always)


class _Rows:
    """Images that depend on the subset, by descending number of rivals, with the probabilities that decide them.

    probs: flat; image i has from place_I[i], member after member, the probabilities of its right class and of its rivals.
    first_I: the rivals of image i are first_I[i] to first_I[i + 1]; below_R: whether a rival wins ties; image_I: the index
    of each image; always_N: images that every subset classifies correctly.
    """

    def __init__(self, classes: np.ndarray, probs: np.ndarray, labels_N: np.ndarray, threads: int) -> None:
        members, images, k = classes.shape
        classes, labels_N, slots = _small_names(classes, labels_N)
        # Float64 sums of so many terms may differ by this share of the largest: nearer margins count as ties.
        slack = members * members * 2.0**-52
        most = min(members * k + 1, slots)
        step = max(1, min(2048, 2**22 // most))
        starts = list(range(0, images, step))

        def find(start: int, stop: int) -> list[tuple[np.ndarray, ...]]:
            found: list[tuple[np.ndarray, ...]] = []
            slot_C = np.full(slots, -1, dtype=np.int64)
            for begin in starts[start:stop]:
                here = slice(begin, begin + step)
                chunk = _by_image(classes, here), _by_image(probs, here), labels_N[here]
                count_N = np.zeros(len(chunk[2]), dtype=np.int64)
                rivals, below = np.empty(most * len(count_N), dtype=np.int64), np.empty(most * len(count_N), dtype=bool)
                total = kernels.find_rivals(*chunk, slot_C, slack, count_N, rivals, below)
                first_N = np.append(0, np.cumsum(np.maximum(count_N, 0)))
                right = np.zeros((len(count_N), members), dtype=probs.dtype)
                rival = np.zeros((total, members), dtype=probs.dtype)
                kernels.gather(*chunk, first_N, rivals[:total], slot_C, right, rival)
                vary = count_N > 0
                found.append((count_N, right[vary], rival, below[:total].copy()))
            return found

        parts = [part for found in _in_threads(find, len(starts), threads) for part in found]
        count_N, right_IM, rival_RM, below_R = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self.always_N = count_N == 0
        count_I = count_N[count_N > 0]
        order = np.argsort(-count_I, kind="stable")
        self.image_I = np.flatnonzero(count_N > 0)[order]
        first_I = np.append(0, np.cumsum(count_I))
        self.first_I = np.append(0, np.cumsum(count_I[order]))
        rows = np.repeat(first_I[order] - self.first_I[:-1], count_I[order]) + np.arange(self.first_I[-1])
        self.below_R = below_R[rows]
        self.place_I = (self.first_I[:-1] + np.arange(len(order))) * members
        packed = [np.empty(0, dtype=probs.dtype)]
        for start, stop, depth in _runs(self.first_I):
            rival = rival_RM[rows[self.first_I[start] : self.first_I[stop]]].reshape(stop - start, depth, members)
            both = np.concatenate([right_IM[order[start:stop], None], rival], axis=1)
            packed.append(both.transpose(0, 2, 1).ravel())
        self.probs = np.concatenate(packed)


def _small_names(classes: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Classes and labels as small indices for arrays, in the same order and 0 still 0; and the number of indices."""
    slots = int(max(classes.max(), labels_N.max())) + 1
    if slots <= _MANY_CLASSES:
        return classes, labels_N.astype(np.int64), slots
    names = np.unique(np.concatenate([[0], labels_N, classes.ravel()]))
    return np.searchsorted(names, classes), np.searchsorted(names, labels_N), len(names)


def _by_image(array_MNK: np.ndarray, here: slice) -> np.ndarray:
    return np.ascontiguousarray(array_MNK[:, here].transpose(1, 0, 2))


def _runs(first_I: np.ndarray) -> list[tuple[int, int, int]]:
    """First image, the one after the last, and rivals of each, of the images with equally many rivals."""
    depth_I = np.diff(first_I)
    edges = [0, *(np.flatnonzero(np.diff(depth_I)) + 1).tolist(), len(depth_I)]
    return [(start, stop, int(depth_I[start])) for start, stop in pairwise(edges) if start < stop]


def _blocks(count_I: np.ndarray) -> np.ndarray:
    """Sequences of images that are scored together: first image, rivals of each, rivals of those before."""
    first_B = np.arange(0, len(count_I), LANES)
    depth_B = count_I[first_B]
    return np.stack([first_B, depth_B, np.cumsum(depth_B) - depth_B], axis=1).astype(np.int64)


def _tables(
    probs: np.ndarray, place_I: np.ndarray, first_I: np.ndarray, blocks: np.ndarray, members: int, threads: int
) -> np.ndarray:
    size = int(blocks[:, 1].sum()) * -(-members // kernels.BITS) * kernels.CODES * LANES
    room = np.zeros(size + 32, dtype=np.int16)
    skip = -room.ctypes.data % 64 // room.itemsize  # so that no vector of lanes crosses a line of the cache
    tables = room[skip : skip + size]
    _in_threads(
        lambda start, stop: kernels.fill_tables(probs, place_I, first_I, members, blocks, start, stop, tables),
        len(blocks),
        threads,
    )
    return tables


def _codes(masks_SM: np.ndarray) -> np.ndarray:
    """The choice of each group of members in each subset: uint8 [S, G]."""
    subsets, members = masks_SM.shape
    groups = -(-members // kernels.BITS)
    padded = np.zeros((subsets, groups * kernels.BITS), dtype=bool)
    padded[:, :members] = masks_SM
    bits = padded.reshape(subsets, groups, kernels.BITS)
    return (bits << np.arange(kernels.BITS, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)


def _in_threads(work: Callable[[int, int], Any], items: int, threads: int, weights: np.ndarray | None = None) -> list[Any]:
    """Runs `work(start, stop)` over the items, in as many parts of about equal weight as there are threads."""
    threads = max(1, min(threads, items))
    done = np.append(0, np.cumsum(np.ones(items) if weights is None else weights))
    edges = [int(np.searchsorted(done, done[-1] * i / threads)) for i in range(threads)] + [items]
    if threads == 1:
        return [work(0, items)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))
