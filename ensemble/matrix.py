"""Margins of weighted votes as matrix products, on any torch device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_MOST_MARGINS = 2**25  # in memory at a time


class Margins:
    """The right class's probability minus each rival's, in float32 on `device`, by images with equally many rivals.

    probs: as in `ensemble.score`, flat; runs: first image, the one after the last, and rivals of each, of images with
    equally many, one run after the other.
    """

    def __init__(self, probs: np.ndarray, members: int, runs: Sequence[tuple[int, int, int]], device: str) -> None:
        self.device = torch.device(device)
        self.members = members
        self.most = max(1.0, float(probs.max(initial=0)))
        self.runs: list[tuple[int, int, torch.Tensor]] = []  # first image, rivals of each, margins [images * rivals, M]
        at = 0
        for start, stop, depth in runs:
            size = (stop - start) * members * (1 + depth)
            both = probs[at : at + size].reshape(stop - start, members, 1 + depth)
            at += size
            margins = (both[:, :, :1] - both[:, :, 1:]).transpose(0, 2, 1).reshape(-1, members)
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
