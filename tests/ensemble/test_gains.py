"""Gains and optimism, against scores counted by hand."""

import numpy as np
import pytest

from bench.tables import realistic
from ensemble.gains import Comparison
from ensemble.score import SubsetScorer
from ensemble.select import select
from ensemble.subsets import Chosen


@pytest.fixture(scope="module")
def compared():
    """(comparison, chosen subsets, scorer of the test split), of a table whose second half is the test split."""
    table = realistic(members=6, images=800, classes=30)
    half = [SubsetScorer(table.classes_MNK[:, here], table.probs_MNK[:, here], table.labels_N[here])
            for here in (slice(400), slice(400, None))]  # fmt: skip
    counts = half[0].correct(np.eye(6, dtype=bool))
    singles = [Chosen((m,), float(table.cost_M[m]), int(count)) for m, count in enumerate(counts)]
    comparison = Comparison(400, half[1], singles, np.random.default_rng(1))
    return comparison, select(half[0], table.cost_M, "sum", vote="weighted"), half[1]


def test_a_gain_is_over_the_best_single_member_within_the_cost(compared):
    comparison, chosen, scorer = compared
    test_counts = scorer.correct(np.eye(6, dtype=bool))
    rows = comparison.scored(chosen)
    assert any(row.gain is not None for row in rows)
    for subset, row in zip(chosen, rows, strict=True):
        weights = np.zeros((1, 6))
        weights[0, list(subset.members)] = subset.weights or 1
        correct = scorer.correct_weighted(weights)[0]
        assert row.test_top1 == correct / 400
        assert row.test_interval[0] < row.test_top1 < row.test_interval[1]
        if len(subset.members) == 1:
            assert (row.single, row.gain, row.gain_interval) == (None, None, None)
            continue
        within = [single for single in comparison.singles if single.cost <= subset.cost]
        best = max(within, key=lambda single: single.correct).members[0]
        assert (row.single, row.gain) == (best, (correct - test_counts[best]) / 400)
        assert row.gain_interval[0] <= row.gain <= row.gain_interval[1]


def test_optimism_is_the_drop_of_the_best_beyond_that_of_all_single_members(compared):
    comparison, chosen, _ = compared
    best, rows = chosen[-1], comparison.scored(comparison.singles)
    found, row = comparison.optimism(best), comparison.scored([best])[0]
    assert found.drop == pytest.approx(row.top1 - row.test_top1)
    assert found.typical_drop == pytest.approx(np.mean([single.top1 - single.test_top1 for single in rows]))
    assert found.gap == found.drop - found.typical_drop
