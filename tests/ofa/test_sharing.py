"""What sub-networks have in common, against sets of layers written out."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cluster.config import ConfigError
from ensemble.errors import SelectionError
from ensemble.rule import RULES
from ensemble.score import SubsetScorer
from ensemble.select import select
from jobs.config import load
from ofa.arch import Arch
from ofa.cost import cost
from ofa.norms import calibrate
from ofa.sharing import pieces
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("ofav2_mbv3_ee_dp_w0.25_32px").only(resolutions=(20, 24))


def family(seed, count=3):
    """Networks with some of their exits, and others that begin in the same way."""
    rng = random.Random(seed)
    found: list[Arch] = []
    for _ in range(count):
        whole = SPACE.only(exits=(5,)).sample(rng)
        found += [replace(whole, exit=after) for after in rng.sample(range(1, 6), 3)]
        tail = list(whole.expand)
        tail[16:] = [4 if value else 0 for value in tail[16:]]
        found.append(replace(whole, expand=tuple(tail)))
    return list(dict.fromkeys(found))


def by_hand(archs, field="macs"):
    """The cost of the union: a block is the same where all genes before it are, a head where those of its stages are."""
    union = {}
    for arch in archs:
        graph = SPACE.graph(arch, (), 10)
        genes = list(zip(arch.level, arch.kernel, arch.expand, strict=True))
        for node, size in zip(graph.nodes, graph.sizes(arch.resolution), strict=True):
            before = ()
            if node.name.startswith("stage"):
                stage, block = (int(digit) for digit in re.match(r"stage(\d)_block(\d)", node.name).groups())
                before = (arch.depth[:stage], *genes[: 4 * stage + block])
            elif node.name.startswith("exit"):
                before = (arch.depth[: int(node.name[4])], *genes[: 4 * int(node.name[4])])
            union[arch.resolution, node.name, node.part, before] = getattr(node.part.cost(size), field)
    return sum(union.values())


@pytest.mark.parametrize("field", ["macs", "params"])
def test_the_cost_of_a_subset_is_that_of_the_union_of_its_layers(field):
    archs = family(0, count=2)
    rule = RULES["shared"].of(pieces(SPACE, archs, 10, field))
    rng = np.random.default_rng(0)
    masks = rng.random((30, len(archs))) < 0.4
    singles = np.array([getattr(cost(SPACE, arch, 10), field) for arch in archs], dtype=np.float64)
    for mask, found in zip(masks, rule.costs(masks, singles), strict=True):
        assert found == by_hand([arch for arch, kept in zip(archs, mask, strict=True) if kept], field)
    assert np.array_equal(rule.costs(np.eye(len(archs), dtype=bool), singles), singles)


def test_exits_of_one_network_pay_its_layers_once_and_every_head():
    whole = SPACE.uniform(24, 5, 2, 7, 5, 3)
    archs = [replace(whole, exit=after) for after in (1, 3, 5)]
    rule = RULES["shared"].of(pieces(SPACE, archs, 10))
    [found] = rule.costs(np.ones((1, 3), dtype=bool), np.zeros(3))
    assert found == cost(SPACE, whole, 10, (1, 3, 5)).macs


def test_other_resolutions_share_nothing():
    archs = [replace(SPACE.largest(), resolution=side) for side in (20, 24)]
    rule = RULES["shared"].of(pieces(SPACE, archs, 10))
    [found] = rule.costs(np.ones((1, 2), dtype=bool), np.zeros(2))
    assert found == sum(cost(SPACE, arch, 10).macs for arch in archs)


def test_shared_layers_compute_the_same():
    """The statistics and outputs of a layer that two networks share are equal to the last bit, so one is enough."""
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    whole = SPACE.uniform(20, 5, 3, 7, 5, 3)
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    early, late = (calibrate(net, replace(whole, exit=after), [images]) for after in (2, 5))
    common = set(early) & set(late)
    assert len(common) > 20
    for name in common:
        assert all(torch.equal(one, other) for one, other in zip(early[name], late[name], strict=True))


def test_a_member_never_lowers_the_cost_and_changes_are_costs():
    archs = family(1)
    rule = RULES["shared"].of(pieces(SPACE, archs, 10))
    masks = np.random.default_rng(1).random((20, len(archs))) < 0.3
    costs = rule.costs(masks, np.zeros(len(archs)))
    changed = rule.changed(masks, np.zeros(len(archs)))
    for s, mask in enumerate(masks):
        for m in range(len(archs)):
            other = mask.copy()
            other[m] = ~other[m]
            assert changed[s, m] == rule.costs(other[None], np.zeros(len(archs)))[0]
            assert (changed[s, m] <= costs[s]) if mask[m] else (changed[s, m] >= costs[s])


@pytest.mark.parametrize("algorithm", ["exhaustive", "default"])
def test_the_chosen_front_is_that_of_all_subsets_by_brute_force(algorithm):
    archs = family(2, count=2)[:7]
    rng = np.random.default_rng(3)
    images, classes = 60, 5
    labels = rng.integers(0, classes, images)
    probs = rng.dirichlet(np.ones(classes), (len(archs), images))
    probs[:, np.arange(images), labels] += 0.25
    probs /= probs.sum(axis=2, keepdims=True)
    order = np.argsort(-probs, axis=2, kind="stable")
    scorer = SubsetScorer(order, np.take_along_axis(probs, order, axis=2), labels, threads=1)
    singles = np.array([cost(SPACE, arch, 10).macs for arch in archs], dtype=np.float64)
    found = select(scorer, singles, "shared", algorithm, pieces=pieces(SPACE, archs, 10))
    every = []
    for number in range(1, 2 ** len(archs)):
        mask = [bool(number >> m & 1) for m in range(len(archs))]
        right = int((probs[mask].sum(axis=0).argmax(axis=1) == labels).sum())
        every.append((by_hand([arch for arch, kept in zip(archs, mask, strict=True) if kept]), right))
    front, best = [], -1
    for spent, right in sorted(every, key=lambda row: (row[0], -row[1])):
        if right > best:
            front.append((spent, right))
            best = right
    assert [(chosen.cost, chosen.correct) for chosen in found] == front


def test_shared_without_networks_and_with_another_unit_is_one_line():
    scorer = SubsetScorer(np.zeros((1, 2, 1), dtype=int), np.ones((1, 2, 1)), np.zeros(2, dtype=int), threads=1)
    with pytest.raises(SelectionError, match="'shared' needs the members' networks"):
        select(scorer, np.ones(1), "shared")
    with pytest.raises(ConfigError, match=r"ensemble\.unit is"):
        load("configs/digits.toml", ['ensemble.costs=["shared"]', "ensemble.unit=latency_ms"])
