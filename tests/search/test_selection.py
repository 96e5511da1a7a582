"""Selection of survivors against brute force and against pymoo."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.front import crowding, hypervolume, ranks
from search.selection import SURVIVAL, constrained, directions, nsga3, own_volumes, sms_emoa, thinned

RNG = np.random.default_rng(0)


def points_of(dimensions, most=20):
    coordinate = st.integers(0, 6).map(float)
    return st.lists(st.tuples(*[coordinate] * dimensions), min_size=2, max_size=most, unique=True).map(np.array)


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


@pytest.mark.parametrize("name", SURVIVAL)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_better_fronts_survive_before_worse_ones(name, dimensions):
    @settings(max_examples=40, deadline=None)
    @given(points_of(dimensions), st.integers(1, 20))
    def check(points, count):
        count = min(count, len(points))
        kept, rating = SURVIVAL[name](points, count, np.random.default_rng(1))
        assert len(kept) == len(rating) == count == len(set(kept.tolist()))
        first = ranks(points) == 0
        if first.sum() >= count:
            assert first[kept].all()
        else:
            assert first[kept].sum() == first.sum()

    check()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_own_volumes_are_differences_of_hypervolumes(dimensions):
    @settings(max_examples=50, deadline=None)
    @given(points_of(dimensions))
    def check(points):
        points = points[ranks(points) == 0]
        reference = np.full(dimensions, 8.0)
        whole = hypervolume(points, reference)
        wanted = [whole - hypervolume(np.delete(points, i, axis=0), reference) for i in range(len(points))]
        np.testing.assert_allclose(own_volumes(points, reference), wanted, atol=1e-9)

    check()


def test_sms_emoa_drops_the_point_whose_loss_costs_least():
    x = np.sort(RNG.random(12))
    points = np.stack([x, np.sort(RNG.random(12))[::-1]], axis=1)
    kept, _ = sms_emoa(points, 11, RNG)
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    volumes = [hypervolume(np.delete(scaled, i, axis=0), np.full(2, 11.0)) for i in range(12)]
    assert set(range(12)) - set(kept.tolist()) == {int(np.argmax(volumes))}


def test_thinning_two_objectives_loses_little_of_the_best_volume():
    """Against the best of all subsets."""
    x = np.sort(RNG.random(10))
    points = np.stack([x[::-1], x**2], axis=1)
    kept = thinned(points, 5)
    reference = np.ones(2) * 1.1
    best = max(hypervolume(points[list(subset)], reference) for subset in itertools.combinations(range(10), 5))
    assert hypervolume(points[kept], reference) > 0.98 * best
    assert (np.diff(points[kept, 1]) > 0).all()
    assert {0, 9} <= set(kept.tolist())


def test_crowding_is_the_side_lengths_of_the_box_between_neighbours():
    points = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    assert crowding(points).tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_same_points_survive_nsga2_and_spea2_as_in_pymoo(dimensions):
    from pymoo.algorithms.moo.nsga2 import RankAndCrowding
    from pymoo.algorithms.moo.spea2 import SPEA2Survival
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    problem = Problem(n_var=1, n_obj=dimensions)
    for name, theirs in (("nsga2", RankAndCrowding()), ("spea2", SPEA2Survival(normalize=True))):
        agree = []
        for seed in range(5):
            points = np.random.default_rng(seed).random((30, dimensions))
            population = Population.new(X=np.arange(30.0)[:, None], F=points)
            population.set("CV", np.zeros((30, 1)))
            kept = theirs.do(problem, population, n_survive=15).get("X")[:, 0].astype(int)
            ours, _ = SURVIVAL[name](points, 15, np.random.default_rng(0))
            agree.append(len(set(kept.tolist()) & set(ours.tolist())))
        assert np.mean(agree) >= 14, (name, agree)  # their crowding recounts, ties are broken otherwise


def test_nsga3_spreads_over_its_directions():
    """Of a crowd in one corner and one point near every direction, the single points stay."""
    corner = np.array([1.0, 0.0, 0.0]) + np.random.default_rng(2).random((60, 3)) * 0.02 * np.array([-1, 1, 1])
    spread = directions(3, 28)
    kept, _ = nsga3(np.concatenate([corner, spread]), 28, np.random.default_rng(3))
    assert (kept >= 60).sum() >= 24


def test_directions_are_das_and_dennis_s():
    from pymoo.util.ref_dirs import get_reference_directions

    ours = directions(3, 91)
    theirs = get_reference_directions("das-dennis", 3, n_partitions=12)
    assert sorted(map(tuple, ours.round(9).tolist())) == sorted(map(tuple, theirs.round(9).tolist()))


@settings(max_examples=50, deadline=None)
@given(points_of(2), st.data())
def test_what_keeps_all_limits_survives_first(points, data):
    beyond = np.array(data.draw(st.lists(st.integers(0, 3).map(float), min_size=len(points), max_size=len(points))))
    count = max(1, len(points) // 2)
    kept, rating = constrained(SURVIVAL["nsga2"], points, beyond, count, np.random.default_rng(0))
    assert len(kept) == len(rating) == count
    assert beyond[kept].max() <= np.sort(beyond)[count - 1]


def test_nsga3_bears_a_plane_that_meets_an_axis_nowhere():
    points = np.array([(0.0, 0.0, 2.0), (3.0, 1.0, 1.0), (6.0, 0.0, 0.0)])
    kept, _ = nsga3(points, 1, np.random.default_rng(1))
    assert ranks(points)[kept] == 0
