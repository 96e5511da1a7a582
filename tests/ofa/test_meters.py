"""What is measured of a sub-network, by a supernet with random weights."""

import torch

from ofa.cost import cost
from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.memory import peak_bytes, weight_bytes
from ofa.meters import ALWAYS, METERS, Subject, measured
from ofa.record import Measured
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
ARCH = SPACE.smallest()


def subject():
    images = Split(torch.arange(20 * 3 * 24 * 24).reshape(20, 3, 24, 24).to(torch.uint8), torch.arange(20) % 10)
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0))
    return Subject(ARCH, SPACE, 10, Evaluator(net, Scale.of(images), images, 10), images)


def test_a_record_has_top1_and_exact_costs():
    seen = subject()
    record = measured(seen, {name: METERS[name] for name in ALWAYS}, "selection")
    top1 = seen.evaluator.top1(ARCH, seen.images)
    assert record == Measured(ARCH, top1, *cost(SPACE, ARCH, 10), split="selection")


def test_memory_is_measured_exactly():
    record = measured(subject(), {name: METERS[name] for name in ("activation_bytes", "weight_bytes")}, "selection")
    graph = SPACE.graph(ARCH, (), 10)
    assert record.value("activation_bytes") == peak_bytes(graph, ARCH.resolution)
    assert record.value("weight_bytes") == weight_bytes(graph)


def test_a_meter_that_is_added_is_measured_too(monkeypatch):
    monkeypatch.setitem(METERS, "blocks", lambda seen: sum(seen.arch.depth))
    record = measured(subject(), {name: METERS[name] for name in ("top1", "blocks")}, "selection")
    assert record.extra == (("blocks", float(sum(ARCH.depth))),)
    assert record.value("blocks") == sum(ARCH.depth)
    assert record.value("macs") == record.macs
    assert record.value("energy") is None
