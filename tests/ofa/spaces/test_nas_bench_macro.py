"""NAS-Bench-Macro against its published table, and against networks of plain torch layers written by hand."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.draws import Lesson
from ofa.extract import extract
from ofa.genes import Genes
from ofa.memory import peak_bytes
from ofa.norms import calibrate
from ofa.phases import Recipe
from ofa.sorting import sort_channels
from ofa.spaces import get_space
from ofa.supernet import Supernet
from ofa.train import Learner
from search.costs.exact import CostTable
from search.costs.memory import ActivationCost

SPACE = get_space("nas_bench_macro")
KEYS = ["00000000", "22222222", "11111111", "02012100", "20001201"]


@pytest.fixture(scope="module")
def published(reference):
    """The published rows by key."""
    return json.loads((reference / "nas_bench" / "nas_bench_macro_cifar10.json").read_text())


def units(in_channels, out_channels, kernel=1, stride=1, groups=1, act=True):
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), *([nn.ReLU()] if act else [])]


class Block(nn.Sequential):
    def __init__(self, before, after, kernel, ratio, stride):
        mid = before * ratio
        depthwise = units(mid, mid, kernel, stride, mid)
        super().__init__(*units(before, mid), *depthwise, *units(mid, after, act=False))
        self.residual = stride == 1

    def forward(self, x):
        return x + super().forward(x) if self.residual else super().forward(x)


def by_hand(key):
    """The network of a published key, layer by layer."""
    layers, before, digits = [*units(3, 32, 3)], 32, iter(key)
    for count, width in ((2, 64), (3, 128), (3, 256)):
        for place in range(count):
            digit, stride = next(digits), 1 if place else 2
            if digit == "0" and not place:
                layers += units(before, width, stride=2, act=False)
            elif digit != "0":
                layers.append(Block(before, width, *{"1": (3, 3), "2": (5, 6)}[digit], stride))
            before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)]
    return nn.Sequential(*layers, *units(256, 1280), *head).eval()


def trained_like():
    generator = torch.Generator().manual_seed(0)
    net = Supernet(SPACE, 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def images(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class TestPublishedKeys:
    def test_all_networks_have_the_published_params_and_flops(self, published):
        """FLOPs are the multiply-accumulates of convolutions and classifier, without biases, norms and activations."""
        assert len(published) == 3**8
        for key, row in published.items():
            assert cost(SPACE, SPACE.named(key), classes=10) == (row["flops"], row["params"]), key

    def test_keys_of_one_network_are_one_arch_and_all_archs_have_keys(self, published):
        archs = {key: SPACE.named(key) for key in published}
        assert len(set(archs.values())) == SPACE.size == (3 * (1 + 2)) * (3 * (1 + 2 + 4)) ** 2
        assert all(SPACE.contains(arch) for arch in archs.values())
        names = {arch: SPACE.own_name(arch) for arch in archs.values()}
        assert len(set(names.values())) == len(names)
        assert all(archs[name] == arch for arch, name in names.items())

    @pytest.mark.parametrize(
        ("key", "canonical"), [("20001201", "20010210"), ("02012100", "02012100"), ("00002001", "00020010")]
    )
    def test_identities_go_last_but_the_first_layer_of_a_stage_keeps_its_place(self, key, canonical):
        assert SPACE.own_name(SPACE.named(key)) == canonical

    def test_a_key_is_an_arch_of_the_largest_resolution(self):
        assert SPACE.named("02012100") == Arch(32, (2, 3, 1), (), (1, 6, 1, 3, 6, 3, 0, 0))
        assert SPACE.at([16, 24]).named("02012100").resolution == 24

    def test_names_of_archs_remain_names(self):
        assert SPACE.named("r32-d231-e16.136.300") == SPACE.named("02012100")

    @pytest.mark.parametrize("key", ["0201210", "020121000", "02012103", "0" * 300])
    def test_other_digits_are_refused(self, key):
        with pytest.raises(ArchError, match="no key of nas_bench_macro; one has 8 digits from 0 to 2, such as 02012100"):
            SPACE.named(key)

    def test_depth_and_ratio_of_another_count_are_refused(self):
        with pytest.raises(ArchError, match="without kernels and widths it is one of NAS-Bench-Macro, which has 3 and 8"):
            Arch(32, (1, 1, 1), (), (3,) * 9)


class TestChoices:
    def test_only_first_layers_may_be_a_1x1_convolution(self):
        for slot in range(8):
            arch = replace(SPACE.largest(), expand=tuple(1 if i == slot else 6 for i in range(8)))
            assert SPACE.contains(arch) == (slot in (0, 2, 5))

    def test_no_stage_is_deeper_than_it_has_layers(self):
        assert SPACE.only(depths=(3,)).largest().depth == (2, 3, 3)
        assert {SPACE.sample(random.Random(i)).depth[0] for i in range(50)} == {1, 2}

    def test_ratios_without_blocks_leave_the_shallowest_networks(self):
        smaller = SPACE.only(depths=(1,), expands=(1,))
        assert [SPACE.own_name(smaller.sample(random.Random(i))) for i in range(3)] == ["00000000"] * 3
        assert Supernet(smaller, 10).graph(smaller.smallest()).outputs == ("classifier",)

    def test_without_1x1_convolutions_there_are_no_weights_of_them(self):
        assert not any("conv" in name for name in Supernet(SPACE.only(expands=(3, 6)), 10).parts)

    def test_kernel_size_and_expand_ratio_are_one_choice(self):
        blocks = [node.part for node in SPACE.graph(SPACE.named("12121212")).nodes if "block" in node.name]
        assert [(part.kernel, part.mid // part.in_channels) for part in blocks] == [(3, 3), (5, 6)] * 4

    def test_the_table_of_costs_is_exact(self):
        for space in (SPACE, SPACE.only(depths=(2,), expands=(1, 3))):
            genes = Genes(space)
            rows = genes.random(200, np.random.default_rng(0))
            macs, params = CostTable(space, 10)(rows)
            assert list(zip(macs, params, strict=True)) == [cost(space, arch, 10) for arch in genes.decode(rows)]
            peaks = [peak_bytes(space.graph(arch, (), 10), 32) for arch in genes.decode(rows[:20])]
            assert ActivationCost(10)(space)(rows[:20]).tolist() == peaks


class TestNetworks:
    @pytest.mark.parametrize("key", KEYS)
    def test_a_sub_network_is_the_network_written_by_hand(self, key):
        net, arch, x, hand = trained_like(), SPACE.named(key), images(2), by_hand(key)
        plain = extract(net, arch, calibrate(net, arch, [x]))
        hand.load_state_dict(dict(zip(hand.state_dict(), plain.state_dict().values(), strict=True)))
        with torch.no_grad():
            torch.testing.assert_close(hand(x), plain(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("key", KEYS)
    def test_costs_are_what_torch_counts_of_the_network_written_by_hand(self, key):
        hand = by_hand(key)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            hand(images(1))
        found = cost(SPACE, SPACE.named(key), 10)
        assert (found.macs, found.params) == (counter.get_total_flops() // 2, sum(p.numel() for p in hand.parameters()))

    def test_all_networks_are_trained_with_the_weights_they_share(self):
        """One step of two networks whose first layers differ changes the weights of both kinds of first layers."""
        net = trained_like()
        assert len(net.separate) == 1
        learner = Learner(net, Recipe(0.9, 0.0, label_smoothing=0.0, clip_norm=5.0), average=lambda gradient: None)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        lessons = [Lesson(SPACE.named(key)) for key in ("02012100", "22212111")]
        learner.step(images(8), torch.arange(8), lessons, 0.1)
        changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        unused = {name for name in before if "stage2_block0_conv" in name}
        assert unused and changed.isdisjoint(unused)
        assert {"parts.stage0_block0_conv.conv.weight", "parts.stage0_block0.narrow.weight", "classifier.weight"} <= changed

    @pytest.mark.parametrize("trained", [(6,), (1, 6)])
    def test_sorting_channels_keeps_the_function_of_networks_of_the_largest_blocks(self, trained):
        net, x = trained_like().double(), images(2).double()
        archs = [SPACE.named(key) for key in ("22222222", "02002022", "00000000")]
        before = [net(x, arch, calibrate(net, arch, [x])) for arch in archs]
        weight = net.part("stage2_block1").narrow.weight.clone()
        sort_channels(net, trained)
        assert not torch.equal(weight, net.part("stage2_block1").narrow.weight)
        for arch, logits in zip(archs, before, strict=True):
            torch.testing.assert_close(net(x, arch, calibrate(net, arch, [x])), logits, rtol=1e-8, atol=1e-9)
