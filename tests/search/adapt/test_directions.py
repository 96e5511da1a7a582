import numpy as np
import pytest

from search.adapt.directions import _log_energy, _on_simplex, energy_directions
from search.selection import directions


def spacing(points):
    """The smallest distance between two points."""
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    return np.sqrt(squared.min())


@pytest.mark.parametrize(("objectives", "count"), [(2, 7), (3, 20), (4, 30), (6, 40), (12, 20)])
def test_directions_are_on_the_simplex_with_every_axis_and_wider_apart_than_random_ones(objectives, count):
    found = energy_directions(objectives, count)
    assert found.shape == (count, objectives)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    assert np.array_equal(found[:objectives], np.eye(objectives))
    random = [np.random.default_rng(seed).dirichlet(np.ones(objectives), count) for seed in range(20)]
    assert spacing(found) > 1.5 * max(map(spacing, random))


@pytest.mark.parametrize(("objectives", "count"), [(3, 28), (3, 91), (4, 35)])
def test_directions_are_spaced_as_das_and_dennis_s_where_those_exist(objectives, count):
    even = directions(objectives, count)
    assert len(even) == count
    found = energy_directions(objectives, count)
    assert spacing(found) > 0.95 * spacing(even)
    assert _log_energy(found, objectives**2)[0] <= _log_energy(even, objectives**2)[0] + 1e-9


def test_directions_of_other_numbers_are_nearly_as_far_apart():
    """Between 91 and 105 of Das and Dennis's, the spacing is between theirs, less a tenth."""
    assert spacing(energy_directions(3, 100)) > 0.9 * spacing(directions(3, 105))


def test_equal_arguments_have_equal_directions_that_nobody_can_change():
    first = energy_directions(3, 17).copy()
    energy_directions.cache_clear()
    assert np.array_equal(first, energy_directions(3, 17))
    assert not np.array_equal(first, energy_directions(3, 17, seed=1))
    with pytest.raises(ValueError, match="read-only"):
        energy_directions(3, 17)[0, 0] = 2


def test_few_directions_are_axes():
    assert energy_directions(4, 3).tolist() == np.eye(4)[:3].tolist()
    assert energy_directions(2, 1).tolist() == [[1, 0]]
    assert energy_directions(1, 2).tolist() == [[1], [1]]


def test_the_gradient_is_that_of_the_energy():
    points = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    _, gradient = _log_energy(points, 9.0)
    for r, m in ((0, 0), (2, 1), (5, 2)):
        step = np.zeros_like(points)
        step[r, m] = 1e-6
        slope = (_log_energy(points + step, 9.0)[0] - _log_energy(points - step, 9.0)[0]) / 2e-6
        assert gradient[r, m] == pytest.approx(slope, rel=1e-4)


def test_points_are_moved_to_the_nearest_of_the_simplex():
    grid = directions(3, 5151)  # hundredths
    for point in np.random.default_rng(1).normal(0.3, 0.6, (20, 3)):
        nearest = np.linalg.norm(grid - point, axis=1).min()
        [moved] = _on_simplex(point[None])
        assert moved.sum() == pytest.approx(1)
        assert nearest - 0.02 < np.linalg.norm(moved - point) <= nearest + 1e-9
