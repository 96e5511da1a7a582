"""Exit ensembles against sums written out."""

import numpy as np
import pytest

from ensemble.exit_subsets import scored, subsets
from ofa.exits import exit_weights


def case(seed, exits=4, images=50, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(exits, images, classes))
    logits[:, np.arange(images), labels] += np.arange(exits)[:, None] * 0.4
    return logits, labels


def test_every_subset_is_there_once_and_the_cheapest_come_first():
    found = subsets(5)
    assert len(found) == len(set(found)) == 2**5 - 1
    assert found[:3] == [(1,), (2,), (1, 2)] and found[-1] == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("kind", ["ascending", "descending", "uniform"])
def test_scores_are_those_of_weighted_sums_of_logits(kind):
    logits, labels = case(0)
    weights = exit_weights(kind, 4)
    found = scored(logits, labels, weights)
    assert len(found) == 15
    for subset in found:
        total = np.zeros(logits.shape[1:])
        for i in subset.exits:
            total += weights[i - 1] * logits[i - 1]
        assert subset.correct == int((np.argmax(total, axis=1) == labels).sum()), subset
    assert [subset.correct for subset in found] == sorted((subset.correct for subset in found), reverse=True)


def test_of_equal_subsets_the_cheapest_is_first():
    logits, labels = case(1, exits=1)
    found = scored(np.repeat(logits, 3, axis=0), labels, (1.0, 1.0, 1.0))
    assert [subset.exits for subset in found][:3] == [(1,), (2,), (1, 2)]
