"""The comparison of selections on a table small enough to score all ensembles."""

import numpy as np
import pytest

from bench import ensemble, selections
from bench.selections import Splits, Task, part, score, swept
from bench.tables import realistic
from ensemble.score import SubsetScorer


@pytest.fixture(scope="module")
def splits():
    table = realistic(members=6, images=600, classes=8)
    return Splits(lambda seed: (part(table, np.arange(300)), part(table, np.arange(300, 600))), [1, 2])


def test_no_selection_is_better_than_all_subsets_and_the_best_top1_is_theirs(splits):
    every = (np.arange(1, 64)[:, None] >> np.arange(6)) & 1 == 1
    table, (choose, test) = splits.pairs[0][0], splits.scorers[0]
    for rule in ("max", "sum"):
        best = score(Task(table, choose, rule, 1), test, (every * 1.0, 63), 0.0)
        found = splits.scores("default", rule)[0]
        assert found.volume == pytest.approx(best.volume)
        assert found.top1 == choose.accuracy(every).max()
        assert splits.scores("greedy", rule)[0].volume <= best.volume + 1e-12


def test_a_swept_greedy_selection_begins_with_the_best_single_member_and_prefers_cheap_ones_at_a_high_weight(splits):
    table, (choose, _) = splits.pairs[0][0], splits.scorers[0]
    steps, scored = swept(Task(table, choose, "sum", 1))
    assert steps[0].argmax() == choose.correct(np.eye(6, dtype=bool)).argmax()
    assert (steps[-selections.ROUNDS :] > 0).any(axis=0).tolist() == [True, *[False] * 5]
    assert scored == 6 * len(steps)


def test_rows_name_the_table_the_cost_and_the_selector(monkeypatch, capsys):
    table = realistic(members=4, images=80, classes=5)
    monkeypatch.setattr(selections, "generated", lambda seed: (part(table, np.arange(40)), part(table, np.arange(40, 80))))
    selections.main(["--selectors", "default", "--rules", "max"])
    head, _, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| generated | max | default | ")
    assert row.count("|") == head.count("|")


def test_a_trace_ends_with_the_selections_front():
    table = realistic(members=5, images=200, classes=8)
    scorer = SubsetScorer.of(table)
    trace = ensemble.Trace(scorer, table.cost_M, "sum", np.array([table.cost_M.sum(), 1.0]))
    trace.run("default")
    areas = [row[3] for row in trace.rows]
    assert areas == sorted(areas)
    assert areas[-1] > 0
    assert trace.rows[-1][0] == 31
    assert trace.best == scorer.accuracy((np.arange(32)[:, None] >> np.arange(5)) & 1 == 1)[1:].max()
