"""Votes in selection, and one that only this file has, in everything that takes a vote."""

import json

import numpy as np
import pytest

from bench.tables import realistic
from ensemble.document import TableEnsembles
from ensemble.errors import SelectionError
from ensemble.gains import Comparison
from ensemble.score import SubsetScorer
from ensemble.select import select
from ensemble.subsets import Chosen
from ensemble.table import Table
from ensemble.vote import VOTES, Vote, Voting


class Squared(Vote):
    """Votes are squares of probabilities, and the last member counts twice."""

    def of_table(self, table):
        return Table(table.classes_MNK, table.probs_MNK**2, table.labels_N, table.cost_M)

    def weights(self, scorer, members, correct):
        if len(members) == 1:
            return (), correct
        weights = tuple(2.0 if member == members[-1] else 1.0 for member in members)
        full = np.zeros((1, scorer.members))
        full[0, list(members)] = weights
        return weights, int(scorer.correct_weighted(full)[0])


@pytest.fixture
def squared(monkeypatch):
    monkeypatch.setitem(VOTES, "squared", Squared())


def disagreeing(members, images, classes):
    """Members whose errors are their own."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (members, images, classes))
    logits[:, np.arange(images), labels] += np.linspace(0.8, 1.8, members)[:, None]
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    kept = np.argsort(-probs, axis=2)
    kept_probs = np.take_along_axis(probs, kept, axis=2).astype(np.float32)
    return Table(kept, kept_probs, labels, np.arange(1.0, members + 1))


def dense_count(table, subset):
    """How many images the subset classifies correctly, from sums over all classes."""
    total = np.zeros((len(table.labels_N), int(table.classes_MNK.max()) + 1))
    for member, weight in zip(subset.members, subset.weights or [1] * len(subset.members), strict=True):
        squares = table.probs_MNK[member].astype(np.float32) ** 2
        total[np.arange(len(total))[:, None], table.classes_MNK[member]] += weight * squares.astype(np.float64)
    return int((total.argmax(axis=1) == table.labels_N).sum())


@pytest.mark.usefixtures("squared")
def test_a_new_vote_needs_nothing_but_its_entry_to_be_scored_and_selected_by():
    table = disagreeing(members=6, images=300, classes=5)
    scorer = SubsetScorer.of(Voting("squared").of_table(table))
    chosen = select(scorer, table.cost_M, "sum", vote="squared")
    assert any(subset.weights for subset in chosen)
    for subset in chosen:
        assert subset.correct == dense_count(table, subset)
    counts = scorer.correct(np.eye(6, dtype=bool))
    singles = [Chosen((m,), float(table.cost_M[m]), int(count)) for m, count in enumerate(counts)]
    rows = Comparison(300, scorer, singles, np.random.default_rng(0)).scored(chosen)
    assert [row.test_top1 for row in rows] == [row.top1 for row in rows] == [subset.correct / 300 for subset in chosen]
    assert [row.weights for row in rows] == [subset.weights for subset in chosen]


@pytest.mark.usefixtures("squared")
def test_a_new_vote_is_a_setting_and_an_option(tmp_path, monkeypatch):
    from helpers import TINY

    from jobs.cli.main import main
    from jobs.config import load

    assert load(str(TINY), ["ensemble.vote=squared"]).ensemble.vote == "squared"
    table = realistic(members=4, images=60, classes=20)
    (tmp_path / "t.npz").write_bytes(table.to_npz())
    command = ["ofa", "ensemble", "--predictions", str(tmp_path / "t.npz"), "--vote", "squared", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        main()
    found = TableEnsembles.from_json(json.loads((tmp_path / "ensembles.json").read_text()), "ensembles.json")
    assert found.vote == "squared"
    for row in found.members:
        assert row.top1 * 60 == pytest.approx(dense_count(table, row))


def test_an_unknown_vote_is_one_line():
    table = realistic(members=2, images=20, classes=20)
    with pytest.raises(SelectionError, match="no vote is called 'loud'; there are soft, hard, weighted"):
        Voting("loud").of_table(table)
    with pytest.raises(SelectionError, match="no vote is called 'loud'"):
        select(SubsetScorer.of(table), table.cost_M, "max", vote="loud")
