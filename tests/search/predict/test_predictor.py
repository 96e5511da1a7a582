import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from ofa import npz
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.errors import PredictorError
from search.predict.predictor import KINDS, Averaged, Predictor, architecture, choices, cross_validated, fit, judge

DIGITS = get_space("digits")


def rows(count, seed=0):
    rng = random.Random(seed)
    return Genes(DIGITS).encode([DIGITS.sample(rng) for _ in range(count)])


def linear_truth(genes_BG):
    """A top-1 that depends on choices alone, each with its own effect on the logarithm of the error."""
    x = choices(Genes(DIGITS), genes_BG)
    return 1 - np.exp(x @ np.random.default_rng(0).normal(0, 0.1, x.shape[1]) - 3)


@pytest.fixture(scope="module")
def imagenet(reference):
    """DyNAS-T's measurements: genes and top-1 of 2162 networks."""
    with open(reference / "imagenet_measured" / "ofa_mbv3_w1.0_r224.csv") as file:
        table = list(csv.DictReader(file))
    archs = [Arch(224, *([int(c) for c in row[name]] for name in ("d", "ks", "e"))) for row in table]
    return Genes(get_space("ofa_mbv3_w1.0")).encode(archs), np.array([float(row["top1"]) / 100 for row in table])


def test_genes_without_effect_are_features_without_effect():
    """Of an unused slot every feature is 0; one-hot features of the used ones add up to one each."""
    genes, genes_BG = Genes(DIGITS), rows(100)
    features = choices(genes, genes_BG)
    used = genes.used(genes_BG).sum(axis=1)
    assert features.sum(axis=1).tolist() == (1 + 3 + 2 * used).tolist()


def test_sums_of_a_stage_are_those_of_its_used_slots():
    genes, genes_BG = Genes(DIGITS), rows(50)
    sums = architecture(genes, genes_BG)[:, choices(genes, genes_BG).shape[1] :]
    for row, arch in zip(sums, genes.decode(genes_BG), strict=True):
        per_stage = len(arch.kernel) // len(arch.depth)
        want = [sum(arch.depth)]
        for values in (arch.expand, arch.kernel):
            stages = [sum(values[i : i + per_stage]) for i in range(0, len(values), per_stage)]
            want += [*stages, *(total / depth for total, depth in zip(stages, arch.depth, strict=True))]
        assert row.tolist() == pytest.approx(want)


def test_a_linear_truth_is_learned_exactly():
    genes_BG = rows(400)
    top1 = linear_truth(genes_BG)
    quality = judge(DIGITS, genes_BG, top1, "top1", 0.2, np.random.default_rng(1), ["ridge"])
    assert quality.held_out == 80
    assert quality.rmse < 0.01 * top1.std()
    assert quality.kendall_tau > 0.99


def test_the_kind_is_the_one_that_ranks_best_in_cross_validation():
    genes_BG = rows(150)
    taus = cross_validated(DIGITS, genes_BG, linear_truth(genes_BG), "top1", ["knn", "forest", "ridge"])
    assert list(taus) == sorted(taus, key=taus.get, reverse=True)
    assert next(iter(taus)) == "ridge"
    quality = judge(DIGITS, genes_BG, linear_truth(genes_BG), "top1", 0.2, np.random.default_rng(1), ["knn", "ridge"])
    assert quality.kind == "ridge"
    assert list(quality.cross_validation) == ["ridge", "knn"]


@pytest.mark.parametrize(
    ("rows", "least", "before"), [(250, 0.93, 0.911), pytest.param(1000, 0.96, 0.929, marks=pytest.mark.slow)]
)
def test_real_imagenet_accuracies_are_ranked(imagenet, rows, least, before):
    """A fifth held out; `before` is what DyNAS-T's own one-hot ridge reaches (measured by others)."""
    genes_BG, top1 = imagenet
    taus = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(top1))
        test, train = order[: len(order) // 5], order[len(order) // 5 :][:rows]
        predictor = fit(get_space("ofa_mbv3_w1.0"), genes_BG[train], top1[train], "top1", "gp")
        taus.append(kendall(predictor.predict(genes_BG[test]), top1[test]))
    assert np.mean(taus) >= least > before, taus


def kendall(one, other):
    """Tau-a by its definition: concordant less discordant pairs."""
    upper = np.triu_indices(len(one), 1)
    signs = np.sign(np.subtract.outer(one, one)[upper]) * np.sign(np.subtract.outer(other, other)[upper])
    return signs.mean()


@pytest.mark.parametrize("kind", ["ridge", "gp", pytest.param("boosting", marks=pytest.mark.slow)])
def test_the_spread_covers_the_truth(imagenet, kind):
    genes_BG, top1 = imagenet
    order = np.random.default_rng(3).permutation(len(top1))[:400]
    space = get_space("ofa_mbv3_w1.0")
    quality = judge(space, genes_BG[order], top1[order], "top1", 0.4, np.random.default_rng(0), [kind])
    assert 0.88 <= quality.coverage <= 1.0


def test_latency_is_learned_from_forty_networks():
    """A truth that has something per block and something per multiply-accumulate, as a device's has."""
    genes, genes_BG = Genes(DIGITS), rows(40)
    macs, _ = CostTable(DIGITS, 10)(genes_BG)
    latency_ms = 0.4 + 0.1 * genes.used(genes_BG).sum(axis=1) + 2e-6 * macs
    quality = judge(DIGITS, genes_BG, latency_ms, "latency_ms", 0.25, np.random.default_rng(0), ["ridge", "gp", "knn"])
    assert quality.kendall_tau > 0.85
    assert quality.rmse < 0.05 * latency_ms.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_brings_the_same_predictor_back(kind):
    genes_BG = rows(60)
    predictor = fit(DIGITS, genes_BG, linear_truth(genes_BG), "top1", kind)
    loaded = Predictor.from_npz(predictor.to_npz(), DIGITS, "top1", "p.npz")
    more_BG = rows(20, seed=1)
    assert np.array_equal(loaded.predict(more_BG), predictor.predict(more_BG))
    assert np.array_equal(loaded.spread(more_BG), predictor.spread(more_BG))
    assert ((loaded.predict(more_BG) > 0) & (loaded.predict(more_BG) < 1)).all()
    assert (loaded.spread(more_BG) > 0).all()
    assert len(loaded.predict(more_BG[:0])) == 0


def test_rows_that_are_all_equal_do_no_harm():
    predictor = fit(DIGITS, rows(30), np.full(30, 0.9), "top1", "gp")
    assert predictor.predict(rows(5, seed=1)) == pytest.approx(np.full(5, 0.9))


def test_a_predictor_of_another_space_or_kind_is_refused():
    data = fit(DIGITS, rows(60), np.linspace(0.8, 0.99, 60), "top1").to_npz()
    with pytest.raises(PredictorError, match=r"p.npz: is of the space 'digits', not of ofa_mbv3_w1.0"):
        Predictor.from_npz(data, get_space("ofa_mbv3_w1.0"), "top1", "p.npz")
    with pytest.raises(PredictorError, match="is no predictor"):
        Predictor.from_npz(b"rubbish", DIGITS, "top1", "p.npz")
    with pytest.raises(PredictorError, match="is no predictor"):
        Predictor.from_npz(data[: len(data) // 2], DIGITS, "top1", "p.npz")


def test_a_predictor_of_another_quantity_is_refused():
    truth = np.linspace(0.8, 0.99, 60)
    latency, top1 = fit(DIGITS, rows(60), truth, "latency_ms").to_npz(), fit(DIGITS, rows(60), truth, "top1").to_npz()
    with pytest.raises(PredictorError, match=r"^p.npz: predicts 'latency_ms'; expected a predictor of top1$"):
        Predictor.from_npz(latency, DIGITS, "top1", "p.npz")
    with pytest.raises(PredictorError, match=r"^p.npz: predicts 'top1'; expected a predictor of latency_ms$"):
        Predictor.from_npz(top1, DIGITS, "latency_ms", "p.npz")


@pytest.mark.parametrize("target", ["top1", "latency_ms"])
@pytest.mark.parametrize(
    "fewer",
    [
        {"resolutions": (24,)},
        {"kernels": (5, 7)},
        {"depths": (2,)},
        {"resolutions": (32,), "expands": (4,), "depths": (1, 3)},
    ],
)
def test_fewer_choices_have_the_same_predictions(target, fewer):
    predictor = fit(DIGITS, rows(60), linear_truth(rows(60)), target)
    space = DIGITS.only(**fewer)
    loaded = Predictor.from_npz(predictor.to_npz(), space, target, "p.npz")
    archs = [space.sample(random.Random(seed)) for seed in range(50)]
    here, there = Genes(space).encode(archs), Genes(DIGITS).encode(archs)
    assert np.array_equal(loaded.predict(here), predictor.predict(there))
    assert np.array_equal(loaded.spread(here), predictor.spread(there))
    assert Predictor.fitted_space(predictor.to_npz(), space, "p.npz") == DIGITS
    assert loaded.to_npz() == predictor.to_npz()


def test_choices_that_a_predictor_does_not_know_are_named():
    space = DIGITS.only(kernels=(3, 5))
    genes = Genes(space).random(60, np.random.default_rng(0))
    data = fit(space, genes, np.linspace(0.8, 0.99, 60), "top1").to_npz()
    with pytest.raises(PredictorError, match=r"^p.npz: does not know kernels 7; it knows 3, 5$"):
        Predictor.from_npz(data, DIGITS, "top1", "p.npz")
    with pytest.raises(PredictorError, match=r"^p.npz: does not know resolutions 48; it knows 24, 28, 32$"):
        Predictor.from_npz(data, space.at((24, 48)), "top1", "p.npz")
    assert Predictor.fitted_space(data, DIGITS, "p.npz") == space


def changed(data, **changes):
    arrays = npz.unpack_all(data)
    return npz.pack(**{name: array for name, array in (arrays | changes).items() if array is not None})


@pytest.fixture(scope="module")
def stored():
    """The file of a predictor."""
    return fit(DIGITS, rows(60), np.linspace(0.8, 0.99, 60), "top1").to_npz()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({name: None}, f"it has no '{name}'") for name in ("target", "space", "kind", "choices", "mean", "standard")),
        *(({name: np.array([1.0])}, f"its '{name}' is of the type") for name in ("target", "kind")),
        ({"space": np.array(5)}, "its 'space' is of the type"),
        ({"kind": np.array("magic")}, "is of the kind 'magic'; expected one of ridge"),
        ({"target": np.array("macs")}, "predicts 'macs'; expected a predictor of top1"),
        ({"choices": np.array("{")}, "is no predictor"),
        ({"choices": np.array("5")}, "has the choices 5"),
        ({"choices": np.array('{"resolutions": [24]}')}, "has the choices"),
        *(
            (
                {"choices": np.array(json.dumps({"resolutions": wrong, "depths": [1], "kernels": [3], "expands": [1]}))},
                "has the",
            )
            for wrong in (5, [], ["24"], [None], [32, 24], [24, 24], [-1], [1e9], [float("nan")], [[24]])
        ),
        ({"mean": np.zeros(3)}, r"its 'mean' has the shape \[3\]; expected numbers in the shape \[79\]"),
        ({"scale": np.full(79, np.nan)}, "its 'scale' has values that are not finite"),
        ({"standard": np.zeros(2)}, "its 'standard' has the shape"),
        ({"standard": np.array([0, np.inf, 0])}, "its 'standard' has values that are not finite"),
        ({"experts": np.array(-1)}, "it has -1 experts"),
        ({"experts": np.array(10**9)}, "it has 1000000000 experts"),
        ({"experts": np.array(6)}, "it has no 'coef_F'"),
        ({"experts": np.array([5, 5])}, "its 'experts' has the shape"),
        ({"model0_coef_F": np.zeros(3)}, "its arrays do not make a model of 79 inputs"),
        ({"model0_coef_F": np.zeros((79, 2))}, "its arrays do not make a model of 79 inputs"),
        ({"model0_coef_F": np.full(79, np.nan)}, "its 'coef_F' has values that are not finite"),
        ({"model0_coef_F": np.full(79, "x")}, "its 'coef_F' is of the type"),
        ({"model3_intercept": np.zeros(5)}, "its arrays do not make a model of 79 inputs"),
    ],
)
def test_a_damaged_predictor_gets_one_line(stored, changes, says):
    with pytest.raises(PredictorError, match=f"^p.npz: .*{says}") as caught:
        Predictor.from_npz(changed(stored, **changes), DIGITS, "top1", "p.npz")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def stored_trees():
    return fit(DIGITS, rows(60), linear_truth(rows(60)), "top1", "boosting").to_npz()


@pytest.mark.parametrize("field", ["left_TK", "right_TK", "feature_TK"])
def test_trees_that_end_nowhere_are_refused(stored_trees, field):
    trees = npz.unpack_all(stored_trees)[f"model0_{field}"].copy()
    for value in (0 if field == "right_TK" else -1 if field == "feature_TK" else None, 10**6):
        if value is not None:
            trees[0, 0] = value
            with pytest.raises(PredictorError, match="its arrays do not make a model of 79 inputs"):
                Predictor.from_npz(changed(stored_trees, **{f"model0_{field}": trees}), DIGITS, "top1", "p.npz")


def digits_networks():
    """Genes and top-1 of 598 random sub-networks of the supernet of configs/digits.toml, on its 539 selection images.

    The rows of a run's measured.jsonl with `measure.archs=600`, but the smallest and the largest.
    """
    with open(Path(__file__).parent / "digits_measured.csv") as file:
        table = list(csv.DictReader(file))
    genes_BG = np.array([[int(digit) for digit in row["genes"]] for row in table])
    return genes_BG, np.array([int(row["correct"]) / 539 for row in table])


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        pytest.param("boosting", "lgb", marks=pytest.mark.slow),
        pytest.param("forest", "e2epp", marks=pytest.mark.slow),
        ("ridge", "ridge"),
        ("gp", "gp"),
        ("rbf", "rbf"),
    ],
)
def test_networks_are_ranked_within_the_published_bands(reference, kind, theirs):
    """The protocol of NATv2's study: the mean of ten experts on integer features of 300 networks, and 250 others to rank.

    The band is two standard deviations of the ten repetitions on the published network without exits and branches.
    """
    published = json.loads((reference / "ofav2_natv2_mlt" / "natv2_predictor_correlations.json").read_text())["rows"]
    wanted = {"predictor": theirs, "network": "OFAMobileNetV3", "encoding": "integer", "n_train": 300}
    [band] = [row["rho"] for row in published if wanted.items() <= row.items()]
    genes_BG, top1 = digits_networks()
    order = np.random.default_rng(0).permutation(len(top1))
    test, train = order[:250], order[250:550]
    predictor = Averaged(Genes(DIGITS), genes_BG[train], top1[train], "top1", kind, "integers")
    assert abs(spearman(predictor.predict(genes_BG[test]), top1[test]) - band["mean"]) <= 2 * band["std"]


def spearman(x, y):
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)
