"""Scores against the dense definition."""

import numpy as np
import pytest

from ensemble.score import SubsetScorer


def table(rng, members, images, classes, k, ties=True):
    """Random predictions; probabilities on a coarse grid, so that sums tie often."""
    kept = np.argsort(rng.random((members, images, classes)), axis=2)[:, :, :k]
    probs = rng.integers(0, 9, (members, images, k)) / 8 if ties else rng.random((members, images, k))
    return kept, -np.sort(-probs, axis=2).astype(np.float32), rng.integers(0, classes, images)


def dense(classes_MNK, probs_MNK, labels_N, weights_SM, classes):
    """The definition: sum the members' probabilities over all classes in float64, take the first largest."""
    members, images, _ = classes_MNK.shape
    full = np.zeros((members, images, classes))
    np.put_along_axis(full, classes_MNK, probs_MNK.astype(np.float64), axis=2)
    counts = []
    for weights_M in np.asarray(weights_SM, dtype=np.float64):
        total = np.zeros((images, classes))
        for m in np.flatnonzero(weights_M):
            total += weights_M[m] * full[m]
        counts.append(int((total.argmax(axis=1) == labels_N).sum()))
    return counts


def subsets(rng, number, members):
    masks = rng.random((number, members)) < rng.random((number, 1))
    masks[0], masks[1] = True, False  # everybody, and nobody: then class 0 wins everywhere
    masks[2 : 2 + members] = np.eye(members, dtype=bool)[: number - 2]
    return masks


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(
    ("members", "classes", "k"), [(1, 4, 1), (5, 10, 10), (8, 30, 5), (12, 6, 3), (20, 100, 2), (33, 40, 40)]
)
def test_counts_are_those_of_the_dense_definition(members, classes, k, ties):
    rng = np.random.default_rng(members)
    arrays = table(rng, members, 200, classes, k, ties)
    masks = subsets(rng, 60, members)
    scorer = SubsetScorer(*arrays)
    found = scorer.correct(masks)
    assert found.tolist() == dense(*arrays, masks, classes)
    assert scorer.correct_weighted(masks).tolist() == found.tolist()
    assert scorer.named_right(masks).sum(axis=1).tolist() == found.tolist()
    changed = scorer.correct_changed(masks[:4])
    for mask, counts in zip(masks, changed, strict=False):
        assert counts.tolist() == dense(*arrays, mask ^ np.eye(members, dtype=bool), classes)
    first = np.arange(members) < scorer.group
    choices = (np.arange(2**scorer.group)[:, None] >> np.arange(members)) % 2 == 1
    for mask, counts in zip(masks, scorer.correct_choices(masks[:4] & ~first), strict=False):
        assert counts.tolist() == dense(*arrays, (mask & ~first) | choices, classes)


def test_members_that_nearly_agree_are_counted_as_the_definition_does():
    """Margins of one last place of float32, and exact ties beside them: each is decided in float64."""
    rng = np.random.default_rng(3)
    kept, probs, labels = table(rng, 12, 400, 5, 5, ties=False)
    probs[:] = np.float32(0.2) + rng.integers(0, 3, probs.shape) * np.float32(2.0**-25)
    probs, masks = -np.sort(-probs, axis=2), subsets(rng, 100, 12)
    assert SubsetScorer(kept, probs, labels).correct(masks).tolist() == dense(kept, probs, labels, masks, 5)


def test_weighted_votes_count_as_the_definition_does():
    rng = np.random.default_rng(4)
    arrays = table(rng, 9, 300, 12, 6)
    weights = rng.integers(0, 4, (80, 9)) * 0.25
    weights[0] = 0
    weights[40:] *= rng.random((40, 9))
    assert SubsetScorer(*arrays).correct_weighted(weights).tolist() == dense(*arrays, weights, 12)


@pytest.mark.gpu
def test_a_gpu_counts_as_the_definition_does():
    rng = np.random.default_rng(5)
    arrays = table(rng, 20, 500, 30, 5)
    masks = subsets(rng, 200, 20)
    assert SubsetScorer(*arrays, device="cuda").correct(masks).tolist() == dense(*arrays, masks, 30)


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


def test_counts_depend_neither_on_threads_nor_on_parts_nor_on_how_classes_are_numbered():
    kept, probs, labels = table(np.random.default_rng(1), 6, 2500, 50, 5)
    masks = np.random.default_rng(2).random((1300, 6)) < 0.5
    whole = SubsetScorer(kept, probs, labels, threads=1).correct(masks)
    far = SubsetScorer(kept * 10**6, probs, labels * 10**6, threads=3)
    assert whole.tolist() == [c for part in np.array_split(masks, 3) for c in far.correct(part)]
