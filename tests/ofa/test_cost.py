"""Costs against published networks and against torch's own counters."""

import csv
import json
import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ofa.arch import Arch
from ofa.cost import cost
from ofa.extract import extract
from ofa.spaces import get_space
from ofa.supernet import Supernet


def published(path):
    """(space, arch, classes, MACs, params) of the MobileNetV3 networks in a file of released ones."""
    for net in json.loads(path.read_text())["nets"].values():
        if net["space"] == "ofa_mbv3":
            kernel, expand = ([value or 0 for value in net[name]] for name in ("ks", "e"))
            arch = Arch(net["image_size"], net["d"], kernel, expand)
            yield get_space(f"ofa_mbv3_w{net['width_mult']}"), arch, net.get("n_classes", 1000), net["macs"], net["params"]


@pytest.mark.parametrize(("name", "count"), [("zoo_subnets", 34), ("nat_subnets", 14)])
def test_published_networks_cost_what_was_published(reference, name, count):
    nets = list(published(reference / "ofa" / f"{name}.json"))
    assert len(nets) == count
    for space, arch, classes, macs, params in nets:
        assert cost(space, arch, classes) == (macs, params), arch.key


def test_all_measured_imagenet_networks_cost_what_was_published(reference):
    space = get_space("ofa_mbv3_w1.0")
    with open(reference / "imagenet_measured" / "ofa_mbv3_w1.0_r224.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2162
    for row in rows:
        arch = Arch(224, *([int(c) for c in row[name]] for name in ("d", "ks", "e")))
        assert cost(space, arch) == (int(row["macs"]), int(row["params"])), arch.key


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.0", "ofa_mbv3_w1.2"])
def test_costs_are_what_torch_counts_of_the_extracted_network(name):
    space, rng = get_space(name), random.Random(0)
    net = Supernet(space, 10, torch.Generator().manual_seed(0)).eval()
    for arch in [space.smallest(), *(space.sample(rng) for _ in range(5 if name == "digits" else 1))]:
        plain = extract(net, arch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            plain(torch.zeros(1, 3, arch.resolution, arch.resolution))
        assert cost(space, arch, 10).macs == counter.get_total_flops() // 2
        assert cost(space, arch, 10).params == sum(p.numel() for p in plain.parameters())


def test_the_largest_published_networks():
    """566.17 M and 843.10 M MACs at 224 pixels; 7,664,760 and 10,701,632 params (the released supernets)."""
    assert cost(get_space("ofa_mbv3_w1.0"), get_space("ofa_mbv3_w1.0").largest()) == (566170656, 7664760)
    wide = get_space("ofa_mbv3_w1.2")
    assert cost(wide, wide.largest()).params == 10701632
    assert round(cost(wide, wide.largest()).macs / 1e6, 2) == 843.10
