import torch

from ofa.blocks import block
from ofa.norms import calibrate
from ofa.sorting import sort_channels
from ofa.spaces import get_space
from ofa.supernet import Supernet


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = Supernet(get_space("digits"), 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return net.eval()


def images():
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_sorting_keeps_the_largest_networks_function():
    net, x = network(), images()
    largest = net.space.largest()
    statistics = calibrate(net, largest, [x])
    before = net(x, largest, statistics)
    weights = net.stages[0][0].narrow.weight.clone()
    sort_channels(net, (4,))
    assert not torch.equal(weights, net.stages[0][0].narrow.weight)  # something was sorted
    after = net(x, largest, calibrate(net, largest, [x]))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)  # sums in another order: float32's last bits


def test_channels_descend_by_the_l1_norm_of_what_consumes_them():
    net = network()
    sort_channels(net, (4,))
    for layers in net.stages:
        for layer in layers:
            importance = layer.narrow.weight.abs().sum((0, 2, 3))
            assert (importance.diff() <= 0).all()


def test_a_trained_width_keeps_its_set_of_channels():
    """So every network that only uses trained widths computes the same after sorting for a narrower one."""
    net, x = network(), images()
    space = net.space
    arch = space.uniform(32, 3, 7, 2)
    statistics = calibrate(net, arch, [x])
    before = net(x, arch, statistics)
    sort_channels(net, (2, 4))
    torch.testing.assert_close(net(x, arch, calibrate(net, arch, [x])), before, rtol=1e-5, atol=1e-6)
    bound = block(space, 2, 1, 7, 2).mid
    importance = net.stages[2][1].narrow.weight.abs().sum((0, 2, 3))
    assert (importance[:bound].diff() <= 0).all()
    assert (importance[bound:].diff() <= 0).all()
    assert importance[bound] > importance[bound - 1]  # the groups were not mixed


def test_sorting_twice_changes_nothing_more():
    net = network()
    sort_channels(net, (4,))
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sort_channels(net, (4,))
    assert all(torch.equal(once[name], tensor) for name, tensor in net.state_dict().items())
