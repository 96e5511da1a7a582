"""Confidence-threshold exiting: an image leaves a network at the first exit that is confident enough.

The thresholds are tuned on one split for a limit on the average cost, as CNAS does, here exactly: of all combinations on a
grid of each exit's own confidences the non-dominated ones are the curve of average cost against accuracy.

Shape letters in this file: E exits, N images, K thresholds of an exit's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.errors import SelectionError

COMBINATIONS = 200_000  # most combinations of thresholds that are tried
FINEST = 64  # most thresholds of one exit


@dataclass(frozen=True, slots=True)
class Cascade:
    """The threshold of every exit but the last: an image leaves where the largest probability is above the threshold.

    0 lets every image leave, 1 none. A threshold outside is a `SelectionError`.
    """

    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        for place, threshold in enumerate(self.thresholds):
            if not 0 <= threshold <= 1:
                raise SelectionError(f"cascade: the threshold of exit {place + 1} is {threshold}; it may be 0 to 1")

    def exits(self, confidence_EN: np.ndarray) -> np.ndarray:
        """The exit of every image, from 0: int64 [N]. confidence_EN: the largest probability at every exit."""
        if len(confidence_EN) != len(self.thresholds) + 1:
            raise SelectionError(
                f"cascade: {len(self.thresholds)} thresholds and {len(confidence_EN)} exits; give one for each but the last"
            )
        leaves_EN = np.ones(confidence_EN.shape, dtype=bool)
        leaves_EN[:-1] = confidence_EN[:-1] > np.array(self.thresholds)[:, None]
        return leaves_EN.argmax(axis=0)

    def outcome(self, confidence_EN: np.ndarray, right_EN: np.ndarray, cost_E: np.ndarray) -> Outcome:
        """The average cost of an image, and the number of images that are classified correctly.

        right_EN: whether each exit is right; cost_E: the cost of an image that leaves there, all earlier exits included.
        """
        leaves_N = self.exits(confidence_EN)
        correct = int(right_EN[leaves_N, np.arange(len(leaves_N))].sum())
        return Outcome(self, float(cost_E[leaves_N].mean()), correct)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cascade reaches on a split: average cost, and the number of correct images."""

    cascade: Cascade
    cost: float
    correct: int


def curve(confidence_EN: np.ndarray, right_EN: np.ndarray, cost_E: np.ndarray) -> list[Outcome]:
    """The cascades that no other beats in average cost and accuracy on this split, in ascending cost.

    Arguments are those of `Cascade.outcome`; costs ascend. Exact over all combinations of a grid: quantiles of each exit's
    confidences, 0 and 1.
    """
    exits, images = confidence_EN.shape
    grids = _grids(confidence_EN[:-1])
    shape = tuple(len(grid) for grid in grids)
    reached = np.full(shape, float(images))  # images that reach the exit, for every combination of thresholds
    right = np.zeros(shape)
    cost = np.zeros(shape)
    # An image goes on past exit e under threshold k if its confidence is at most grid[k]: if k is at least `first_EN`.
    first_EN = [np.searchsorted(grid, row_N) for grid, row_N in zip(grids, confidence_EN[:-1], strict=True)]
    before_right = float(right_EN[0].sum()) * np.ones((1,) * len(shape))
    for e in range(exits):
        if e + 1 == exits:
            right, cost = right + before_right, cost + cost_E[e] * reached
            break
        axes = shape[: e + 1]
        flat_N = np.ravel_multi_index(tuple(first_EN[: e + 1]), axes)
        on = _up_to(np.bincount(flat_N, minlength=int(np.prod(axes))).reshape(axes), len(shape))
        on_right = _up_to(np.bincount(flat_N, right_EN[e], int(np.prod(axes))).reshape(axes), len(shape))
        right = right + before_right - on_right
        cost = cost + cost_E[e] * (reached - on)
        reached = on
        before_right = _up_to(np.bincount(flat_N, right_EN[e + 1], int(np.prod(axes))).reshape(axes), len(shape))
    flat_cost, flat_right = (cost / images).ravel(), np.rint(right).astype(np.int64).ravel()
    found: list[Outcome] = []
    for place in np.lexsort((-flat_right, flat_cost)):
        if not found or flat_right[place] > found[-1].correct:
            chosen = np.unravel_index(place, shape)
            thresholds = tuple(float(grid[k]) for grid, k in zip(grids, chosen, strict=True))
            found.append(Outcome(Cascade(thresholds), float(flat_cost[place]), int(flat_right[place])))
    return found


def tuned(outcomes: Sequence[Outcome], most_cost: float) -> Outcome:
    """The most accurate outcome within an average cost; a limit below the cheapest is a `SelectionError`."""
    within = [outcome for outcome in outcomes if outcome.cost <= most_cost]
    if not within:
        least = min(outcome.cost for outcome in outcomes)
        raise SelectionError(
            f"cascade: the limit on the average cost is {most_cost:g}; the first exit alone costs {least:g}"
        )
    return max(within, key=lambda outcome: (outcome.correct, -outcome.cost))


def _grids(confidence_EN: np.ndarray) -> list[np.ndarray]:
    """The thresholds that are tried for each exit, ascending, with 0 and 1."""
    each = FINEST
    while len(confidence_EN) and each ** len(confidence_EN) > COMBINATIONS:
        each -= 1
    return [np.unique(np.concatenate([[0.0, 1.0], np.quantile(row_N, np.linspace(0, 1, each - 2), method="lower")]))
            for row_N in confidence_EN]  # fmt: skip


def _up_to(count: np.ndarray, axes: int) -> np.ndarray:
    """Sums over all entries up to each one in every axis, with axes of length 1 appended up to `axes`."""
    for axis in range(count.ndim):
        count = np.cumsum(count, axis=axis)
    return count.reshape(count.shape + (1,) * (axes - count.ndim))
