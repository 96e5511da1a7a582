"""Spaces of two width multipliers: each network is that of its own space, and they share no weights."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.draws import Lesson
from ofa.extract import extract
from ofa.genes import Genes
from ofa.norms import calibrate
from ofa.phases import Recipe
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.train import Learner
from search.costs.exact import CostTable
from search.predict.predictor import FEATURES

PAIRS = {
    "ofa_mbv3_w1.0_w1.2": ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2"),
    "ofav2_mbv3_ee_dp_w0.1_w0.25_32px": ("ofav2_mbv3_ee_dp_w0.1_32px", "ofav2_mbv3_ee_dp_w0.25_32px"),
}
SMALL = "ofav2_mbv3_ee_dp_w0.1_w0.25_32px"


def samples(space, count, seed=0):
    rng = random.Random(seed)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize("name", PAIRS)
class TestASpaceOfTwoWidths:
    def test_has_the_sub_networks_of_both(self, name):
        space, single = get_space(name), [get_space(part) for part in PAIRS[name]]
        assert space.size == sum(one.size for one in single)
        assert {arch.width for arch in samples(space, 20)} == {(0,), (1,)}
        for arch in samples(space, 5):
            assert space.contains(arch) and Arch.from_key(arch.key) == arch == Arch.from_json(arch.to_json())
            assert single[arch.width[0]].contains(replace(arch, width=()))

    def test_has_their_costs_by_arch_and_by_table(self, name):
        space, single = get_space(name), [get_space(part) for part in PAIRS[name]]
        for arch in samples(space, 5):
            assert cost(space, arch, 100) == cost(single[arch.width[0]], replace(arch, width=()), 100)
        for here in (space, space.only(widths=[0])):
            genes = Genes(here)
            rows = genes.random(100, np.random.default_rng(0))
            macs, params = CostTable(here, 100)(rows)
            assert list(zip(macs, params, strict=True)) == [cost(here, arch, 100) for arch in genes.decode(rows)]

    def test_has_features_that_tell_the_widths_apart(self, name):
        space = get_space(name)
        genes = Genes(space)
        rows = genes.encode([replace(space.largest(), width=(index,)) for index in (0, 1)])
        for features in FEATURES.values():
            one, two = features(genes, rows)
            assert not np.array_equal(one, two)


def trained_like():
    generator = torch.Generator().manual_seed(0)
    net = Supernet(get_space(SMALL), 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def test_a_network_computes_what_the_supernet_of_its_width_computes_and_what_is_extracted_to_the_last_bit():
    net = trained_like()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for index, name in enumerate(PAIRS[SMALL]):
        single = Supernet(get_space(name), 10)
        prefix = f"net{index}_"
        own = {key.replace(f"parts.{prefix}", "parts.").removeprefix(prefix): value
               for key, value in net.state_dict().items() if prefix in key}  # fmt: skip
        single.load_state_dict(own)
        arch = replace(net.space.largest(), width=(index,), resolution=32)
        statistics = calibrate(net, arch, [images])
        with torch.inference_mode():
            logits = net(images, arch, statistics)
            inner = replace(arch, width=())
            assert torch.equal(logits, single.eval()(images, inner, calibrate(single, inner, [images])))
            assert torch.equal(logits, extract(net, arch, statistics).eval()(images))


def test_the_optimiser_leaves_the_network_alone_that_no_sub_network_of_the_step_belongs_to():
    net = trained_like()
    learner = Learner(net, Recipe(0.9, 1e-2, label_smoothing=0.0, clip_norm=5.0), average=lambda gradient: None)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8)
    both = [Lesson(replace(net.space.largest(), width=(index,), resolution=32)) for index in (0, 1)]
    learner.step(images, labels, both, 0.1)  # both have momentum now
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    learner.step(images, labels, both[:1], 0.1)
    changed = {name for name, tensor in net.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed and all("net0_" in name for name in changed)
    learner.step(images, labels, both[1:], 0.1)
    changed = {name for name, tensor in net.named_parameters() if not torch.equal(tensor, before[name])}
    assert any("net1_" in name for name in changed)


def test_channels_of_both_networks_are_sorted_and_the_largest_compute_the_same():
    net = trained_like()
    learner = Learner(net, Recipe(0.9, 0.0, label_smoothing=0.0, clip_norm=5.0), average=lambda gradient: None)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    archs = [replace(net.space.largest(), width=(index,), resolution=32) for index in (0, 1)]
    with torch.no_grad():
        before = [net(images, arch, calibrate(net, arch, [images])) for arch in archs]
        learner.sort_channels((6.0,))
        for arch, logits in zip(archs, before, strict=True):
            assert torch.allclose(net(images, arch, calibrate(net, arch, [images])), logits, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["ofa_mbv3_w1.2_w1.0", "ofa_mbv3_w1.0_w1.0", "ofa_mbv3_w1.0_w1.2_norm", "ofav2_mbv3_ee_w1.0_w1.2"]
)
def test_a_name_of_no_space_is_one_line(name):
    with pytest.raises(ArchError, match=r"no space is called"):
        get_space(name)
