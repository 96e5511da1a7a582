import numpy as np
import pytest

from ensemble.intervals import difference_interval


def test_the_interval_of_a_difference_is_that_of_drawing_images_anew():
    rng = np.random.default_rng(1)
    one = rng.random(400) < 0.8
    other = one ^ (rng.random(400) < 0.1)
    drawn = rng.integers(0, 400, (4000, 400))
    brute = np.quantile(one[drawn].mean(axis=1) - other[drawn].mean(axis=1), [0.025, 0.975])
    assert difference_interval(one, other, np.random.default_rng(2)) == pytest.approx(brute, abs=0.004)


def test_equal_answers_differ_by_nothing():
    answers = np.arange(50) % 3 == 0
    assert difference_interval(answers, answers, np.random.default_rng(0)) == (0.0, 0.0)
