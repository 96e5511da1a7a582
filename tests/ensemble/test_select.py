"""Selections against all subsets, on instances small enough to score all."""

from itertools import combinations

import numpy as np
import pytest

from ensemble.errors import SelectionError
from ensemble.score import SubsetScorer
from ensemble.select import ALGORITHMS, select, subsets_to_score
from ensemble.subsets import Limits


def instance(seed, members=8, images=400, classes=6):
    """Members whose errors are partly their own, cheaper ones worse."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (members, images, classes)) + rng.normal(0, 0.7, (images, classes))
    logits[:, np.arange(images), labels] += np.linspace(0.8, 1.8, members)[:, None]
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    kept = np.argsort(-probs, axis=2)
    table = kept, np.take_along_axis(probs, kept, axis=2).astype(np.float32), labels
    return SubsetScorer(*table), np.linspace(1, 5, members) ** 2


def every_subset(scorer, cost, rule):
    """(cost, correct) of the true front."""
    members = len(cost)
    masks = (np.arange(1, 2**members)[:, None] >> np.arange(members)) & 1 == 1
    each = np.where(masks, cost, 0.0)
    costs = each.max(axis=1) if rule == "max" else each.sum(axis=1)
    correct = scorer.correct(masks)
    front, best = [], -1
    for c, right in sorted(zip(costs, -correct, strict=True)):
        if -right > best:
            best = -right
            front.append((c, best))
    return front


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_exhaustive_is_the_true_front(rule, seed):
    scorer, cost = instance(seed)
    for algorithm in ("exhaustive", "default"):
        found = select(scorer, cost, rule, algorithm)
        assert [(c.cost, c.correct) for c in found] == every_subset(scorer, cost, rule)


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_the_search_beyond_thirteen_members_comes_close_to_the_true_front(rule):
    """At every cost of the true front it names at most 2 of 400 images fewer right."""
    for seed in range(3):
        scorer, cost = instance(seed, members=15)
        found = select(scorer, cost, rule)
        for limit, best in every_subset(scorer, cost, rule):
            assert max(c.correct for c in found if c.cost <= limit) >= best - 2


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("algorithm", ["default", "greedy", "exhaustive"])
def test_what_is_said_of_a_subset_is_true(rule, algorithm):
    scorer, cost = instance(5)
    found = select(scorer, cost, rule, algorithm)
    for chosen in found:
        mask = np.isin(np.arange(8), chosen.members)
        each = cost[list(chosen.members)]
        assert chosen.cost == pytest.approx(each.max() if rule == "max" else each.sum())
        assert chosen.correct == scorer.correct(mask[None])[0]
    assert [c.cost for c in found] == sorted({c.cost for c in found})
    assert [c.correct for c in found] == sorted({c.correct for c in found})


def test_the_search_is_never_worse_than_greedy():
    scorer, cost = instance(7, members=16)
    greedy, default = select(scorer, cost, "max", "greedy"), select(scorer, cost, "max", "default")
    for chosen in greedy:
        assert max(c.correct for c in default if c.cost <= chosen.cost) >= chosen.correct


def test_selection_is_a_function_of_its_inputs():
    scorer, cost = instance(2, members=16)
    assert select(scorer, cost, "sum") == select(scorer, cost, "sum")


def test_what_cannot_be_done_is_refused():
    scorer, cost = instance(0)
    with pytest.raises(SelectionError, match="there are default, greedy, exhaustive"):
        select(scorer, cost, "max", "magic")
    with pytest.raises(SelectionError, match="25 members have too many subsets to score all; at most 24"):
        select(instance(0, members=25)[0], np.ones(25), "max", "exhaustive")


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_of_eighteen_members_the_search_finds_the_proven_best_at_every_cost(rule):
    scorer, cost = instance(1, members=18, images=300)
    proven, found = select(scorer, cost, rule, "exhaustive"), select(scorer, cost, rule)
    caps = cost if rule == "max" else np.geomspace(cost.min(), cost.sum(), 40)
    for cap in caps:
        assert max(c.correct for c in found if c.cost <= cap) == max(c.correct for c in proven if c.cost <= cap)


@pytest.fixture(scope="module")
def eighteen():
    """18 members with many ties, and for each of their 2^18 subsets the images that the definition counts as right.

    Probabilities are eighths, so that their sums are exact in any order.
    """
    rng = np.random.default_rng(8)
    members, images, classes = 18, 30, 3
    labels = rng.integers(0, classes, images)
    full = rng.integers(0, 6, (members, images, classes))
    full[:, np.arange(images), labels] += rng.integers(0, 4, (members, images))
    kept = np.argsort(-full, axis=2, kind="stable")
    scorer = SubsetScorer(kept, np.take_along_axis(full, kept, axis=2).astype(np.float32) / 8, labels)
    masks = (np.arange(2**members)[:, None] >> np.arange(members)) & 1 == 1
    right = np.zeros(len(masks), dtype=int)
    for image, label in enumerate(labels):  # of equal sums the first class wins
        right += (masks @ full[:, image].astype(np.float32)).argmax(axis=1) == label
    return scorer, rng.integers(1, 9, members).astype(float), masks, right


@pytest.mark.parametrize(
    ("rule", "limits"),
    [
        ("max", Limits()),
        ("sum", Limits()),
        ("sum", Limits(cost=31.0)),
        ("max", Limits(size=4, cost=6.0)),
        ("sum", Limits(size=7, must_have=(2, 11))),
    ],
)
def test_exhaustive_proves_the_front_of_eighteen_members_with_ties_and_limits(eighteen, rule, limits):
    scorer, cost, masks, right = eighteen
    each = np.where(masks, cost, 0.0)
    costs = each.max(axis=1) if rule == "max" else each.sum(axis=1)
    fine = masks.any(axis=1) & masks[:, list(limits.must_have)].all(axis=1)
    fine &= (masks.sum(axis=1) <= (limits.size or 18)) & (costs <= (limits.cost or np.inf))
    best = [(c, right[fine & (costs == c)].max()) for c in np.unique(costs[fine])]
    proven = [(c, r) for i, (c, r) in enumerate(best) if all(r > before for _, before in best[:i])]
    done = []
    found = select(scorer, cost, rule, "exhaustive", done.append, limits)
    assert [(c.cost, c.correct) for c in found] == proven
    assert done[-1] == subsets_to_score("exhaustive", 18) == 2**18 - 1
    for chosen in found:  # of equally good subsets one of the fewest members
        equal = fine & (costs == chosen.cost) & (right == chosen.correct)
        assert len(chosen.members) == masks[equal].sum(axis=1).min()
        assert right[(1 << np.array(chosen.members)).sum()] == chosen.correct


@pytest.mark.parametrize("algorithm", ["default", "greedy", "exhaustive"])
def test_limits_are_kept_and_the_best_within_them_is_found(algorithm):
    scorer, cost = instance(4, members=14)
    limits = Limits(size=3, cost=float(cost[9]), must_have=(2,))
    found = select(scorer, cost, "max", algorithm, limits=limits)
    for chosen in found:
        assert len(chosen.members) <= 3
        assert chosen.cost <= cost[9]
        assert 2 in chosen.members
    if algorithm != "greedy":
        pairs = [m for size in (0, 1, 2) for m in combinations([m for m in range(10) if m != 2], size)]
        masks = np.array([np.isin(np.arange(14), [2, *more]) for more in pairs])
        assert found[-1].correct == scorer.correct(masks).max()


def test_limits_that_nothing_keeps_are_refused():
    scorer, cost = instance(0)
    with pytest.raises(SelectionError, match="no subset keeps to the limits"):
        select(scorer, cost, "max", limits=Limits(size=1, must_have=(1, 2)))


def test_weights_only_ever_help():
    scorer, cost = instance(6)
    found = select(scorer, cost, "sum")
    weighed = select(scorer, cost, "sum", vote="weighted")
    assert any(w.weights for w in weighed)
    for before, after in zip(found, weighed, strict=True):
        assert after.correct > before.correct if after.weights else after == before
        if after.weights:
            full = np.zeros((1, 8))
            full[0, list(after.members)] = after.weights
            assert scorer.correct_weighted(full)[0] == after.correct


def test_a_new_algorithm_needs_nothing_but_its_entry(monkeypatch):
    from helpers import TINY

    from jobs.config import load

    def singles(search, budget):
        search.score(np.eye(len(search.cost_M), dtype=bool))

    monkeypatch.setitem(ALGORITHMS, "singles", singles)
    scorer, cost = instance(0)
    found = select(scorer, cost, "sum", "singles")
    assert {len(chosen.members) for chosen in found} == {1}
    assert found[-1].correct == scorer.correct(np.eye(8, dtype=bool)).max()
    assert load(str(TINY), ["ensemble.algorithm=singles"]).ensemble.algorithm == "singles"
