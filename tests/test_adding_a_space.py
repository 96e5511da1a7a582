"""A part with its layer and cost, genes with parents, and a space of them, added from this file alone."""

import itertools
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import ofa.spaces
from cluster.config import ConfigError
from jobs.config import load
from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.extract import extract
from ofa.genes import Genes
from ofa.graph import IMAGES, Cost, Graph, Node
from ofa.layers.base import Layer
from ofa.layers.build import LAYERS
from ofa.layout import FORESTS, Gene
from ofa.norms import calibrate
from ofa.parts.conv import Conv
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted
from ofa.sorting import sort_channels
from ofa.space import Space
from ofa.supernet import Supernet
from search.costs.exact import CostTable
from search.objective import MACS, TOP1
from search.predict.predictor import architecture, fit, totals
from search.predicted import solve
from search.problem import Problem, Term

TINY = str(Path(__file__).parent / "jobs" / "tiny.toml")
CHANNELS, MID, CLASSES = 8, 16, 10
SCALE, BLOCK = 1, 2  # the bits of a level: which branches a block has


@dataclass(frozen=True)
class Scale:
    """A factor for each channel."""

    channels: int
    stride: int = 1

    def cost(self, size):
        return Cost(self.channels * size * size, self.channels)


class ElasticScale(Layer[Scale]):
    def __init__(self, largest, space):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, largest.channels).view(1, -1, 1, 1))

    def forward(self, x, part, norm):
        return x * self.weight

    def plain(self, part, norm):
        copy = PlainScale()
        copy.weight = nn.Parameter(self.weight.detach().clone())
        return copy


class PlainScale(nn.Module):
    def forward(self, x):
        return x * self.weight


def branched(counts):
    """exit -> depth[stage] -> level[slot] -> kernel."""
    stages, blocks = counts["depth"], counts["level"]
    each, level = blocks // stages, 2 + stages
    return (
        Gene("resolution", 0),
        Gene("exit", 0),
        *(Gene("depth", s, parent=1, least=s + 1) for s in range(stages)),
        *(Gene("level", i, parent=2 + i // each, least=i % each + 1) for i in range(blocks)),
        *(Gene("kernel", i, parent=level + i, mask=BLOCK) for i in range(blocks)),
    )


@dataclass(frozen=True)
class BranchedSpace(Space):
    exits: tuple[int, ...]
    depths: tuple[int, ...]
    levels: tuple[int, ...]
    kernels: tuple[int, ...]
    stride = 4

    @property
    def counts(self):
        return {"exit": 1, "depth": 2, "level": 4, "kernel": 4}

    def build_graph(self, arch, exits, classes):
        """Two stages; branches of a block are added up, and a stage's first block is added to its output (a dense skip)."""
        nodes = [Node("stem", Conv(3, CHANNELS, 3, 2, "relu"), (IMAGES,))]
        after, outputs = ("stem",), []
        for stage in range(max(exits or (arch.exit,))):
            first = None
            for slot in (slot for slot in self.slots if slot.stage == stage):
                place = 2 * stage + slot.position
                level, stride = arch.level[place], 2 if stage and not slot.position else 1
                made = []
                if level & SCALE and stride == 1:
                    made.append(Node(f"{slot.name}_scale", Scale(CHANNELS), after))
                if level & BLOCK or (level and stride > 1):
                    block = Inverted(CHANNELS, MID, CHANNELS, arch.kernel[place] or 3, stride, "relu", False, True, False)
                    made.append(Node(slot.name, block, after))
                if made:
                    nodes += made
                    after = tuple(node.name for node in made)
                    first = first or after
            if first != after:
                after = (*after, *first)
            if stage + 1 in (exits or (arch.exit,)):
                nodes.append(Node(f"exit{stage + 1}_average", GlobalPool(CHANNELS), after))
                outputs.append(f"exit{stage + 1}_classifier")
                nodes.append(Node(outputs[-1], Classifier(CHANNELS, classes), (f"exit{stage + 1}_average",)))
        return Graph(tuple(nodes), tuple(outputs))


FORESTS[frozenset({"exit", "depth", "level", "kernel"})] = branched  # as a module of a space would when it is imported
SPACE = BranchedSpace("branched", resolutions=(8, 16), exits=(1, 2), depths=(1, 2), levels=(1, 2, 3), kernels=(3, 5))


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """A line in the home of layers, and a module of spaces."""
    monkeypatch.setitem(LAYERS, Scale, ElasticScale)
    module = SimpleNamespace(NAMES=("branched",), find=lambda name: SPACE if name == "branched" else None)
    known = [*ofa.spaces._families(), module]
    monkeypatch.setattr(ofa.spaces, "_families", lambda: known)
    ofa.spaces.get_space.cache_clear()
    yield
    ofa.spaces.get_space.cache_clear()


def every(space=SPACE):
    """All archs, by brute force."""
    found = set()
    for values in itertools.product(*space.choices):
        resolution, exit_, *rest = values
        found.add(Arch(resolution, tuple(rest[:2]), tuple(rest[6:]), (), level=tuple(rest[2:6]), exit=exit_))
    return found


def network(double=False):
    generator = torch.Generator().manual_seed(0)
    net = Supernet(SPACE, CLASSES, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return (net.double() if double else net).eval()


def images(count=4, resolution=16):
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def test_genes_without_effect_are_zero():
    arch = Arch(16, (1, 2), (3, 5, 5, 3), (), level=(2, 3, 3, 1), exit=1)
    assert (arch.depth, arch.level, arch.kernel) == ((1, 0), (2, 0, 0, 0), (3, 0, 0, 0))
    assert replace(arch, level=(1, 0, 0, 0)).kernel == (0, 0, 0, 0)


def test_size_is_what_brute_force_counts():
    smaller = SPACE.only(levels=(1, 3), kernels=(5,), exits=(2,))
    assert len(every()) == SPACE.size
    assert len(every(smaller)) == smaller.size


def test_samples_and_extremes_are_in_the_space_and_others_are_told_why():
    rng = random.Random(0)
    assert {SPACE.sample(rng) for _ in range(3000)} <= every()
    assert SPACE.largest() in every()
    assert SPACE.smallest() in every()
    with pytest.raises(ArchError, match="level of stage 0 slot 0 is 3, may be 1, 2"):
        SPACE.only(levels=(1, 2)).checked(SPACE.largest())
    with pytest.raises(ArchError, match="exit is 2, may be 1"):
        SPACE.only(exits=(1,)).checked(SPACE.largest())
    with pytest.raises(ArchError, match=r"no choices 'widths'; it has resolutions, exits, depths, levels, kernels"):
        SPACE.only(widths=(1,))


def test_json_names_and_gene_arrays_give_every_arch_back():
    archs, genes = sorted(every(), key=lambda arch: arch.key), Genes(SPACE)
    assert len({arch.key for arch in archs}) == len(archs)
    for arch in archs[::7]:
        assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
        assert Arch.from_key(arch.key) == arch
    rows = genes.encode(archs)
    assert genes.decode(rows) == archs
    assert np.array_equal(genes.canonical(rows), rows)
    raw = np.random.default_rng(0).integers(0, genes.sizes_G, (500, len(genes.sizes_G)))
    assert genes.decode(raw) == genes.decode(genes.canonical(raw))
    assert np.array_equal(genes.encode(genes.decode(raw)), genes.canonical(raw))
    matter = genes.matter(rows)
    assert [np.count_nonzero(row) for row in matter] == [sum(SPACE.forest.active(arch.values)) for arch in archs]


def test_the_table_of_costs_is_exact_for_every_arch():
    archs = sorted(every(), key=lambda arch: arch.key)
    macs, params = CostTable(SPACE, CLASSES)(Genes(SPACE).encode(archs))
    assert [cost(SPACE, arch, CLASSES) for arch in archs] == list(zip(macs.tolist(), params.tolist(), strict=True))


def test_the_extracted_network_is_the_sub_network_to_the_last_bit():
    net, rng = network(), random.Random(1)
    for arch in [SPACE.largest(), SPACE.smallest(), *(SPACE.sample(rng) for _ in range(20))]:
        x = images(resolution=arch.resolution)
        statistics = calibrate(net, arch, [x])
        plain = extract(net, arch, statistics)
        with torch.no_grad():
            assert net(x, arch, statistics).shape == (4, CLASSES)
            assert torch.equal(net(x, arch, statistics), plain(x))
        assert sum(p.numel() for p in plain.parameters()) == cost(SPACE, arch, CLASSES).params


def test_several_exits_are_one_network_with_several_outputs():
    net, x, largest = network(), images(), SPACE.largest()
    with torch.no_grad():
        both = net(x, largest, exits=(1, 2))
        assert torch.equal(both[0], net(x, replace(largest, exit=1)))
        assert torch.equal(both[1], net(x, largest))
        assert all(torch.equal(a, b) for a, b in zip(extract(net, largest, exits=(1, 2))(x), both, strict=True))


def test_sorting_keeps_the_largest_networks_function():
    net, x, largest = network(double=True), images().double(), SPACE.largest()
    before, weight = net(x, largest, calibrate(net, largest, [x])), net.part("stage0_block0").narrow.weight.clone()
    sort_channels(net, ())
    assert not torch.equal(weight, net.part("stage0_block0").narrow.weight)
    torch.testing.assert_close(net(x, largest, calibrate(net, largest, [x])), before, rtol=1e-8, atol=1e-9)


def test_a_predicted_search_finds_the_front():
    genes, costs = Genes(SPACE), CostTable(SPACE, CLASSES)

    def top1(genes_BG):
        return 0.5 + 0.01 * (genes_BG[:, genes.of("kernel")].sum(axis=1) + genes_BG[:, genes.of("level")].sum(axis=1))

    terms = (Term(TOP1, top1, exact=False), Term(MACS, lambda g: costs(g)[0].astype(np.float64), exact=True))
    problem = Problem(SPACE, terms)
    values = problem.evaluate(genes.encode(sorted(every(), key=lambda arch: arch.key)))
    best = values[np.lexsort((values[:, 1], -values[:, 0]))[0]]
    for algorithm in ("archive", "nsga2"):
        found = solve(problem, algorithm=algorithm, evaluations=800, members=50, seed=1)
        assert all(SPACE.contains(arch) for arch in found.archs)
        assert found.values[np.argmax(found.values[:, 0])].tolist() == best.tolist()
    found = solve(replace(problem, pinned={1: 0}), algorithm="archive", evaluations=300, members=50, seed=1)
    assert {arch.exit for arch in found.archs} == {1}


def test_a_predictor_learns_from_its_genes():
    genes = Genes(SPACE)
    rows = genes.encode(sorted(every(), key=lambda arch: arch.key))
    top1 = 0.5 + 0.02 * rows[:, genes.of("level")].sum(axis=1)
    assert len(np.unique(architecture(genes, rows), axis=0)) == len(rows)
    assert np.isfinite(totals(genes, rows)).all()
    predictor = fit(SPACE, rows, top1, "top1")
    assert np.corrcoef(predictor.predict(rows), top1)[0, 1] > 0.95


def test_configs_and_phases_take_its_genes():
    phase = 'train.phases=[{name="a",epochs=1,lr=1,levels=[3],exits=[2]}]'
    config = load(TINY, ["space=branched", "choices={levels=[1, 3]}", phase])
    assert config.search_space == SPACE.only(levels=(1, 3))
    assert config.phases[0].space == SPACE.only(levels=(3,), exits=(2,))
    with pytest.raises(ConfigError, match="choices: no setting 'expands'; here you may set resolutions, exits, depths"):
        load(TINY, ["space=branched", "choices={expands=[1]}", phase])
