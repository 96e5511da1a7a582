import csv
import random

import numpy as np
import pytest

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.spaces import get_space
from search.predictor import PredictorError, Ridge, choices, fit, judge
from search.problem import CostTable

DIGITS = get_space("digits")


def rows(count, seed=0):
    rng = random.Random(seed)
    return Genes(DIGITS).encode([DIGITS.sample(rng) for _ in range(count)])


def test_genes_without_effect_are_features_without_effect():
    """Of an unused slot every feature is 0; one-hot features of the used ones add up to one each."""
    genes, genes_BG = Genes(DIGITS), rows(100)
    features = choices(genes, genes_BG)
    used = genes.used(genes_BG).sum(axis=1)
    assert features.sum(axis=1).tolist() == (1 + 3 + 2 * used).tolist()


def test_a_linear_truth_is_learned_exactly():
    genes, genes_BG = Genes(DIGITS), rows(400)
    x = choices(genes, genes_BG)
    weights = np.random.default_rng(0).normal(0, 0.1, x.shape[1])
    top1 = 1 - np.exp(x @ weights - 3)
    quality = judge(DIGITS, genes_BG, top1, "top1", 0.2, np.random.default_rng(1))
    assert quality.held_out == 80
    assert quality.rmse < 0.01 * top1.std()
    assert quality.kendall_tau > 0.99


def test_real_imagenet_accuracies_are_ranked_from_250_rows(reference):
    """DyNAS-T's measurements; its own one-hot ridge reaches .911 from 250 rows."""
    space = get_space("ofa_mbv3_w1.0")
    with open(reference / "imagenet_measured" / "ofa_mbv3_w1.0_r224.csv") as file:
        table = list(csv.DictReader(file))
    archs = [Arch(224, *([int(c) for c in row[name]] for name in ("d", "ks", "e"))) for row in table]
    top1 = np.array([float(row["top1"]) / 100 for row in table])
    genes_BG = Genes(space).encode(archs)
    taus = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(archs))[:312]
        taus.append(judge(space, genes_BG[chosen], top1[chosen], "top1", 0.2, rng).kendall_tau)
    assert np.mean(taus) > 0.88, taus


def test_latency_is_learned_from_forty_networks():
    """A truth that has something per block and something per multiply-accumulate, as a device's has."""
    genes, genes_BG = Genes(DIGITS), rows(40)
    macs, _ = CostTable(DIGITS, 10)(genes_BG)
    latency_ms = 0.4 + 0.1 * genes.used(genes_BG).sum(axis=1) + 2e-6 * macs
    quality = judge(DIGITS, genes_BG, latency_ms, "latency_ms", 0.25, np.random.default_rng(0))
    assert quality.kendall_tau > 0.85
    assert quality.rmse < 0.05 * latency_ms.mean()


def test_a_file_brings_the_same_predictor_back():
    predictor = fit(DIGITS, rows(60), np.linspace(0.8, 0.99, 60), "top1")
    loaded = Ridge.from_npz(predictor.to_npz(), DIGITS, "p.npz")
    assert np.array_equal(loaded.predict(rows(20, seed=1)), predictor.predict(rows(20, seed=1)))
    assert ((loaded.predict(rows(20)) > 0) & (loaded.predict(rows(20)) < 1)).all()


def test_a_predictor_of_another_space_is_refused():
    data = fit(DIGITS, rows(60), np.linspace(0.8, 0.99, 60), "top1").to_npz()
    with pytest.raises(PredictorError, match=r"p.npz: has 66 inputs, the space ofa_mbv3_w1.0 needs 160"):
        Ridge.from_npz(data, get_space("ofa_mbv3_w1.0"), "p.npz")
    with pytest.raises(PredictorError, match="is no predictor"):
        Ridge.from_npz(b"rubbish", DIGITS, "p.npz")
    with pytest.raises(PredictorError, match="is no predictor"):
        Ridge.from_npz(data[: len(data) // 2], DIGITS, "p.npz")
