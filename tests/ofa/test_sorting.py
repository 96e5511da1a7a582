import pytest
import torch

from ofa.layers.bottleneck import ElasticBottleneck
from ofa.layers.inverted import ElasticInverted
from ofa.norms import calibrate
from ofa.sorting import sort_channels
from ofa.spaces import get_space
from ofa.supernet import Supernet


def network(name="digits", seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = Supernet(get_space(name), 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return net.eval()


def images():
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def consumer(net, name):
    """The weights that consume the middle channels of a block."""
    layer = net.part(name)
    return layer.narrow.weight if isinstance(layer, ElasticInverted) else layer.expand.weight


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w0.5_32px", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_sorting_keeps_the_largest_networks_function(name):
    """In float64, where sums in another order do not matter."""
    net, x = network(name).double(), images().double()
    largest = net.space.largest()
    statistics = calibrate(net, largest, [x])
    before = net(x, largest, statistics)
    weights = consumer(net, "stage0_block0").clone()
    sort_channels(net, net.space.expands[-1:])
    assert not torch.equal(weights, consumer(net, "stage0_block0"))  # something was sorted
    after = net(x, largest, calibrate(net, largest, [x]))
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["digits", "ofa_resnet50"])
def test_channels_descend_by_the_l1_norm_of_what_consumes_them(name):
    net = network(name)
    sort_channels(net, net.space.expands[-1:])
    blocks = [part for part, layer in net.parts.items() if isinstance(layer, ElasticInverted | ElasticBottleneck)]
    for part in blocks:
        if part != "first":
            assert (consumer(net, part).abs().sum((0, 2, 3)).diff() <= 0).all()
        if name == "ofa_resnet50":
            assert (net.part(part).conv.weight.abs().sum((0, 2, 3)).diff() <= 0).all()


def test_a_trained_width_keeps_its_set_of_channels():
    """So every network that only uses trained widths computes the same after sorting for a narrower one."""
    net, x = network(), images()
    space = net.space
    arch = space.uniform(32, 3, 7, 2)
    statistics = calibrate(net, arch, [x])
    before = net(x, arch, statistics)
    sort_channels(net, (2, 4))
    torch.testing.assert_close(net(x, arch, calibrate(net, arch, [x])), before, rtol=1e-5, atol=1e-6)
    bound = space.block(2, 1, 7, 2).mid
    importance = consumer(net, "stage2_block1").abs().sum((0, 2, 3))
    assert (importance[:bound].diff() <= 0).all()
    assert (importance[bound:].diff() <= 0).all()
    assert importance[bound] > importance[bound - 1]  # the groups were not mixed


def test_sorting_twice_changes_nothing_more():
    net = network()
    sort_channels(net, (4,))
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sort_channels(net, (4,))
    assert all(torch.equal(once[name], tensor) for name, tensor in net.state_dict().items())
