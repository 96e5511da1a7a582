"""Every elastic layer against a plain one that was sliced by hand."""

import pytest
import torch
from torch.nn import functional as F

from ofa.layers.base import ElasticConv, ElasticDepthwise, ElasticNorm, he_fan_out
from ofa.layers.inverted import ElasticSqueezeExcite
from ofa.parts.conv import make_divisible
from ofa.parts.inverted import se_hidden


def images(channels, size=9, seed=0):
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(seed))


def filled(layer, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=generator)
    return layer


def test_full_size_pointwise_is_a_plain_conv():
    layer = filled(ElasticConv(16, 24, bias=True))
    x = images(16)
    assert torch.equal(layer(x, 24), F.conv2d(x, layer.weight, layer.bias))


@pytest.mark.parametrize("channels", [8, 16, 24])
def test_pointwise_uses_the_first_filters_and_inputs(channels):
    layer = filled(ElasticConv(32, 24))
    x = images(channels)
    by_hand = torch.nn.Conv2d(channels, 16, 1, bias=False)
    by_hand.weight.data = layer.weight[:16, :channels].detach().clone()
    assert torch.equal(layer(x, 16), by_hand(x))
    assert torch.equal(layer.plain(channels, 16)(x), by_hand(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_largest_kernel_is_a_plain_depthwise_conv(stride):
    layer = filled(ElasticDepthwise(16, (3, 5, 7), stride))
    x = images(16)
    assert torch.equal(layer(x, 7), F.conv2d(x, layer.weight, stride=stride, padding=3, groups=16))


def test_smaller_kernels_start_as_the_centre_of_the_largest():
    layer = ElasticDepthwise(8, (3, 5, 7), 1)
    layer.weight.data = images(8, size=7)[:1].transpose(0, 1).contiguous()
    assert torch.equal(layer.sliced(8, 5), layer.weight[:, :, 1:6, 1:6])
    assert torch.equal(layer.sliced(8, 3), layer.weight[:, :, 2:5, 2:5])


def test_smaller_kernels_are_transformed_one_after_the_other():
    """3x3 = centre(5x5) M53', 5x5 = centre(7x7) M75', the published chain."""
    layer = filled(ElasticDepthwise(8, (3, 5, 7), 1))
    five = torch.stack([layer.transforms["5"] @ w[0, 1:6, 1:6].flatten() for w in layer.weight]).view(8, 1, 5, 5)
    three = torch.stack([layer.transforms["3"] @ w[0, 1:4, 1:4].flatten() for w in five]).view(8, 1, 3, 3)
    torch.testing.assert_close(layer.sliced(8, 5), five)
    torch.testing.assert_close(layer.sliced(8, 3), three)
    x = images(6)
    by_hand = torch.nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    by_hand.weight.data = layer.sliced(6, 3).detach().clone()
    assert torch.equal(layer(x, 3), by_hand(x))
    assert torch.equal(layer.plain(6, 3)(x), by_hand(x))


def test_gradients_reach_exactly_the_weights_in_use():
    """And equal those of the layer sliced by hand."""
    layer, x = filled(ElasticDepthwise(16, (3, 5, 7), 1)), images(8)
    layer(x, 3).square().sum().backward()
    used = torch.zeros_like(layer.weight, dtype=torch.bool)
    used[:8, :, 1:6, 1:6] = True  # through 5x5 and then 3x3, whose transforms mix the whole 5x5 centre
    assert torch.count_nonzero(layer.weight.grad[~used]) == 0
    weight = layer.weight.detach().clone().requires_grad_(True)
    five = F.linear(weight[:8, :, 1:6, 1:6].reshape(8, -1), layer.transforms["5"].detach()).view(8, 1, 5, 5)
    three = F.linear(five[:, :, 1:4, 1:4].reshape(8, -1), layer.transforms["3"].detach()).view(8, 1, 3, 3)
    F.conv2d(x, three, padding=1, groups=8).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_norm_is_torchs_batch_norm_of_the_first_channels():
    layer, x = filled(ElasticNorm(16)), images(8)
    plain = torch.nn.BatchNorm2d(8)
    plain.weight.data, plain.bias.data = layer.weight[:8].detach().clone(), layer.bias[:8].detach().clone()
    assert torch.equal(layer.with_batch(x), plain.train()(x))
    mean, var = torch.randn(8), torch.rand(8) + 0.5
    plain.running_mean, plain.running_var = mean.clone(), var.clone()
    assert torch.equal(layer.with_statistics(x, mean, var), plain.eval()(x))
    assert torch.equal(layer.plain(8, mean, var).eval()(x), plain(x))


def test_observed_statistics_are_the_batchs_mean_and_biased_variance():
    layer, x = filled(ElasticNorm(16)), images(8)
    y, mean, var = layer.observed(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(var, x.var((0, 2, 3), correction=0))
    assert torch.equal(y, layer.with_batch(x))


def test_squeeze_excite_scales_channels_by_the_published_formula():
    layer, x = filled(ElasticSqueezeExcite(32)), images(16)
    hidden = se_hidden(16)
    r, e = layer.reduce, layer.expand
    pooled = x.mean((2, 3))
    h = torch.relu(pooled @ r.weight[:hidden, :16, 0, 0].T + r.bias[:hidden])
    gate = F.relu6(h @ e.weight[:16, :hidden, 0, 0].T + e.bias[:16] + 3) / 6
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(("channels", "rounded"), [(3, 8), (12, 16), (16, 16), (19, 24), (28.8, 32), (134.4, 136), (10, 16)])
def test_widths_round_as_published(channels, rounded):
    assert make_divisible(channels) == rounded


def test_initial_weights_have_the_published_variance():
    weight = torch.empty(64, 32, 5, 5)
    he_fan_out(weight, torch.Generator().manual_seed(0))
    assert weight.var().item() == pytest.approx(2 / (64 * 25), rel=0.02)
