import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.objective import LATENCY, MACS, TOP1
from search.predict.columns import exact_cost, learned_columns
from search.predict.models import FITS
from search.predict.predictor import FEATURES, Averaged

SPACE = get_space("digits")
GENES = Genes(SPACE)


def test_exact_costs_are_counted_not_learned():
    genes_BG = GENES.random(30, np.random.default_rng(0))
    macs, params = CostTable(SPACE, 10)(genes_BG)
    for field, truth in (("macs", macs), ("params", params)):
        counter = exact_cost(SPACE, field, genes_BG[:5], truth[:5].astype(float))
        assert counter is not None
        assert np.array_equal(counter(genes_BG), truth)
    assert exact_cost(SPACE, "latency_ms", genes_BG, macs.astype(float)) is None


def test_costs_that_another_counter_gives_are_not_taken_for_ours():
    genes_BG = GENES.random(5, np.random.default_rng(0))
    macs = CostTable(SPACE, 10)(genes_BG)[0].astype(float)
    assert exact_cost(SPACE, "macs", genes_BG, macs + np.arange(5)) is None
    assert exact_cost(SPACE, "macs", genes_BG, macs * 2.01) is None


@pytest.mark.parametrize("features", FEATURES)
def test_learned_columns_predict_objectives_in_their_order_and_unit(features, measured):
    genes_NG, values_NM = measured(120)
    fresh_BG, truth_BM = measured(40, seed=1)
    columns = learned_columns(SPACE, (MACS, TOP1, LATENCY), genes_NG, values_NM[:, [1, 0, 2]], "ridge", features)
    macs, top1, latency = (column(fresh_BG) for column in columns)
    assert np.array_equal(macs, truth_BM[:, 1])
    for predicted, truth in ((top1, truth_BM[:, 0]), (latency, truth_BM[:, 2])):
        assert np.corrcoef(predicted, truth)[0, 1] > 0.9
        assert abs(predicted - truth).mean() < 0.5 * truth.std()


def test_a_prediction_is_the_mean_of_ten_experts_without_a_tenth_of_the_rows_each(monkeypatch, measured):
    fitted = []

    def fit(x_NF, y_N, seed=0):
        fitted.append(FITS["ridge"](x_NF, y_N))
        return fitted[-1]

    monkeypatch.setitem(FITS, "counted", fit)
    genes_NG, values_NM = measured(50)
    predictor = Averaged(GENES, genes_NG, values_NM[:, 2], "latency_ms", "counted", "one-hot")
    assert len(fitted) == 10
    assert sorted(np.concatenate(predictor.rows.parts).tolist()) == list(range(50))
    assert {len(part) for part in predictor.rows.parts} == {5}
    x_BF = (FEATURES["one-hot"](GENES, genes_NG[:3]) - predictor.rows.mean_F) / predictor.rows.scale_F
    mean = np.mean([model.predict(x_BF) for model in fitted], axis=0) * predictor.rows.unit + predictor.rows.centre
    np.testing.assert_allclose(predictor.predict(genes_NG[:3]), mean)


@pytest.mark.parametrize("name", ["digits", "ofav2_mbv3_ee_p_w1.0_64px"])
def test_integers_are_minus_one_where_a_gene_has_no_effect(name):
    """Also past an exit, and kernel and expand ratio of a parallel block without its convolution."""
    genes = Genes(get_space(name))
    genes_BG = genes.random(50, np.random.default_rng(0))
    features = FEATURES["integers"](genes, genes_BG)
    matter = genes.matter(genes_BG)
    assert features.shape == genes_BG.shape
    assert np.array_equal(features == -1, ~matter)
    assert np.array_equal(features[matter], genes_BG[matter])
    assert not matter.all()
