import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from ofa.genes import Genes
from ofa.spaces import get_space
from search.objective import LATENCY, MACS, TOP1
from search.predict.posterior import Learned, posteriors
from search.predict.predictor import architecture

SPACE = get_space("digits")
GENES = Genes(SPACE)


def test_better_is_the_direction_in_which_an_objective_improves(measured):
    genes_NG, values_NM = measured(30)
    fresh_BG, _ = measured(20, seed=1)
    top1, macs, latency = posteriors(SPACE, (TOP1, MACS, LATENCY), genes_NG, values_NM)
    for posterior, sign in ((top1, 1), (latency, -1)):
        mean_B, spread_B = posterior.moments(fresh_BG)
        assert (spread_B > 0).all()
        assert (sign * posterior.value(mean_B + posterior.better() * spread_B) > sign * posterior.value(mean_B)).all()
    assert macs.better() == -1


def test_exact_costs_are_counted_and_have_no_spread(measured):
    genes_NG, values_NM = measured(30)
    fresh_BG, truth_BM = measured(20, seed=1)
    _, macs, _ = posteriors(SPACE, (TOP1, MACS, LATENCY), genes_NG, values_NM)
    beliefs = macs.joint(fresh_BG)
    beliefs.believe(0)
    assert not macs.learned
    assert np.array_equal(macs.value(beliefs.mean_B), truth_BM[:, 1])
    assert not beliefs.spread_B.any()


def test_a_learned_objective_is_scikit_learns_gaussian_process_of_the_same_settings(measured):
    genes_NG, values_NM = measured(30)
    fresh_BG, _ = measured(20, seed=1)
    ours = Learned(SPACE, TOP1, genes_NG, values_NM[:, 0], values_NM[:, 1:])
    width, trend, noise = ours.process.settings
    x_NF, z_BF = (architecture(GENES, genes).astype(float) for genes in (genes_NG, fresh_BG))
    varying = x_NF.std(axis=0) > 1e-9
    assert not varying.all()
    x_NF, z_BF, features = x_NF[:, varying], z_BF[:, varying], int(varying.sum())
    mean_F, scale_F = x_NF.mean(axis=0), x_NF.std(axis=0)
    x_NF, z_BF = (x_NF - mean_F) / scale_F, (z_BF - mean_F) / scale_F
    y_N = np.log(1 - values_NM[:, 0])
    assert ours.centre == pytest.approx(y_N.mean())  # no error is so far above the others that it is reduced
    kernel = ConstantKernel(1.0) + trend / features * DotProduct(1e-9) + RBF(np.sqrt(features / (2 * width)))
    theirs = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x_NF, (y_N - y_N.mean()) / y_N.std())
    mean_B, std_B = theirs.predict(z_BF, return_std=True)
    found_B, spread_B = ours.moments(fresh_BG)
    assert found_B == pytest.approx(mean_B * y_N.std() + y_N.mean(), abs=1e-6)
    assert spread_B == pytest.approx(std_B * np.sqrt(ours.process.scale) * y_N.std(), abs=1e-6)


def test_how_bad_a_bad_arch_is_does_not_matter(measured):
    """Of top-1: an arch with a far larger error than a cheaper one is learned as `WORST` worse."""
    genes_NG, values_NM = measured(40)
    fresh_BG, _ = measured(20, seed=1)
    cheapest = int(values_NM[:, 1].argmin())
    bad = int(values_NM[:, 1].argmax())
    values_NM[bad, 0] = 1 - 2 * (1 - values_NM[cheapest, 0])
    means = []
    for top1 in (values_NM[bad, 0], values_NM[bad, 0] / 2):
        values_NM[bad, 0] = top1
        means.append(posteriors(SPACE, (TOP1, MACS, LATENCY), genes_NG, values_NM)[0].moments(fresh_BG)[0])
    assert np.array_equal(*means)
