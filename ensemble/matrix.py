"""Margins of weighted votes as matrix products, on any torch device."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

_MOST_MARGINS = 2**25  # in memory at a time


class Margins:
    """The right class's probability minus each rival's, in float32 on `device`, by images with equally many rivals.

    right_IM, rival_RM, below_R, first_I: as in `ensemble.score`, images by descending number of rivals.
    """

    def __init__(
        self, right_IM: np.ndarray, rival_RM: np.ndarray, below_R: np.ndarray, first_I: np.ndarray, device: str
    ) -> None:
        self.device = torch.device(device)
        self.members = right_IM.shape[1]
        self.most = max(1.0, float(right_IM.max(initial=0)), float(rival_RM.max(initial=0)))
        self.runs: list[tuple[int, int, torch.Tensor]] = []  # first image, rivals of each, margins [images * rivals, M]
        depth_I = np.diff(first_I)
        edges = [0, *(np.flatnonzero(np.diff(depth_I)) + 1).tolist(), len(depth_I)]
        for start, stop in pairwise(edges):
            if start == stop:
                continue
            depth = int(depth_I[start])
            margins = np.repeat(right_IM[start:stop], depth, axis=0) - rival_RM[first_I[start] : first_I[stop]]
            self.runs.append((start, depth, torch.from_numpy(margins.astype(np.float32)).to(self.device)))

    def count(self, weights_SM: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The number of certainly right images for each vote, and the pairs (image, vote) that float32 cannot decide."""
        correct_S = np.zeros(len(weights_SM), dtype=np.int64)
        images, votes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        rows = max((len(margins) for _, _, margins in self.runs), default=1)
        step = max(1, _MOST_MARGINS // rows)
        # Rounded weights, rounded margins, and a sum of so many products: each adds at most half a step of float32.
        bound_S = (self.members + 4) * 2.0**-23 * self.most * weights_SM.sum(axis=1)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # the bound is that of float32
        try:
            for start in range(0, len(weights_SM), step):
                here = slice(start, start + step)
                weights_MS = torch.from_numpy(weights_SM[here].T.astype(np.float32)).to(self.device)
                bound = torch.from_numpy(bound_S[here].astype(np.float32)).to(self.device)
                for first, depth, margins in self.runs:
                    least_NS = (margins @ weights_MS).view(-1, depth, weights_MS.shape[1]).amin(dim=1)
                    correct_S[here] += (least_NS > bound).sum(dim=0).cpu().numpy()
                    near = (least_NS.abs() <= bound).nonzero().cpu().numpy()
                    images.append(near[:, 0] + first)
                    votes.append(near[:, 1] + start)
        finally:
            torch.set_float32_matmul_precision(precision)
        return correct_S, (np.concatenate(images), np.concatenate(votes))
