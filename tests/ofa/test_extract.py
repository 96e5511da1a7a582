"""An extracted network is the sub-network, to the last bit."""

import random
from dataclasses import replace

import pytest
import torch

from ofa.arch import ArchError
from ofa.extract import extract
from ofa.norms import calibrate, store
from ofa.spaces import get_space
from ofa.supernet import Supernet


def trained_like(name, seed=0):
    """A supernet none of whose weights are special: transforms that are no identities, norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    net = Supernet(get_space(name), 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def images(count, resolution, seed=1):
    x = torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def one_gene_at_each_value(space):
    """The largest arch with each single gene set to each of its values."""
    largest = space.largest()
    yield from (replace(largest, resolution=r) for r in space.resolutions)
    for name, choices in (("depth", space.depths), ("kernel", space.kernels), ("expand", space.expands)):
        for i, _ in enumerate(getattr(largest, name)):
            for value in choices:
                genes = list(getattr(largest, name))
                genes[i] = value
                yield replace(largest, **{name: tuple(genes)})


def agree(net, arch, x):
    statistics = calibrate(net, arch, [x])
    with torch.no_grad():
        assert torch.equal(net(x, arch, statistics), extract(net, arch, statistics)(x)), arch.key
        assert torch.equal(net(x, arch), extract(net, arch)(x)), arch.key


def test_every_gene_at_each_of_its_values():
    net = trained_like("digits")
    archs = list(one_gene_at_each_value(net.space))
    assert len(archs) == 3 + 3 * 3 + 9 * 3 + 9 * 3
    for arch in archs:
        agree(net, arch, images(8, arch.resolution))


@pytest.mark.parametrize(("name", "count", "batch"), [("digits", 50, 8), ("ofa_mbv3_w1.0", 50, 2)])
def test_random_archs(name, count, batch):
    net, rng = trained_like(name), random.Random(0)
    for _ in range(count):
        arch = net.space.sample(rng)
        if name != "digits":
            arch = replace(arch, resolution=128)  # the largest resolutions only take longer
        agree(net, arch, images(batch, arch.resolution))


def test_gradients_of_the_supernet_are_those_of_the_extracted_network():
    net, rng = trained_like("digits"), random.Random(3)
    arch = net.space.sample(rng)
    x = images(8, arch.resolution)
    plain = extract(net, arch)
    net.zero_grad()
    net(x, arch).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(net.classifier.weight.grad, plain.classifier.weight.grad)
    torch.testing.assert_close(net.stem.weight.grad, plain.features.stem.weight.grad)
    first = plain.features.stage0_block0.layers
    width = first.widen.out_channels
    torch.testing.assert_close(net.stages[0][0].widen.weight.grad[:width], first.widen.weight.grad)
    torch.testing.assert_close(net.stages[0][0].narrow.weight.grad[:, :width], first.narrow.weight.grad)


def test_the_extracted_network_has_copies():
    net = trained_like("digits")
    arch = net.space.smallest()
    x = images(4, arch.resolution)
    plain = extract(net, arch)
    before = plain(x)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    store(net, calibrate(net, arch, [x]))
    assert torch.equal(plain(x), before)


def test_an_arch_of_another_space_is_refused():
    with pytest.raises(ArchError, match="not in the space digits"):
        extract(trained_like("digits"), get_space("ofa_mbv3_w1.0").smallest())
