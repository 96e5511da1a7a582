"""The bench of searches on tables: both extremes come first, no network counts twice, and stored runs are not repeated."""

import numpy as np
import pytest

from bench import rivals
from bench.problems import NAS_BENCH_201, Table
from search.objective import MACS, TOP1


def values(genes_BG):
    """A made table: every operation adds accuracy and costs."""
    total_B = genes_BG.sum(axis=1).astype(float)
    return np.stack([total_B / 100, total_B], axis=1)


TABLE = Table("made", NAS_BENCH_201, (TOP1, MACS), values, (0.0, 25.0), (1.0, 25.0))


@pytest.mark.parametrize("searcher", ["pymoo NSGA-II", "pymoo AGE-MOEA", "Optuna NSGA-II", "Optuna TPE"])
def test_a_peer_starts_from_both_extremes(searcher):
    run = rivals.peers(TABLE, rivals.PEERS[searcher][1], 12, seed=1)
    assert run.values[:2] == [[0.0, 0.0], [0.24, 24.0]]
    assert len(run.values) == len(run.cpu_s) == 12


def test_a_network_that_is_proposed_again_does_not_count():
    class Stubborn:
        def __init__(self, task):
            self.rows = [task.start_BG, task.start_BG, 1 - np.eye(6, dtype=np.int64)]

        def ask(self):
            return self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]

        def tell(self, points_BM):
            assert points_BM.shape[1] == 2

    run = rivals.peers(TABLE, Stubborn, 10, seed=1)
    assert run.values == [[0.0, 0.0], [0.24, 24.0], *[[0.05, 5.0]] * 6]


def test_the_same_command_continues_from_the_store(tmp_path, monkeypatch):
    found = list(rivals.lines(TABLE, ["random"], [1, 2], [5, 10], tmp_path))
    monkeypatch.setattr(rivals, "ours", None)
    assert list(rivals.lines(TABLE, ["random"], [1, 2], [5, 10], tmp_path)) == found
    assert len(list(tmp_path.iterdir())) == 3
