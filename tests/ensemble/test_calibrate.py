import numpy as np
import pytest

from ensemble.calibrate import calibrated, temperatures
from ensemble.score import SubsetScorer
from ensemble.table import Table
from ensemble.vote import Voting


def overconfident(sharpness, k):
    """Members that are right as often as softmax(logits) says, but report softmax(sharpness * logits)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 8))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (truth.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    said = np.stack([np.exp(s * logits) / np.exp(s * logits).sum(axis=1, keepdims=True) for s in sharpness])
    kept = np.argsort(-said, axis=2)[:, :, :k]
    probs = np.take_along_axis(said, kept, axis=2).astype(np.float32)
    return Table(kept, probs, labels, np.ones(len(sharpness)))


def test_the_temperature_that_was_used_is_found_again():
    assert temperatures(overconfident([1.0, 2.0, 0.5], k=8)) == pytest.approx([1, 2, 0.5], rel=0.06)


def test_calibrated_members_say_how_often_they_are_right_and_answer_as_before():
    table = overconfident([2.5], k=3)
    cooled = calibrated(table, temperatures(table)).checked("calibrated")
    right = (table.classes_MNK[0, :, 0] == table.labels_N).mean()
    before, after = table.probs_MNK[0, :, 0].mean(), cooled.probs_MNK[0, :, 0].mean()
    assert abs(after - right) < 0.04 < abs(before - right)
    assert np.array_equal(cooled.classes_MNK, table.classes_MNK)


def test_a_hard_vote_counts_heads():
    table = overconfident([1.0, 2.0, 0.5], k=4)
    other = overconfident([0.7], k=4).classes_MNK[:, ::-1]  # a member that answers other images
    votes = Voting("hard").of_table(
        Table(np.concatenate([table.classes_MNK[:2], other]), table.probs_MNK, table.labels_N, table.cost_M)
    )
    heads = np.stack([np.bincount(column, minlength=8) for column in votes.classes_MNK[:, :, 0].T])
    scorer = SubsetScorer(votes.classes_MNK, votes.probs_MNK, votes.labels_N)
    assert scorer.correct(np.ones((1, 3), dtype=bool)).tolist() == [(heads.argmax(axis=1) == table.labels_N).sum()]
