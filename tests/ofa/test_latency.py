import time

import torch

from ofa.extract import PlainNet
from ofa.graph import chain
from ofa.latency import measure_latencies, node_times_ms
from ofa.parts.head import GlobalPool


class Sleeper(torch.nn.Module):
    """Takes a known time."""

    def __init__(self, ms):
        super().__init__()
        self.ms = ms
        self.sizes = set()

    def forward(self, images):
        self.sizes.add(tuple(images.shape))
        time.sleep(self.ms / 1e3)
        return images


def test_the_median_is_the_time_a_network_takes():
    nets = [(Sleeper(5), 24), (Sleeper(20), 32)]
    short, long = measure_latencies(nets, runs=9, threads=1)
    assert 5 <= short.latency_ms < long.latency_ms
    assert long.latency_ms >= 20
    assert short.latency_spread_ms >= 0
    assert nets[0][0].sizes == {(1, 3, 24, 24)}


def test_the_times_of_nodes_are_taken_in_the_run_of_their_network():
    """Two parts of known times: each has its own, and gets the output of the one before."""
    graph = chain([("slow", GlobalPool(3)), ("quick", GlobalPool(3))])
    parts = {"slow": Sleeper(20), "quick": Sleeper(5)}
    [times] = node_times_ms([(PlainNet(graph, parts), 8)], runs=6, threads=1)
    assert {name: len(taken) for name, taken in times.items()} == {"slow": 6, "quick": 6}
    assert min(times["slow"]) >= 20 and 5 <= min(times["quick"]) < 20
    assert parts["quick"].sizes == {(1, 3, 8, 8)}


def test_the_threads_of_the_process_are_as_before():
    before = torch.get_num_threads()
    measure_latencies([(Sleeper(0), 8)], runs=3, threads=before + 1)
    assert torch.get_num_threads() == before
