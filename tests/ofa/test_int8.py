"""Int8 networks agree with those that they are made of, and are smaller."""

import numpy as np
import onnx
import pytest
import torch

from ofa.export import to_onnx, to_program
from ofa.extract import extract
from ofa.int8 import logits_of, median_ms, quantised
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet


@pytest.fixture(scope="module")
def models():
    """An ONNX model, the same in int8, and images."""
    space = get_space("digits")
    arch = space.smallest()
    net = Supernet(space, 10, torch.Generator().manual_seed(0)).eval()
    images = torch.randn(96, 3, arch.resolution, arch.resolution, generator=torch.Generator().manual_seed(1))
    model = to_onnx(to_program(extract(net, arch, calibrate(net, arch, [images])), arch.resolution))
    batches = [batch.numpy() for batch in images.split(32)]
    return model, quantised(model, batches), batches


def values(model):
    return {one.name: one for one in onnx.load_from_string(model).graph.initializer}


class TestQuantised:
    def test_weights_of_convolutions_are_int8_with_a_scale_for_each_channel(self, models):
        nodes = onnx.load_from_string(models[1]).graph.node
        stored, made_by = values(models[1]), {name: node for node in nodes for name in node.output}
        convolutions = [node for node in nodes if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            weights = made_by[node.input[1]]
            assert weights.op_type == "DequantizeLinear"
            tensor, scale = (onnx.numpy_helper.to_array(stored[name]) for name in weights.input[:2])
            assert tensor.dtype == np.int8
            assert len(scale) == len(tensor)
            assert np.abs(tensor.astype(int)).max() <= 64  # of 7 bits

    def test_its_logits_are_close_and_name_the_same_class_unless_two_are_closer(self, models):
        model, small, batches = models
        exact_NC, near_NC = logits_of(model, batches), logits_of(small, batches)
        error = np.sqrt(np.mean((exact_NC - near_NC) ** 2))
        assert 0 < error < 0.2 * exact_NC.std(axis=0).mean()
        second_N, first_N = np.sort(exact_NC, axis=1)[:, -2:].T
        clear_N = first_N - second_N > 6 * error
        assert clear_N.sum() >= 10
        assert (exact_NC.argmax(axis=1) == near_NC.argmax(axis=1))[clear_N].all()

    def test_it_is_smaller(self, models):
        assert len(models[1]) < 0.6 * len(models[0])

    def test_a_model_has_a_latency(self, models):
        assert median_ms(models[1], models[2][0].shape[-1], runs=5) > 0


def test_logits_are_in_the_order_of_the_images(models):
    model, _, batches = models
    alone = logits_of(model, [batches[1][3:4]])
    assert logits_of(model, batches)[len(batches[0]) + 3] == pytest.approx(alone[0], abs=1e-5)
