"""Cascades against loops over images and over all thresholds."""

import itertools

import numpy as np
import pytest

from ensemble import cascade
from ensemble.cascade import Cascade, curve, tuned
from ensemble.errors import SelectionError


def case(seed, exits=3, images=60):
    """Exits that grow more accurate and more confident, with ties in their confidences."""
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.beta(2 + np.arange(exits)[:, None], 2, (exits, images)), 1).clip(0.1)
    right = rng.random((exits, images)) < 0.3 + 0.5 * confidence
    return confidence, right, np.cumsum(rng.random(exits) + 0.5)


def by_hand(thresholds, confidence, right, cost):
    total, correct = 0.0, 0
    for n in range(confidence.shape[1]):
        e = 0
        while e < len(thresholds) and not confidence[e, n] > thresholds[e]:
            e += 1
        total += cost[e]
        correct += bool(right[e, n])
    return total / confidence.shape[1], correct


@pytest.mark.parametrize("seed", range(5))
def test_an_outcome_is_that_of_a_loop_over_the_images(seed):
    confidence, right, cost = case(seed, exits=4)
    rng = np.random.default_rng(seed)
    for thresholds in ((0, 0, 0), (1, 1, 1), *(tuple(rng.random(3)) for _ in range(20))):
        found = Cascade(thresholds).outcome(confidence, right, cost)
        assert (pytest.approx(found.cost), found.correct) == by_hand(thresholds, confidence, right, cost)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("exits", [2, 3, 4])
def test_the_curve_is_the_front_of_every_combination_by_brute_force(seed, exits):
    """Confidences are tenths, so the grid holds every threshold that makes a difference."""
    confidence, right, cost = case(seed, exits, images=40)
    grid = [0.0, *np.arange(1, 11) / 10]
    every = [by_hand(t, confidence, right, cost) for t in itertools.product(grid, repeat=exits - 1)]
    front, best = [], -1
    for spent, correct in sorted(every, key=lambda outcome: (outcome[0], -outcome[1])):
        if correct > best:
            front.append((spent, correct))
            best = correct
    found = curve(confidence, right, cost)
    assert [outcome.correct for outcome in found] == [correct for _, correct in front]
    assert [outcome.cost for outcome in found] == pytest.approx([spent for spent, _ in front])
    for outcome in found:
        again = outcome.cascade.outcome(confidence, right, cost)
        assert (pytest.approx(outcome.cost), outcome.correct) == (again.cost, again.correct)


def test_many_images_and_five_exits_stay_within_the_number_of_combinations(monkeypatch):
    monkeypatch.setattr(cascade, "COMBINATIONS", 5000)
    confidence, right, cost = case(1, exits=5, images=3000)
    found = curve(confidence, right, cost)
    assert found[0].cost == pytest.approx(cost[0]) and len(found) > 5
    best_single = max(int(row.sum()) for row in right)
    assert found[-1].correct >= best_single


def test_a_network_with_one_exit_has_one_outcome():
    confidence, right, cost = case(0, exits=1)
    [only] = curve(confidence, right, cost)
    assert (only.cascade.thresholds, only.cost, only.correct) == ((), pytest.approx(cost[0]), int(right.sum()))


def test_the_most_accurate_within_a_limit_is_chosen():
    found = curve(*case(3))
    for limit in np.linspace(found[0].cost, found[-1].cost, 7):
        chosen = tuned(found, limit)
        assert chosen.cost <= limit and chosen.correct == max(o.correct for o in found if o.cost <= limit)
    with pytest.raises(SelectionError, match=r"the limit on the average cost is 0\.1; the first exit alone costs"):
        tuned(found, 0.1)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_one_line(threshold):
    with pytest.raises(SelectionError, match=r"the threshold of exit 2 is .*; it may be 0 to 1"):
        Cascade((0.5, threshold))


def test_another_number_of_exits_is_one_line():
    with pytest.raises(SelectionError, match="2 thresholds and 4 exits"):
        Cascade((0.5, 0.5)).exits(np.ones((4, 3)))
