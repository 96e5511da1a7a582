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
    for gene, choices in zip(space.forest.genes, space.choices, strict=True):
        for value in choices if gene.field != "resolution" else ():
            genes = list(getattr(largest, gene.field))
            genes[gene.place] = value
            yield replace(largest, **{gene.field: tuple(genes)})


def agree(net, arch, x):
    statistics = calibrate(net, arch, [x])
    with torch.no_grad():
        assert torch.equal(net(x, arch, statistics), extract(net, arch, statistics)(x)), arch.key
        assert torch.equal(net(x, arch), extract(net, arch)(x)), arch.key


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits", 3 + 3 * 3 + 9 * 3 + 9 * 3),
        pytest.param("ofa_mbv3_w0.5_32px", 4 + 5 * 3 + 20 * 3 + 20 * 3, marks=pytest.mark.slow),
        pytest.param("ofa_resnet50", 8 + 2 + 4 * 3 + 18 * 3 + 6 * 3, marks=pytest.mark.slow),
    ],
)
def test_every_gene_at_each_of_its_values(name, count):
    net = trained_like(name)
    archs = list(one_gene_at_each_value(net.space))
    assert len(archs) == count
    for arch in archs:
        agree(net, arch, images(4, min(arch.resolution, 48)))


SPACES = [
    "digits",
    "ofa_mbv3_w1.0",
    "ofa_mbv3_w1.2",
    "ofa_mbv3_w0.5_32px",
    "ofa_mbv3_w0.35_64px",
    "ofa_proxyless_w1.3",
    "ofa_resnet50",
    "nas_bench_macro",
]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("archs", [range(10), pytest.param(range(10, 50), marks=pytest.mark.slow)])
def test_fifty_random_archs(name, archs):
    """At up to 48 pixels: larger images only take longer."""
    net = trained_like(name)
    for i in archs:
        arch = net.space.sample(random.Random(i))
        agree(net, arch, images(2, min(arch.resolution, 48)))


@pytest.mark.parametrize("name", ["ofa_mbv3_w0.5_32px", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_gradients_of_any_space_are_those_of_the_extracted_network(name):
    """Of what every network has: the stem and the classifier feel every layer between them."""
    net = trained_like(name)
    for arch in (net.space.largest(), net.space.sample(random.Random(1))):
        x = images(2, min(arch.resolution, 64))
        plain = extract(net, arch)
        net.zero_grad()
        net(x, arch).square().sum().backward()
        plain(x).square().sum().backward()
        stem, features = plain.features.stem.layers.conv.weight.grad, plain.classifier.weight.grad
        torch.testing.assert_close(
            net.part("stem").conv.weight.grad[: len(stem)], stem, rtol=1e-3, atol=1e-4 * stem.abs().max()
        )
        torch.testing.assert_close(net.classifier.weight.grad[:, : features.shape[1]], features)


def test_gradients_of_the_supernet_are_those_of_the_extracted_network():
    net, rng = trained_like("digits"), random.Random(3)
    arch = net.space.sample(rng)
    x = images(8, arch.resolution)
    plain = extract(net, arch)
    net.zero_grad()
    net(x, arch).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(net.classifier.weight.grad, plain.classifier.weight.grad)
    torch.testing.assert_close(net.part("stem").conv.weight.grad, plain.features.stem.layers.conv.weight.grad)
    first = plain.features.stage0_block0.layers
    width = first.widen.out_channels
    torch.testing.assert_close(net.part("stage0_block0").widen.weight.grad[:width], first.widen.weight.grad)
    torch.testing.assert_close(net.part("stage0_block0").narrow.weight.grad[:, :width], first.narrow.weight.grad)


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
