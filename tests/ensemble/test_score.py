"""Scores against the dense definition."""

import numpy as np
import pytest

from ensemble.score import SubsetScorer


def table(rng, members, images, classes, k, ties=True):
    """Random predictions; probabilities on a coarse grid, so that sums tie often."""
    kept = np.argsort(rng.random((members, images, classes)), axis=2)[:, :, :k]
    probs = rng.integers(0, 9, (members, images, k)) / 8 if ties else rng.random((members, images, k))
    return kept, -np.sort(-probs, axis=2).astype(np.float32), rng.integers(0, classes, images)


def dense(classes_MNK, probs_MNK, labels_N, masks_SM, classes):
    """The definition: sum the members' probabilities over all classes in float64, take the first largest."""
    members, images, _ = classes_MNK.shape
    full = np.zeros((members, images, classes))
    np.put_along_axis(full, classes_MNK, probs_MNK.astype(np.float64), axis=2)
    return [int((full[mask].sum(axis=0).argmax(axis=1) == labels_N).sum()) for mask in masks_SM]


@pytest.mark.parametrize(("members", "classes", "k"), [(1, 4, 1), (5, 10, 10), (8, 30, 5), (12, 6, 3), (20, 100, 2)])
def test_counts_are_those_of_the_dense_definition(members, classes, k):
    rng = np.random.default_rng(members)
    kept, probs, labels = table(rng, members, 200, classes, k)
    masks = rng.random((300, members)) < 0.4
    masks[0], masks[1] = True, False  # everybody, and nobody: then class 0 wins everywhere
    masks[2 : 2 + members] = np.eye(members, dtype=bool)[:298]
    found = SubsetScorer(kept, probs, labels).correct(masks)
    assert found.tolist() == dense(kept, probs, labels, masks, classes)


def test_accuracy_is_the_share_of_images():
    kept, probs, labels = table(np.random.default_rng(0), 4, 50, 10, 10, ties=False)
    scorer = SubsetScorer(kept, probs, labels)
    masks = np.eye(4, dtype=bool)
    assert scorer.accuracy(masks).tolist() == [c / 50 for c in scorer.correct(masks)]
    assert scorer.accuracy(masks).tolist() == [(kept[m, :, 0] == labels).mean() for m in range(4)]


def test_ties_go_to_the_lowest_class():
    kept = np.array([[[7, 1]], [[3, 1]]])
    probs = np.array([[[0.5, 0.25]], [[0.5, 0.25]]], dtype=np.float32)  # together: 7, 3 and 1 have 0.5 each
    for label, right in ((1, 1), (3, 0), (7, 0)):
        assert SubsetScorer(kept, probs, np.array([label])).correct(np.ones((1, 2), dtype=bool)).tolist() == [right]


def test_many_subsets_are_scored_in_parts():
    kept, probs, labels = table(np.random.default_rng(1), 6, 2000, 50, 5)
    masks = np.random.default_rng(2).random((3000, 6)) < 0.5
    scorer = SubsetScorer(kept, probs, labels)
    whole = scorer.correct(masks)
    assert whole.tolist() == [c for part in np.array_split(masks, 7) for c in scorer.correct(part)]
