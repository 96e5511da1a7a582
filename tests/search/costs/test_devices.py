"""Latencies on several devices, of many archs."""

import json
import random

import pytest

from ofa.genes import Genes
from ofa.graph import strided
from ofa.parts.head import Classifier
from ofa.record import Measured
from ofa.spaces import get_space
from search.costs.devices import DeviceCosts
from search.costs.exact import node_tables
from search.costs.latency import LatencyTable, TableCost, keys
from search.objective import LATENCY, MACS, objective_named

SPACE = get_space("digits")


def table(classes, scale=1.0, space=SPACE):
    """A latency of every part of the space's networks, by its key."""
    rng, doc, nodes = random.Random(0), {}, node_tables(space, classes)
    for resolution in space.resolutions:
        doc[str(resolution)] = {}
        for name in nodes.names:
            for part, stride in filter(None, nodes.entries[name].values()):
                key = keys(name, part, strided(resolution, stride))[0]
                doc[str(resolution)].setdefault(key, {"mean": scale * rng.random()})
    return LatencyTable.parse(json.loads(json.dumps(doc)), "t.json")


def by_hand(found, arch, classes):
    graph = SPACE.graph(arch, (), classes)
    sizes = zip(graph.nodes, graph.sizes(arch.resolution), strict=True)
    return sum(found.ms_of(keys(node.name, node.part, size), arch.resolution) for node, size in sizes)


def test_records_get_the_sum_over_their_parts_on_every_device():
    tables = {"phone": table(10), "cpu": table(10, 3.0)}
    archs = [SPACE.sample(random.Random(1)) for _ in range(1)] + [SPACE.smallest(), SPACE.largest()]
    costs = DeviceCosts(SPACE, 10, tables)
    for m in costs.completed([Measured(arch, 0.5, 1, 2) for arch in archs]):
        known = dict(m.latencies_ms)
        assert [*known] == ["phone", "cpu"] and (m.device, m.latency_ms) == ("phone", known["phone"])
        for device, found in tables.items():
            assert known[device] == pytest.approx(by_hand(found, m.arch, 10), rel=1e-12)
            assert known[device] == costs.latencies[device](Genes(SPACE).encode([m.arch]))[0]


def test_one_device_needs_no_list_and_another_is_added_to_it():
    [one] = DeviceCosts(SPACE, 10, {"phone": table(10)}).completed([Measured(SPACE.smallest(), 0.5, 1, 2)])
    assert (one.device, one.latencies_ms) == ("phone", ())
    [two] = DeviceCosts(SPACE, 10, {"cpu": table(10, 3.0)}).completed([one])
    assert (two.device, two.latency_ms, [*dict(two.latencies_ms)]) == ("phone", one.latency_ms, ["phone", "cpu"])
    nothing = Measured(SPACE.smallest(), 0.5, 1, 2)
    assert DeviceCosts(SPACE, 10, {}).completed([nothing]) == [nothing]


def test_objectives_are_computed_exactly_as_the_records():
    costs = DeviceCosts(SPACE, 10, {"phone": table(10), "cpu": table(10, 3.0)})
    arch = SPACE.largest()
    [m] = costs.completed([Measured(arch, 0.5, 1, 2)])
    for name in ("latency_ms.phone", "latency_ms.cpu"):
        objective = costs.computed(objective_named(name))
        assert objective.exact(SPACE)(Genes(SPACE).encode([arch]))[0] == objective.of(m)
    assert costs.computed(LATENCY).exact(SPACE)(Genes(SPACE).encode([arch]))[0] == m.latency_ms
    assert costs.computed(MACS).exact is None


def test_a_table_without_classifiers_of_this_width_counts_the_published_ones():
    published = table(1000)
    assert TableCost.of(published, SPACE, 10).classes == 1000
    assert TableCost.of(table(10), SPACE, 10).classes == 10
    widths = {node.part.classes for node in SPACE.graph(SPACE.largest(), (), 10).nodes if isinstance(node.part, Classifier)}
    assert widths == {10}
    assert TableCost.of(published, SPACE, 10)(SPACE)(Genes(SPACE).encode([SPACE.largest()]))[0] > 0
