"""The published predictors against published predictions."""

import io
import json

import numpy as np
import pytest

from ofa import npz
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.spaces import get_space
from search.errors import ProblemError
from search.predict.published import PublishedPredictor, is_published

W12 = get_space("ofa_mbv3_w1.2").only(resolutions=(160, 176, 192, 208, 224))
RESNET = get_space("ofa_resnet50")


@pytest.fixture(scope="module")
def mobile(reference):
    return (reference / "ofa" / "ofa_acc_predictor_w1.2.npz").read_bytes()


@pytest.fixture(scope="module")
def resnet(reference):
    return (reference / "ofa" / "ofa_resnet50_acc_predictor.npz").read_bytes()


def test_the_published_front_has_its_published_errors(reference, mobile):
    rows = json.loads((reference / "ofa" / "ofa2_population.json").read_text())["population"]
    archs = [Arch(row["r"], tuple(row["d"]), tuple(row["ks"]), tuple(row["e"])) for row in rows]
    top1 = PublishedPredictor(mobile, W12, "p.npz").predict(Genes(W12).encode(archs))
    np.testing.assert_allclose(100 - 100 * top1, [row["top1_error_pred"] for row in rows], rtol=0, atol=1e-5)


def test_the_extremes_have_their_published_accuracies(mobile):
    predictor = PublishedPredictor(mobile, W12, "p.npz")
    extremes = Genes(W12).encode([W12.smallest(), W12.largest()])
    np.testing.assert_allclose(predictor.predict(extremes), [0.753119, 0.835928], atol=5e-7)


def test_a_smaller_space_is_predicted_alike(mobile):
    small = W12.only(kernels=(3, 7), expands=(4, 6), resolutions=(176, 224))
    archs = Genes(small).decode(Genes(small).random(50, np.random.default_rng(0)))
    ours = PublishedPredictor(mobile, small, "p.npz").predict(Genes(small).encode(archs))
    np.testing.assert_allclose(ours, PublishedPredictor(mobile, W12, "p.npz").predict(Genes(W12).encode(archs)), atol=1e-7)


def test_resnet_features_are_those_of_the_published_encoder(resnet):
    """Against the layout written down again, feature by feature, and a plain forward pass in float64."""
    weights = [npz.unpack(resnet, [f"layers_{name}_weight"])[0].astype(float) for name in ("0_0", "1_0", "2_0", "3")]
    biases = [npz.unpack(resnet, [f"layers_{i}_0_bias"])[0].astype(float) for i in range(3)]
    base = npz.unpack(resnet, ["base_acc"])[0][0]
    genes = Genes(RESNET)
    rows = genes.random(40, np.random.default_rng(1))
    wanted = []
    for arch in genes.decode(rows):
        x = np.zeros(82)
        x[RESNET.resolutions.index(arch.resolution)] = 1
        x[8 + (arch.depth[0] > 0)] = 1
        for i, width in enumerate(arch.width):
            x[10 + 3 * i + width] = 1
        start = 0
        for stage, fixed in enumerate((2, 2, 4, 2)):
            for j in range(start, start + fixed + arch.depth[1 + stage]):
                x[28 + 3 * j + (0.2, 0.25, 0.35).index(arch.expand[j])] = 1
            start += fixed + 2
        for weight, bias in zip(weights[:3], biases, strict=True):
            x = np.maximum(weight @ x + bias, 0)
        wanted.append(float((weights[3] @ x)[0]) + base)
    found = PublishedPredictor(resnet, RESNET, "p.npz").predict(rows)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert 0.7 < found.min() < found.max() < 0.85


def test_a_predictor_of_the_wrong_width_gets_its_line(mobile, resnet):
    with pytest.raises(ProblemError, match=r"^p.npz: has 82 inputs; that of ofa_mbv3_w1.2 has 120 for its 20 slots"):
        PublishedPredictor(resnet, W12, "p.npz")
    with pytest.raises(ProblemError, match=r"^p.npz: has 128 inputs, the space ofa_resnet50 needs 82"):
        PublishedPredictor(mobile, RESNET, "p.npz")
    with pytest.raises(ProblemError, match="does not know resolution 132; it knows 112, 128"):
        PublishedPredictor(mobile, get_space("ofa_mbv3_w1.2").only(resolutions=(132,)), "p.npz")
    assert not is_published(b"rubbish")
    with pytest.raises(ProblemError, match="is no published predictor"):
        PublishedPredictor(npz.pack(a=np.zeros(3)), W12, "p.npz")


def test_the_resolutions_that_a_predictor_knows(mobile):
    assert PublishedPredictor.resolutions(mobile, get_space("ofa_mbv3_w1.2"), "p.npz") == (128, 144, 160, 176, 192, 208, 224)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"2_weight": None}, "it has no '2_weight'"),
        ({"6_bias": None}, "it has no '6_bias'"),
        (
            {"2_weight": np.zeros((3, 4))},
            r"its '2_weight' has the shape \[3, 4\]; expected numbers in the shape \[400, any\]",
        ),
        ({"0_weight": np.zeros(128)}, r"its '0_weight' has the shape \[128\]"),
        (
            {"6_weight": np.zeros((2, 400))},
            r"its '6_weight' has the shape \[2, 400\]; expected numbers in the shape \[1, any\]",
        ),
        ({"0_weight": np.full((400, 128), np.nan)}, "its '0_weight' has values that are not finite"),
        ({"0_weight": np.full((400, 128), "x")}, "its '0_weight' is of the type <U1"),
        ({"0_bias": np.zeros(3)}, r"its '0_bias' has the shape \[3\]"),
        ({"6_bias": np.array(0.5)}, r"its '6_bias' has the shape \[\]"),
    ],
)
def test_damaged_layers_get_one_line(mobile, changes, says):
    arrays = npz.unpack_all(mobile) | changes
    data = npz.pack(**{name: array for name, array in arrays.items() if array is not None})
    assert is_published(data)
    for read in (PublishedPredictor, PublishedPredictor.resolutions):
        with pytest.raises(ProblemError, match=f"^p.npz: is no published predictor: {says}") as caught:
            read(data, W12, "p.npz")
        assert "\n" not in str(caught.value)


def test_layers_in_the_other_byte_order_and_as_half_floats_are_read(mobile):
    arrays = npz.unpack_all(mobile)
    archs = Genes(W12).random(20, np.random.default_rng(0))
    plain = PublishedPredictor(mobile, W12, "p.npz").predict(archs)
    swapped = npz.pack(**{name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()})
    np.testing.assert_array_equal(PublishedPredictor(swapped, W12, "p.npz").predict(archs), plain)
    halves = npz.pack(**{name: array.astype(np.float16) for name, array in arrays.items()})
    np.testing.assert_allclose(PublishedPredictor(halves, W12, "p.npz").predict(archs), plain, atol=0.01)


def test_no_prediction_depends_on_weights_near_zero(reference):
    """Most weights of the published ResNet-50D predictor are subnormal numbers, which make products 60 times slower."""
    data = (reference / "ofa" / "ofa_resnet50_acc_predictor.npz").read_bytes()
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    weights = [arrays[f"layers_{i}_0_weight"] for i in (1, 2)]
    assert all((np.abs(weight) < 1e-20).mean() > 0.9 for weight in weights)
    predictor = PublishedPredictor(data, RESNET, "file")
    used = [weight for weight in predictor._weights if ((weight != 0) & (np.abs(weight) < 1e-20)).any()]
    assert not used
    genes_BG = Genes(RESNET).random(50, np.random.default_rng(0))
    faster = predictor.predict(genes_BG)
    predictor._weights = [np.ascontiguousarray(weight.T) for weight in weights]
    np.testing.assert_array_equal(predictor.predict(genes_BG), faster)
