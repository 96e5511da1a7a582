"""Costs against published networks and against torch's own counters."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ofa.arch import Arch
from ofa.cost import cost
from ofa.extract import extract
from ofa.spaces import get_space
from ofa.supernet import Supernet


def published(path):
    """(space, arch, classes, MACs, params) of the networks in a file of released ones."""
    for net in json.loads(path.read_text())["nets"].values():
        kernel, expand = ([value or 0 for value in net[name]] for name in ("ks", "e"))
        arch = Arch(net["image_size"], net["d"], kernel, expand)
        yield get_space(f"{net['space']}_w{net['width_mult']}"), arch, net.get("n_classes", 1000), net["macs"], net["params"]


@pytest.mark.parametrize(("name", "count"), [("zoo_subnets", 50), ("nat_subnets", 14)])
def test_published_networks_cost_what_was_published(reference, name, count):
    nets = list(published(reference / "ofa" / f"{name}.json"))
    assert len(nets) == count
    for space, arch, classes, macs, params in nets:
        assert cost(space, arch, classes) == (macs, params), arch.key


def profiled(reference):
    """(space, arch, row) of the networks that OFA's own code profiled."""
    for row in json.loads((reference / "ofa" / "profiled_subnets.json").read_text())["cases"]:
        if "d" in row and row["space"] == "ofa_resnet50":
            yield get_space("ofa_resnet50"), Arch(row["r"], row["d"], (), row["e"], row["w"]), row
        elif "d" in row:
            depth = [*row["d"][:5], *[1] * len(row["d"][5:])]  # OFA's code takes any depth for the stage of one block
            yield get_space(f"{row['space']}_w{row['width_mult']}"), Arch(row["r"], depth, row["ks"], row["e"]), row


def added_in_float32(network, resolution):
    """MACs as OFA's profiler adds them: layer by layer in float32, which loses a few."""
    macs = {}

    def count(module, _, output):
        kernel = (
            module.kernel_size[0] ** 2 * module.in_channels // module.groups
            if hasattr(module, "groups")
            else module.in_features
        )
        macs[module] = output.numel() * kernel

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    with torch.no_grad():
        network(torch.zeros(1, 3, resolution, resolution))
    for hook in hooks:
        hook.remove()
    total = np.float32(0)
    for module in network.modules():
        total += np.float32(macs.get(module, 0))
    return int(total)


def test_profiled_networks_cost_what_ofas_own_code_counts(reference):
    """Exactly; where the file has only the float32 sum, a float32 sum of our layers is that number."""
    nets, rounded = {}, 0
    for space, arch, row in profiled(reference):
        found = cost(space, arch)
        assert found.params == row["params"]
        if "macs" in row:
            assert found.macs == row["macs"]
        elif found.macs != row["macs_profiled"]:
            net = nets.setdefault(space.name, Supernet(space, 1000, torch.Generator().manual_seed(0)).eval())
            assert added_in_float32(extract(net, arch), arch.resolution) == row["macs_profiled"]
            rounded += 1
    assert rounded == 3


def test_supernets_have_the_published_sizes(reference):
    """Without the kernel transforms, 706 values a block, in the published 7,664,760; with them 7,678,880."""
    cases = json.loads((reference / "ofa" / "profiled_subnets.json").read_text())["cases"]
    sizes = [row for row in cases if "supernet_params" in row]
    assert len(sizes) == 4
    for row in sizes:
        name = row["space"] if row["space"] == "ofa_resnet50" else f"{row['space']}_w{row['width_mult']}"
        net = Supernet(get_space(name), 1000)
        assert sum(p.numel() for p in net.parameters()) == row["supernet_params"]


def test_all_measured_imagenet_networks_cost_what_was_published(reference):
    space = get_space("ofa_mbv3_w1.0")
    with open(reference / "imagenet_measured" / "ofa_mbv3_w1.0_r224.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2162
    for row in rows:
        arch = Arch(224, *([int(c) for c in row[name]] for name in ("d", "ks", "e")))
        assert cost(space, arch) == (int(row["macs"]), int(row["params"])), arch.key


@pytest.mark.parametrize(
    "name", ["digits", "ofa_mbv3_w1.0", "ofa_mbv3_w0.5_32px", "ofa_mbv3_w0.35_64px", "ofa_proxyless_w1.3", "ofa_resnet50"]
)
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
