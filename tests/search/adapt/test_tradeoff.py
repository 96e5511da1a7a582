import numpy as np
import pytest

from search.adapt.tradeoff import high_tradeoff, tradeoffs
from search.objective import MACS, TOP1


def bent():
    """A front of 41 points, steep to the left of its knee at (0.3, 0.2), flat to the right."""
    x = np.linspace(0, 1, 41)
    return np.stack([x, np.where(x < 0.3, 1 - x * 0.8 / 0.3, 0.2 * (1 - x) / 0.7)], axis=1)


def test_the_knee_has_the_highest_tradeoff():
    points = bent()
    mu = tradeoffs(points)
    assert points[mu.argmax()] == pytest.approx([0.3, 0.2])
    # right of it, a step costs 1 and gains 2/7; left of it, a step costs 8/3 and gains 1
    assert mu.max() == pytest.approx(8 / 3)


def test_maximised_objectives_in_other_units_are_scaled():
    points = bent()
    values = np.stack([0.8 - 0.3 * points[:, 1], 1e6 + 5e8 * points[:, 0]], axis=1)
    best = high_tradeoff((TOP1, MACS), values)
    assert len(best) == 4
    assert points[best[0]] == pytest.approx([0.3, 0.2])
    assert tradeoffs(points)[best] == pytest.approx(np.sort(tradeoffs(points))[:-5:-1])


def test_every_neighbour_within_reach_counts_and_six_at_least():
    points = np.random.default_rng(0).random((150, 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True)  # a concave front
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    few = 0
    for point, mu in zip(points, tradeoffs(points), strict=True):
        others = sorted((np.linalg.norm(o - point), *(o - point)) for o in points if (o != point).any())
        near = [other for other in others if other[0] <= 0.125]
        few += len(near) < 6
        ratios = [
            sum(max(c, 0) for c in change) / sum(max(-c, 0) for c in change) for _, *change in max(near, others[:6], key=len)
        ]
        assert mu == pytest.approx(min(ratios))
    assert 0 < few < 150


def test_points_without_other_points_have_no_tradeoff():
    assert high_tradeoff((TOP1, MACS), np.array([[0.5, 1e6]])) == [0]
    assert tradeoffs(np.ones((3, 2))).tolist() == [0, 0, 0]
