import random

import pytest
import torch

from ofa.norms import by_batch, by_buffers, calibrate, store
from ofa.parts.bottleneck import Bottleneck
from ofa.parts.inverted import Inverted
from ofa.spaces import get_space
from ofa.supernet import Supernet


@pytest.fixture
def net():
    return Supernet(get_space("digits"), 10, torch.Generator().manual_seed(0))


def images(count=8, resolution=24):
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def test_one_seed_gives_one_network():
    one, same, other = (Supernet(get_space("digits"), 10, torch.Generator().manual_seed(s)).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["parts.stem.conv.weight"], other["parts.stem.conv.weight"])


def test_creating_a_network_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    Supernet(get_space("digits"), 10, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_call_remembers_nothing(net):
    """No buffer, weight or later output changes because another sub-network ran."""
    rng, x = random.Random(0), images()
    arch = net.space.smallest()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = net.train()(x, arch)
    for _ in range(5):
        net(x, net.space.sample(rng))
    assert torch.equal(net(x, arch), first)
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_training_mode_uses_the_batch_and_evaluation_mode_what_is_stored(net):
    arch, x = net.space.largest(), images()
    assert torch.equal(net.train()(x, arch), net.run(x, arch, by_batch))
    assert torch.equal(net.eval()(x, arch), net.run(x, arch, by_buffers))
    assert not torch.equal(net(x, arch), net.train()(x, arch))


def test_calibration_on_one_batch_gives_the_batchs_own_outputs(net):
    """Statistics of the very batch that is then evaluated normalise it as training would."""
    rng, x = random.Random(1), images(16)
    for _ in range(5):
        arch = net.space.sample(rng)
        statistics = calibrate(net, arch, [x])
        torch.testing.assert_close(net.eval()(x, arch, statistics), net.run(x, arch, by_batch), rtol=1e-4, atol=1e-5)


def test_calibration_averages_batches_by_their_images(net):
    arch, x = net.space.largest(), images(24)
    both = calibrate(net, arch, [x[:16], x[16:]])
    one, other = calibrate(net, arch, [x[:16]]), calibrate(net, arch, [x[16:]])
    for name, (mean, var) in both.items():
        torch.testing.assert_close(mean, (2 * one[name][0] + other[name][0]) / 3)
        torch.testing.assert_close(var, (2 * one[name][1] + other[name][1]) / 3)


def test_calibration_leaves_the_network_alone(net):
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calibrate(net, net.space.smallest(), [images()])
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


def test_stored_statistics_are_used_in_evaluation_mode(net):
    arch, x = net.space.largest(), images()
    statistics = calibrate(net, arch, [x])
    wanted = net.eval()(x, arch, statistics)
    store(net, statistics)
    assert torch.equal(net(x, arch), wanted)


def test_every_norm_of_an_arch_is_calibrated_at_its_width(net):
    arch = net.space.smallest()
    statistics = calibrate(net, arch, [images()])
    assert set(statistics) <= set(net.norm_names.values())
    assert statistics["parts.stage1_block0.depth_norm"][0].shape == (8,)
    assert "parts.stage1_block1.depth_norm" not in statistics


def test_every_weight_gets_a_gradient_from_the_largest_network_but_the_transforms(net):
    net.train()(images(resolution=32), net.space.largest()).square().sum().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None}
    assert without == {name for name, _ in net.named_parameters() if "transforms" in name}


@pytest.mark.parametrize("name", ["digits", "ofa_resnet50", "ofav2_mbv3_se_dp_w0.25_32px"])
def test_residual_blocks_with_a_zero_last_gamma_start_as_their_shortcuts(name):
    """The other weights are those of a network without it, and the last norms of all residual blocks are 0."""
    space = get_space(name)
    space = space.at([max(32, space.stride)])
    plain, zero = (
        Supernet(space, 10, torch.Generator().manual_seed(1), zero_last_gamma=value).state_dict() for value in (False, True)
    )
    differ = {key for key in plain if not torch.equal(plain[key], zero[key])}
    parts = {node.name: node.part for node in space.graph(space.largest()).nodes}
    residual = {
        n for n, part in parts.items() if isinstance(part, Bottleneck) or (isinstance(part, Inverted) and part.residual)
    }
    norm = "expand_norm" if name == "ofa_resnet50" else "narrow_norm"
    assert differ == {f"parts.{block}.{norm}.weight" for block in residual} and differ
    assert all(not zero[key].any() for key in differ)
