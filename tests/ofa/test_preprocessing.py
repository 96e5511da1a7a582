"""ONNX models with preprocessing against the preprocessing of our own, on images of odd sizes."""

import io
import random

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ofa.decode import centre
from ofa.export import Decoding, to_onnx, to_program
from ofa.extract import extract
from ofa.images import Scale, resize
from ofa.norms import calibrate
from ofa.preprocessing import INPUT, agreement, with_preprocessing
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
SCALE = Scale((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
CROPPED = Decoding(side=32, crop=0.875)


@pytest.fixture(scope="module")
def images(reference):
    """500 images of CIFAR-10's test split, each resized to odd sides from 21 to 119 pixels."""
    [file] = sorted((reference / "cifar10").rglob("*test*.parquet"))
    rows = next(pq.ParquetFile(file).iter_batches(500)).to_pylist()
    rng, found = random.Random(0), []
    for row in rows:
        size = rng.randrange(21, 121, 2), rng.randrange(21, 121, 2)
        [data] = [value["bytes"] for value in row.values() if isinstance(value, dict)]
        found.append(Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    return found


@pytest.fixture(scope="module")
def network(images):
    """A network at 24 pixels with random weights, and statistics of these images."""
    arch, net = SPACE.smallest(), Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    pixels = torch.from_numpy(np.stack([centre(image, 32, CROPPED.crop) for image in images[:128]]))
    return extract(net, arch, calibrate(net, arch, [resize(SCALE(pixels), arch.resolution)]))


def test_images_of_odd_sizes_have_the_classes_of_our_own_pipeline(images, network):
    whole = with_preprocessing(to_onnx(to_program(network, 24)), CROPPED, SCALE, 24)
    found = agreement(whole, network, CROPPED, SCALE, 24, map(np.asarray, images))
    assert found.images == 500
    assert found.same_class >= 0.99
    assert found.difference <= 0.1 * found.of
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([centre(image, 32, CROPPED.crop) for image in images]))
        named = network(resize(SCALE(pixels), 24)).argmax(1)
    assert len(set(named.tolist())) > 3, "the agreement is not that of one class for all"


@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_pixels_are_those_of_the_decoder_but_for_the_rounding_of_some(images, crop):
    """The network is the identity and the scale that of pixels, so that the output is the central square itself."""
    shape = ["images", 3, 32, 32]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "output")]
    node = onnx.helper.make_node("Identity", ["images"], ["output"])
    graph = onnx.helper.make_graph([node], "identity", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    plain = Scale((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
    decoding = Decoding(side=32, crop=crop)
    session = onnxruntime.InferenceSession(with_preprocessing(model.SerializeToString(), decoding, plain, 32))
    shares = []
    for image in images[:100]:
        [square] = session.run(None, {INPUT: np.asarray(image)})[0]
        difference = np.abs(square.round() - centre(image, 32, crop).astype(float))
        assert difference.max() <= 1
        shares.append((difference > 0).mean())
    assert np.mean(shares) < 0.03
