"""Scores from Ray actors against those of one process."""

import numpy as np
import pytest
import ray

from bench.tables import realistic
from ensemble.score import SubsetScorer
from ensemble.select import select
from jobs.workers.scorer import PooledScorer


@pytest.fixture(scope="module")
def table():
    return realistic(members=12, images=900, classes=50)


@pytest.mark.parametrize("actors", [1, 4])
def test_actors_count_as_one_process_does_even_if_one_is_killed_midway(ray_cluster, table, actors):
    alone = SubsetScorer(table.classes_MNK, table.probs_MNK, table.labels_N)
    masks = np.random.default_rng(1).random((300, 12)) < 0.3
    pooled = PooledScorer(table, actors)
    try:
        assert pooled.correct(masks).tolist() == alone.correct(masks).tolist()
        answers = pooled.pool.map("correct_changed", [(shard, masks[:40]) for shard in range(pooled.shards)])
        counts = [next(answers)[1]]
        ray.kill(pooled.pool.members[0].actor)
        counts += [answer for _, answer in answers]
        assert np.array_equal(np.sum(counts, axis=0), alone.correct_changed(masks[:40]))
        bases = masks[:40] & (np.arange(12) >= pooled.group)
        assert np.array_equal(pooled.correct_choices(bases), alone.correct_choices(bases))
        weights = masks[:50] * 0.3
        assert pooled.correct_weighted(weights).tolist() == alone.correct_weighted(weights).tolist()
        assert select(pooled, table.cost_M, "max") == select(alone, table.cost_M, "max")
    finally:
        pooled.close()
