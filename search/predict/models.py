"""Regression models that predict with numpy alone and are stored as plain arrays; scikit-learn fits them.

Shape letters in this file: B rows to predict, N training rows, F features, T trees, K nodes of the largest tree.
Features and targets are standardised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Self

import numpy as np

from ofa.npz import NpzError, floats

Arrays = Mapping[str, np.ndarray]

WIDTHS = (0.03, 0.1, 0.3)  # of a Gaussian process's kernel
_ROWS_AT_ONCE = 2048  # rows predicted at once, so that the kernel matrix stays in the cache
_TUNED_ON = 400  # most rows for the choice of a Gaussian process's three settings


class Model:
    """A fitted model; its fields are arrays, which are its whole state."""

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        """The predicted values [B] of standardised features [B, F]."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """The model as named arrays, to be stored."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """The model with these arrays; raises an `NpzError` for a missing one."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if (missing := next((name for name in names if name not in arrays), None)) is not None:
            raise NpzError(f"it has no {missing!r}; expected {', '.join(names)}")
        return cls(**{name: arrays[name] for name in names})

    @classmethod
    def checked(cls, arrays: Arrays, width: int) -> Self:
        """The model with these arrays, of rows of `width` features; raises an `NpzError` if it cannot predict them."""
        model = cls.of({name: floats(array, name, [None] * array.ndim) for name, array in arrays.items()})
        try:
            model.validate()
            with np.errstate(all="ignore"):
                y_B = model.predict(np.zeros((2, width)))
            fits = model.inputs == width and np.shape(y_B) == (2,) and bool(np.isfinite(y_B).all())
        except (ValueError, IndexError, TypeError, AssertionError):
            fits = False
        if not fits:
            raise NpzError(f"its arrays do not make a model of {width} inputs")
        return model

    def validate(self) -> None:
        """Raises a `ValueError` for arrays that a prediction must not use."""

    @property
    def inputs(self) -> int:
        """The number of features it expects."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Model):
    """A linear model with an intercept."""

    coef_F: np.ndarray
    intercept: np.ndarray

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        return x_BF @ self.coef_F + self.intercept

    @property
    def inputs(self) -> int:
        return len(self.coef_F)


@dataclass(frozen=True)
class Radial(Model):
    """A linear trend and a weighted sum of a function of the distance to each training row.

    gamma: of the Gaussian exp(-gamma d²); 0 uses the distance d itself.
    """

    coef_F: np.ndarray
    intercept: np.ndarray
    points_NF: np.ndarray
    weight_N: np.ndarray
    gamma: np.ndarray

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        trend_B = x_BF @ self.coef_F + self.intercept
        chunks = [x_BF[i : i + _ROWS_AT_ONCE] for i in range(0, len(x_BF), _ROWS_AT_ONCE)]
        return trend_B + np.concatenate([self._kernel(chunk) @ self.weight_N for chunk in chunks] or [np.zeros(0)])

    def _kernel(self, x_BF: np.ndarray) -> np.ndarray:
        squared_BN = squared_distances(x_BF, self.points_NF)
        return np.exp(-float(self.gamma) * squared_BN) if self.gamma else np.sqrt(squared_BN)

    @property
    def inputs(self) -> int:
        return len(self.coef_F)


@dataclass(frozen=True)
class Trees(Model):
    """The sum of regression trees. A node without children (`left` is 0) is a leaf, whose `threshold` is its value."""

    feature_TK: np.ndarray
    threshold_TK: np.ndarray
    left_TK: np.ndarray
    right_TK: np.ndarray
    intercept: np.ndarray
    width: np.ndarray  # features

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        x_FB = x_BF.T.astype(np.float32)  # scikit-learn compares in float32
        rows_B, out_B = np.arange(len(x_BF)), np.full(len(x_BF), float(self.intercept))
        trees = zip(self.feature_TK, self.threshold_TK, self.left_TK, self.right_TK, strict=True)
        for feature_K, threshold_K, left_K, right_K in trees:
            at_B = np.zeros(len(x_BF), dtype=np.int64)
            while (left_K[at_B] > 0).any():
                inner_B = left_K[at_B] > 0
                below_B = x_FB[feature_K[at_B], rows_B] <= threshold_K[at_B]
                at_B = np.where(inner_B, np.where(below_B, left_K[at_B], right_K[at_B]), at_B)
            out_B += threshold_K[at_B]
        return out_B

    @property
    def inputs(self) -> int:
        return int(self.width)

    def validate(self) -> None:
        """See `Model.validate`: children come after their parents, in the tree, so that every row reaches a leaf."""
        nodes_K = np.arange(self.left_TK.shape[1])
        for child_TK in (self.left_TK, self.right_TK):
            if not np.where(self.left_TK > 0, (child_TK > nodes_K) & (child_TK < len(nodes_K)), True).all():
                raise ValueError
        if not ((self.feature_TK >= 0) & (self.feature_TK < self.inputs)).all():
            raise ValueError

    @classmethod
    def grown(cls, trees: list[Any], scale: float, intercept: float) -> Trees:
        """scikit-learn's trees, each leaf times `scale`."""
        most = max(tree.node_count for tree in trees)

        def padded(name: Callable[[Any], np.ndarray]) -> np.ndarray:
            return np.array([np.pad(name(tree), (0, most - tree.node_count)) for tree in trees])

        leaf_TK = padded(lambda tree: tree.children_left < 0)
        value_TK = padded(lambda tree: tree.value[:, 0, 0]) * scale
        return cls(
            feature_TK=padded(lambda tree: np.maximum(tree.feature, 0)).astype(np.int32),
            threshold_TK=np.where(leaf_TK, value_TK, padded(lambda tree: tree.threshold)),
            left_TK=padded(lambda tree: np.maximum(tree.children_left, 0)).astype(np.int32),
            right_TK=padded(lambda tree: np.maximum(tree.children_right, 0)).astype(np.int32),
            intercept=np.array(intercept),
            width=np.array(trees[0].n_features),
        )


@dataclass(frozen=True)
class Layers(Model):
    """Three linear layers with ReLU between them."""

    weight0_FH: np.ndarray
    bias0_H: np.ndarray
    weight1_HI: np.ndarray
    bias1_I: np.ndarray
    weight2_I: np.ndarray
    bias2: np.ndarray

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        h_BH = np.maximum(x_BF @ self.weight0_FH + self.bias0_H, 0)
        return np.maximum(h_BH @ self.weight1_HI + self.bias1_I, 0) @ self.weight2_I + self.bias2

    @property
    def inputs(self) -> int:
        return len(self.weight0_FH)


@dataclass(frozen=True)
class Neighbours(Model):
    """The mean of the `count` nearest training rows, each weighted by the inverse of its distance."""

    points_NF: np.ndarray
    value_N: np.ndarray
    count: np.ndarray

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        count = min(int(self.count), len(self.value_N))
        out = [np.zeros(0)]
        for start in range(0, len(x_BF), _ROWS_AT_ONCE):
            distance_BN = np.sqrt(squared_distances(x_BF[start : start + _ROWS_AT_ONCE], self.points_NF))
            nearest_BC = np.argpartition(distance_BN, count - 1, axis=1)[:, :count]
            weight_BC = 1 / np.maximum(np.take_along_axis(distance_BN, nearest_BC, axis=1), 1e-6)
            out.append((self.value_N[nearest_BC] * weight_BC).sum(axis=1) / weight_BC.sum(axis=1))
        return np.concatenate(out)

    @property
    def inputs(self) -> int:
        return self.points_NF.shape[1]


class GaussianProcess(Radial):
    """A Gaussian process with a linear trend and a Gaussian kernel; width, trend and noise minimise the leave-one-out error.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, ISBN 026218253X, algorithm 2.1.
    """

    def __init__(
        self,
        x_NF: np.ndarray,
        y_N: np.ndarray,
        settings: tuple[float, float, float] | None = None,
        widths: Sequence[float] = WIDTHS,
    ) -> None:
        """settings: width, trend and noise, where they are known. widths: those to choose from."""
        self.settings = settings or _least_error(x_NF, y_N, widths)
        width, trend, noise = self.settings
        self.trend = trend
        covariance_NN = _covariance(x_NF, x_NF, width, trend) + noise * np.eye(len(y_N))
        factor_NN = np.linalg.cholesky(covariance_NN)
        self.inverse_NN = np.linalg.inv(factor_NN)  # the factor's inverse: spread() only multiplies by it
        weight_N = self.inverse_NN.T @ (self.inverse_NN @ y_N)
        self.scale = float(y_N @ weight_N / len(y_N))  # maximum-likelihood scale of the covariance
        features = x_NF.shape[1]
        super().__init__(
            coef_F=trend / features * (x_NF.T @ weight_N),
            intercept=np.array(weight_N.sum()),
            points_NF=x_NF,
            weight_N=weight_N,
            gamma=np.array(width / features),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(Radial)}

    def spread(self, x_BF: np.ndarray) -> np.ndarray:
        """The posterior standard deviation [B], without the noise of a single observation."""
        out = [np.zeros(0)]
        for start in range(0, len(x_BF), _ROWS_AT_ONCE):
            x = x_BF[start : start + _ROWS_AT_ONCE]
            out.append(np.sqrt(self.variance(x, self.explained(x))))
        return np.concatenate(out)

    def variance(self, x_BF: np.ndarray, explained_BN: np.ndarray) -> np.ndarray:
        """The posterior variance [B] of rows, of which `explained` is known already."""
        prior_B = 2 + self.trend * (x_BF**2).mean(axis=1)
        return np.asarray(np.maximum(prior_B - (explained_BN**2).sum(axis=1), 0) * self.scale)

    def joint(self, x_BF: np.ndarray) -> Joint:
        """The posterior joint distribution of rows."""
        return Joint(self, x_BF)

    def explained(self, x_BF: np.ndarray) -> np.ndarray:
        """Rows [B, N] whose products are the part of the prior covariance that the training rows explain."""
        return _covariance(x_BF, self.points_NF, self.settings[0], self.trend) @ self.inverse_NN.T


class Joint:
    """The joint distribution of the values of some rows, which may be changed as if some of them were observed.

    mean_B: the means. variance_B: the variances, without the noise of single observations.
    """

    def __init__(self, process: GaussianProcess, x_BF: np.ndarray) -> None:
        self.process, self.x_BF = process, x_BF
        self.mean_B, self._known_BN = process.predict(x_BF), process.explained(x_BF)
        self.variance_B = process.variance(x_BF, self._known_BN)
        self._observed: list[tuple[np.ndarray, float]] = []

    def observe(self, b: int) -> None:
        """Takes the mean of one row for an observation of it: means stay, variances shrink."""
        process = self.process
        prior_B = _covariance(self.x_BF, self.x_BF[b : b + 1], process.settings[0], process.trend)[:, 0]
        row_B = (prior_B - self._known_BN @ self._known_BN[b]) * process.scale
        for before_B, variance in self._observed:
            row_B -= before_B * (before_B[b] / variance)
        variance = max(float(row_B[b]), 0.0) + process.settings[2] * process.scale
        self._observed.append((row_B, variance))
        self.variance_B = np.maximum(self.variance_B - row_B**2 / variance, 0.0)


def _covariance(x_BF: np.ndarray, z_NF: np.ndarray, width: float, trend: float) -> np.ndarray:
    """A constant, a linear trend and a Gaussian, the last two scaled by the number of features."""
    features = x_BF.shape[1]
    return 1 + trend / features * (x_BF @ z_NF.T) + np.exp(-width / features * squared_distances(x_BF, z_NF))


def _least_error(x_NF: np.ndarray, y_N: np.ndarray, widths: Sequence[float]) -> tuple[float, float, float]:
    """Width, trend and noise with the least leave-one-out error (same source, sec. 5.4.2), on a subset of many rows.

    On DyNAS-T's measurements the marginal likelihood is the worse criterion below 250 rows, and never the better one.
    """
    if len(y_N) > _TUNED_ON:
        part = np.linspace(0, len(y_N) - 1, _TUNED_ON).astype(int)
        x_NF, y_N = x_NF[part], y_N[part]
    best = (np.inf, (0.1, 1.0, 0.1))
    for width, trend in product(widths, (0.1, 1.0, 10.0)):
        values_N, vectors_NN = np.linalg.eigh(_covariance(x_NF, x_NF, width, trend))
        along_N, squares_NN = vectors_NN.T @ y_N, vectors_NN**2
        for noise in np.logspace(-4, 1, 16):
            variance_N = np.maximum(values_N, 0) + noise
            error_N = (vectors_NN @ (along_N / variance_N)) / (squares_NN @ (1 / variance_N))
            best = min(best, (float((error_N**2).mean()), (width, trend, float(noise))))
    return best[1]


def squared_distances(x_BF: np.ndarray, z_NF: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [B, N]."""
    products_BN = x_BF @ z_NF.T
    products_BN *= -2
    products_BN += (x_BF**2).sum(axis=1)[:, None]
    products_BN += (z_NF**2).sum(axis=1)
    return np.maximum(products_BN, 0, out=products_BN)


def ridge(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Linear:
    """Fits a ridge regression; its penalty has the least leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(x_NF, y_N)
    return Linear(model.coef_, np.array(model.intercept_))


def svr(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Radial:
    """Fits support vector regression with a Gaussian kernel."""
    from sklearn.svm import SVR

    gamma = 0.15 / x_NF.shape[1]
    model = SVR(C=30, epsilon=0.02, gamma=gamma).fit(x_NF, y_N)
    points_NF, weight_N = model.support_vectors_, model.dual_coef_[0]
    return Radial(np.zeros(x_NF.shape[1]), model.intercept_[0], points_NF, weight_N, np.array(gamma))


def residual(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Radial:
    """Fits a ridge regression, and support vectors to its residuals."""
    trend = ridge(x_NF, y_N)
    left_N = y_N - trend.predict(x_NF)
    scale = float(left_N.std()) or 1.0
    rest = svr(x_NF, left_N / scale)
    intercept = trend.intercept + scale * rest.intercept
    return Radial(trend.coef_F, intercept, rest.points_NF, scale * rest.weight_N, rest.gamma)


def gaussian_process(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> GaussianProcess:
    """Fits a Gaussian process with a linear trend."""
    return GaussianProcess(x_NF, y_N)


def radial_basis(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Radial:
    """Fits radial basis functions: distances to all rows, smoothed (scipy's `RBFInterpolator`, kernel `linear`)."""
    count, features = x_NF.shape
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = np.eye(count) - np.sqrt(squared_distances(x_NF, x_NF))  # smoothing 1
    system[:count, count] = system[count, :count] = 1
    solution = np.linalg.solve(system, np.append(y_N, 0))
    return Radial(np.zeros(features), solution[count], x_NF, -solution[:count], np.array(0.0))


def boosting(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Trees:
    """Fits gradient boosting of small trees."""
    from sklearn.ensemble import GradientBoostingRegressor

    settings = {"n_estimators": 400, "max_depth": 3, "learning_rate": 0.06, "subsample": 0.5, "max_features": 0.3}
    model = GradientBoostingRegressor(**settings, random_state=seed).fit(x_NF, y_N)
    start = float(model.init_.constant_.ravel()[0])
    return Trees.grown([tree.tree_ for tree in model.estimators_[:, 0]], model.learning_rate, start)


def forest(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Trees:
    """Fits regression trees (CART) on random rows and features, averaged."""
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(100, max_features=0.3, random_state=seed).fit(x_NF, y_N)
    return Trees.grown([tree.tree_ for tree in model.estimators_], 1 / len(model.estimators_), 0.0)


def mlp(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Layers:
    """Fits a multilayer perceptron with two hidden layers."""
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(
        hidden_layer_sizes=(100, 100), alpha=1.0, batch_size=min(32, len(y_N)), max_iter=150, random_state=seed, tol=0
    )
    with np.errstate(all="ignore"):
        model = _quietly(model.fit, x_NF, y_N)
    (weight0, weight1, weight2), (bias0, bias1, bias2) = model.coefs_, model.intercepts_
    return Layers(weight0, bias0, weight1, bias1, weight2[:, 0], bias2[0])


def neighbours(x_NF: np.ndarray, y_N: np.ndarray, seed: int = 0) -> Neighbours:
    """Stores the rows for the mean of the eight nearest neighbours."""
    return Neighbours(x_NF, y_N, np.array(8))


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Fits without scikit-learn's warning that training stopped at the configured number of epochs."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*arguments)


Fit = Callable[..., Any]  # arguments: x_NF, y_N and a seed

FITS: dict[str, Fit] = {
    "ridge": ridge,
    "residual": residual,
    "gp": gaussian_process,
    "svr": svr,
    "rbf": radial_basis,
    "boosting": boosting,
    "forest": forest,
    "mlp": mlp,
    "knn": neighbours,
}

LOADS: dict[str, type[Model]] = {
    "ridge": Linear,
    "residual": Radial,
    "gp": Radial,
    "svr": Radial,
    "rbf": Radial,
    "boosting": Trees,
    "forest": Trees,
    "mlp": Layers,
    "knn": Neighbours,
}
