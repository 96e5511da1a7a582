"""Hypervolume curves, against computing every hypervolume anew."""

import json
import time

import numpy as np
import pytest

from ofa.documents import DocumentError
from search.front import hypervolume
from search.history import Curve, History, reference_point
from search.objective import MACS, PARAMS, TOP1, minimised
from search.problem import Limit

PAIR, TRIPLE = (TOP1, MACS), (TOP1, MACS, PARAMS)


def archs(count, objectives, seed=0):
    """Values on a coarse grid, so that some are equal; some are beyond the reference point."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(1, 40, (count, len(objectives) - 1)) * 10.0
    top1 = np.round(1 - 0.9 * rng.random(count) * np.sqrt(30 / cost[:, 0]), 2)
    return np.concatenate([top1[:, None], cost], axis=1)


def brute_force(objectives, values, reference, within=lambda values: values[:, 0] > -1):
    worst = minimised(objectives, np.array(reference))
    kept = within(values)
    return [hypervolume(minimised(objectives, values[:n][kept[:n]]), worst) for n in range(len(values) + 1)]


def at_every_evaluation(progress, count):
    """The curve as a step function."""
    place = np.searchsorted(progress.evaluations, np.arange(count + 1), side="right") - 1
    return np.array(progress.hypervolume)[place]


@pytest.mark.parametrize("objectives", [PAIR, TRIPLE])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("every", [False, True])
def test_it_is_the_hypervolume_after_every_evaluation(objectives, batch, every):
    values, reference = archs(150, objectives), (0.0, 350.0, 380.0)[: len(objectives)]
    curve = Curve(objectives, reference, every=every)
    for start in range(0, len(values), batch):
        curve.add(values[start : start + batch])
    progress = curve.progress("measured", "nsga2")
    expected = brute_force(objectives, values, reference)
    assert progress.evaluations[-1] == 150
    assert (progress.between == "not sampled") == (batch > 1 and len(objectives) > 2)
    if progress.between == "not sampled":
        np.testing.assert_allclose(progress.hypervolume[1:], np.array(expected)[list(progress.evaluations[1:])])
        assert len(progress.evaluations) < 25
    else:
        np.testing.assert_allclose(at_every_evaluation(progress, 150), expected)
    if every and progress.between == "unchanged":
        assert progress.evaluations == tuple(range(151))


def test_only_archs_within_the_limits_count_and_known_ones_count_from_the_beginning():
    values, reference = archs(100, PAIR), (0.0, 350.0)
    curve = Curve(PAIR, reference, [Limit(MACS, 200.0), Limit(TOP1, 0.6)])
    curve.start(values[:40])
    curve.add(values[40:])
    expected = brute_force(PAIR, values, reference, lambda v: (v[:, 1] <= 200) & (v[:, 0] >= 0.6))
    progress = curve.progress("predicted", "archive")
    assert progress.known == 40
    np.testing.assert_allclose(at_every_evaluation(progress, 60), expected[40:])


def test_the_reference_point_depends_on_the_extremes_alone():
    values = archs(50, PAIR)
    low, high = values[:, 1].min(), values[:, 1].max()
    assert reference_point(PAIR, values) == pytest.approx((0.0, high + 0.1 * (high - low)))
    extremes = np.array([[0.3, low], [0.4, high]])
    assert reference_point(PAIR, extremes) == pytest.approx(reference_point(PAIR, values))


def test_a_history_is_read_back_and_anything_else_gets_its_line():
    curve = Curve(PAIR, (0.0, 350.0))
    curve.add(archs(30, PAIR))
    history = History.of(PAIR, (0.0, 350.0), [curve.progress("predicted", "archive")])
    assert History.from_bytes(json.dumps(history.to_json()).encode(), "history.json") == history
    for wrong in ({}, [], {"objectives": [], "searches": [{"search": "x"}]}):
        with pytest.raises(DocumentError, match=r"^history.json: .*expected"):
            History.from_json(wrong, "history.json")


def test_a_hundred_thousand_evaluations_take_little():
    """A batch at a time, as the archive evaluates: less than a tenth of what the search takes."""
    rng = np.random.default_rng(0)
    macs = rng.random((200, 500))
    batches = [np.stack([1 - 0.1 * m**-0.5 - 0.3 * rng.random(500) / (n + 1), 1e6 * m], axis=1) for n, m in enumerate(macs)]
    curve = Curve(PAIR, (0.0, 1.1e6))
    started = time.process_time()
    for batch in batches:
        curve.add(batch)
    assert time.process_time() - started < 2
    assert len(curve.progress("predicted", "archive").evaluations) > 500
