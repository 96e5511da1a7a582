"""The exact accuracy of ensembles that vote with the sum of their members' probabilities."""

from __future__ import annotations

import numpy as np


class SubsetScorer:
    """Scores subsets of members on one split.

    An ensemble names the class with the largest sum of its members' probabilities, a class that a member did not
    keep counting 0; equal sums go to the lowest class (OFA³, doi:10.1109/IJCNN60899.2024.10650685, soft voting).
    Only classes that some member keeps for an image can win there, so the table holds those alone.

    classes, probs: [M, N, K]; labels: [N].
    """

    def __init__(self, classes: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> None:
        members, images, _ = classes.shape
        self.labels_N = np.asarray(labels)
        # Class 0 is always a candidate: it wins where all sums are 0.
        candidates = [np.unique(np.append(classes[:, n], 0)) for n in range(images)]
        width = max(len(c) for c in candidates)
        self.classes_NU = np.full((images, width), np.iinfo(np.int64).max)
        self.table_NUM = np.zeros((images, width, members))
        for n, unique in enumerate(candidates):
            self.classes_NU[n, : len(unique)] = unique  # ascending: argmax then prefers the lowest class
            slots = np.searchsorted(unique, classes[:, n])
            self.table_NUM[n, slots, np.arange(members)[:, None]] = probs[:, n]
        self.missing_NU = self.classes_NU == np.iinfo(np.int64).max

    def correct(self, masks: np.ndarray) -> np.ndarray:
        """How many images each subset names right: int64 [S]. masks: bool [S, M]."""
        masks_SM = np.asarray(masks)
        counts = np.zeros(len(masks_SM), dtype=np.int64)
        images, width, members = self.table_NUM.shape
        step = max(1, int(2e7) // (images * width))
        for start in range(0, len(masks_SM), step):
            part = masks_SM[start : start + step].astype(np.float64)
            sums_NUS = (self.table_NUM.reshape(-1, members) @ part.T).reshape(images, width, -1)
            sums_NUS[self.missing_NU] = -1.0
            winner_NS = np.take_along_axis(self.classes_NU, sums_NUS.argmax(axis=1), axis=1)
            counts[start : start + step] = (winner_NS == self.labels_N[:, None]).sum(axis=0)
        return counts

    def accuracy(self, masks: np.ndarray) -> np.ndarray:
        """The fraction of images each subset names right: float64 [S]. masks: bool [S, M]."""
        return self.correct(masks) / len(self.labels_N)
