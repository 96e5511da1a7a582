"""Each model against the library that fitted it."""

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR

from ofa.npz import NpzError
from search.predict.models import FITS, LOADS, GaussianProcess

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(80, 7)), RNG.normal(size=(2100, 7))
Y = X[:, 0] - 0.5 * X[:, 1] * X[:, 2] + 0.1 * RNG.normal(size=80)


def predicted(kind):
    return FITS[kind](X, Y).predict(NEW)


def test_ridge_is_scikit_learns():
    assert predicted("ridge") == pytest.approx(RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(X, Y).predict(NEW))


def test_support_vectors_are_scikit_learns():
    assert predicted("svr") == pytest.approx(SVR(C=30, epsilon=0.02, gamma=0.15 / 7).fit(X, Y).predict(NEW))


def test_the_residual_model_adds_support_vectors_to_the_ridge():
    ridge = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(X, Y)
    left = Y - ridge.predict(X)
    rest = SVR(C=30, epsilon=0.02, gamma=0.15 / 7).fit(X, left / left.std())
    assert predicted("residual") == pytest.approx(ridge.predict(NEW) + left.std() * rest.predict(NEW))


def test_radial_basis_functions_are_scipys():
    assert predicted("rbf") == pytest.approx(RBFInterpolator(X, Y, kernel="linear", degree=0, smoothing=1)(NEW), abs=1e-7)


def test_trees_are_scikit_learns():
    settings = {"n_estimators": 400, "max_depth": 3, "learning_rate": 0.06, "subsample": 0.5, "max_features": 0.3}
    boosted = GradientBoostingRegressor(**settings, random_state=0).fit(X, Y)
    assert predicted("boosting") == pytest.approx(boosted.predict(NEW))
    forest = RandomForestRegressor(100, max_features=0.3, random_state=0).fit(X, Y)
    assert predicted("forest") == pytest.approx(forest.predict(NEW))


def test_neighbours_are_scikit_learns():
    assert predicted("knn") == pytest.approx(KNeighborsRegressor(8, weights="distance").fit(X, Y).predict(NEW))


def test_the_perceptron_learns():
    assert np.corrcoef(FITS["mlp"](X, Y).predict(X), Y)[0, 1] > 0.95


def test_the_gaussian_process_is_scikit_learns_with_the_same_settings():
    width, trend, noise = 0.3, 1.0, 0.01
    kernel = ConstantKernel(1.0) + trend / 7 * DotProduct(1e-9) + RBF(np.sqrt(7 / (2 * width)))
    theirs = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(X, Y)
    mean, std = theirs.predict(NEW, return_std=True)
    ours = GaussianProcess(X, Y, (width, trend, noise))
    assert ours.predict(NEW) == pytest.approx(mean)
    assert ours.spread(NEW) == pytest.approx(std * np.sqrt(ours.scale), abs=1e-6)


def test_the_gaussian_process_takes_the_settings_with_the_least_leave_one_out_error():
    """By leaving out each row in turn."""

    def error(settings):
        unseen = [
            GaussianProcess(np.delete(X, i, 0), np.delete(Y, i), settings).predict(X[i : i + 1])[0] for i in range(len(Y))
        ]
        return ((np.array(unseen) - Y) ** 2).mean()

    chosen = GaussianProcess(X, Y).settings
    worse = [(chosen[0], chosen[1], chosen[2] * 100), (0.03, 10.0, chosen[2]), (0.3, 0.1, 1.0), (0.1, 1.0, 1e-4)]
    assert all(error(chosen) <= error(other) for other in worse)


def test_rows_that_count_as_observed_change_a_joint_distribution_as_new_training_rows_do():
    settings = (0.3, 1.0, 0.01)
    process, rows = GaussianProcess(X, Y, settings), NEW[:30]
    joint = process.joint(rows)
    assert joint.mean_B == pytest.approx(process.predict(rows))
    assert np.sqrt(joint.variance_B) == pytest.approx(process.spread(rows))
    for b in (3, 17):
        joint.observe(b)
    more = GaussianProcess(np.concatenate([X, rows[[3, 17]]]), np.concatenate([Y, joint.mean_B[[3, 17]]]), settings)
    assert joint.mean_B == pytest.approx(more.predict(rows))
    assert joint.variance_B / process.scale == pytest.approx(more.spread(rows) ** 2 / more.scale, abs=1e-9)


@pytest.mark.parametrize("kind", FITS)
def test_arrays_are_all_of_a_model(kind):
    model = FITS[kind](X, Y)
    loaded = LOADS[kind].of(model.arrays())
    assert np.array_equal(loaded.predict(NEW), model.predict(NEW))
    assert loaded.inputs == 7
    missing = dict(list(model.arrays().items())[1:])
    with pytest.raises(NpzError, match="it has no"):
        LOADS[kind].of(missing)
