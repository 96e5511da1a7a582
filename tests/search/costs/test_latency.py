"""Latency tables against published latencies."""

import json
import random

import numpy as np
import pytest

from cluster.reading import read_json_or_yaml
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.graph import strided
from ofa.spaces import get_space
from search.costs.exact import node_tables
from search.costs.latency import LatencyTable, TableLatency, keys
from search.errors import ProblemError

NO_MILLISECONDS = (float("nan"), float("inf"), -1, -0.1, 1e9, 10**400, "0.5", True, None, [1], [[[[[1]]]]] * 1000)
W12 = get_space("ofa_mbv3_w1.2")


def load(reference, name):
    return LatencyTable.parse(read_json_or_yaml(str(reference / "ofa" / name), "a latency table"), name)


def test_the_published_front_has_its_published_latencies(reference):
    table = load(reference, "note10_latency_lut_w1.2.json")
    space = W12.only(resolutions=table.resolutions(W12))
    assert space.resolutions == (160, 176, 192, 208, 224)
    rows = json.loads((reference / "ofa" / "ofa2_population.json").read_text())["population"]
    archs = [Arch(row["r"], tuple(row["d"]), tuple(row["ks"]), tuple(row["e"])) for row in rows]
    found = TableLatency(table, space)(Genes(space).encode(archs))
    np.testing.assert_allclose(found, [row["latency_ms"] for row in rows], rtol=0, atol=1e-9)


def test_the_second_format_gives_the_latencies_of_its_device(reference):
    table = load(reference, "i7_8700k_latency_lut.yaml")
    space = get_space("ofa_mbv3_w1.0")
    assert table.resolutions(space) == tuple(range(128, 225, 4))
    space = space.only(resolutions=(128, 224))
    archs = [space.uniform(224, 2, 3, 3), space.uniform(224, 4, 7, 6), space.uniform(128, 4, 7, 6)]
    np.testing.assert_allclose(TableLatency(table, space)(Genes(space).encode(archs)), [6.8, 36.2, 17.6], atol=0.05)


def test_a_latency_is_the_sum_of_its_blocks(reference):
    """Changing one block changes the latency by the same, whatever the others are."""
    table = load(reference, "note10_latency_lut_w1.2.json")
    space = W12.only(resolutions=(192,))
    genes, latency = Genes(space), TableLatency(table, space)
    rows = genes.random(50, np.random.default_rng(0))
    before, after = rows.copy(), rows.copy()
    before[:, genes.of("kernel").start], after[:, genes.of("kernel").start] = 0, 2
    before[:, genes.of("expand").start], after[:, genes.of("expand").start] = 1, 1
    assert np.ptp(latency(after) - latency(before)) < 1e-9


def test_a_missing_key_gets_its_line(reference):
    doc = json.loads((reference / "ofa" / "note10_latency_lut_w1.2.json").read_text())
    del doc["176"]["AvgPool2D-input:6x6x1152-output:1x1x1152"]
    table = LatencyTable.parse(doc, "t.json")
    with pytest.raises(ProblemError, match=r"^t.json: has no key AvgPool2D-input:6x6x1152\S*, which resolution 176 needs"):
        TableLatency(table, W12.only(resolutions=table.resolutions(W12)))


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ({}, "is no latency table"),
        ("a text", "is no latency table"),
        ([], "is no latency table"),
        (None, "is no latency table"),
        ({"Conv-input": {"std": 1}}, "the entry 'Conv-input' is .*; expected {'mean': milliseconds}"),
        ({"160": 3}, "160: found 3; expected entries"),
        *(({"Conv-input": {"mean": value}}, "expected {'mean': milliseconds}, 0 to 1e") for value in NO_MILLISECONDS),
        *(({"Conv-input": value}, "expected {'mean': milliseconds}, 0 to 1e") for value in NO_MILLISECONDS),
        *(({"unit": unit, "Conv-input": 1}, "its unit is .*; expected 'ms'") for unit in ("s", "us", "", 1, None, ["ms"])),
        ({"160": {"unit": "us", "Conv-input": 1}}, "160: its unit is 'us'; expected 'ms'"),
        ({"160": {}, "note": "mine"}, "the entry 'note' is 'mine'"),
        ({"160": {}, "24.0": 1}, "has the key '24.0' beside resolutions"),
        ({"160": {}, "999999": {}}, "the entry '999999' is {}"),
        ({"160": {}, 160: {}}, "has a resolution twice"),
        ({"160": {}, "0160": {}}, "has a resolution twice"),
    ],
)
def test_what_is_no_table_gets_its_line(doc, says):
    with pytest.raises(ProblemError, match=says) as caught:
        LatencyTable.parse(doc, "t.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_table_of_another_space_gets_its_line(reference):
    table = load(reference, "note10_latency_lut_w1.2.json")
    with pytest.raises(ProblemError, match=r"has none of the resolutions of ofa_mbv3_w1\.0"):
        table.resolutions(get_space("ofa_mbv3_w1.0"))
    with pytest.raises(ProblemError, match="tables describe MobileNetV3 and ProxylessNAS"):
        table.resolutions(get_space("ofa_resnet50"))


@pytest.mark.parametrize(
    "name", ["ofav2_mbv3_se_d_w0.25_32px", "ofav2_mbv3_ee_dp_w0.25_32px", "ofav2_mbv3_ee_p_w0.25_32px_norm"]
)
def test_exits_and_branches_of_parallel_blocks_have_keys_of_their_own(name):
    """A table with a different number for every part: sums are those over the nodes of each network."""
    space = get_space(name).only(resolutions=(20, 32))
    entries = node_tables(space, 1000).entries
    table: dict[str, dict[str, float]] = {"20": {}, "32": {}}
    for size, known in table.items():
        for node, variants in entries.items():
            for part, stride in filter(None, variants.values()):
                known.setdefault(keys(node, part, strided(int(size), stride))[0], float(len(known) + 1))
    archs = [space.largest(), space.smallest(), *(space.sample(random.Random(seed)) for seed in range(20))]
    found = TableLatency(LatencyTable.parse(table, "t.json"), space)(Genes(space).encode(archs))
    for arch, ms in zip(archs, found, strict=True):
        graph = space.graph(arch)
        at = zip(graph.nodes, graph.sizes(arch.resolution), strict=True)
        assert ms == sum(table[str(arch.resolution)][keys(node.name, node.part, size)[0]] for node, size in at)
