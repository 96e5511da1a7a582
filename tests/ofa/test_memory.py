"""Memory of networks: the peak of activations against a run that frees every tensor after its last use, and weights."""

import random

import pytest
import torch
from torch import fx, nn

from ofa.extract import extract
from ofa.memory import peak_bytes, weight_bytes
from ofa.spaces import get_space
from ofa.supernet import Supernet

IN_PLACE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish)
SINGLE_VALUES = {"add", "mul", "relu", "hardsigmoid", "hardsigmoid_", "add_", "mul_", "iadd"}


class Tracked(fx.Interpreter):
    """Runs a network an operation at a time, frees what no later one uses, and adds up what is alive."""

    peak = 0

    def run_node(self, node):
        inputs = [n for n in node.all_input_nodes if isinstance(self.env.get(n), torch.Tensor)]
        alive = sum(self.env[n].numel() for n in self.env if isinstance(self.env[n], torch.Tensor))
        found = super().run_node(node)
        if node.op in ("call_module", "call_function", "call_method") and isinstance(found, torch.Tensor):
            module = self.module.get_submodule(node.target) if node.op == "call_module" else None
            name = node.target if isinstance(node.target, str) else node.target.__name__
            single = isinstance(module, IN_PLACE) or (module is None and name in SINGLE_VALUES)
            dying = [n for n in self.user_to_last_uses.get(node, []) if n in inputs]
            reused = single and any(self.env[n].numel() == found.numel() for n in dying)
            self.peak = max(self.peak, alive + (0 if reused else found.numel()))
        return found


def tracked_bytes(net, resolution):
    run = Tracked(fx.symbolic_trace(net))
    with torch.no_grad():
        run.run(torch.zeros(1, 3, resolution, resolution))
    return 4 * run.peak


def archs(space, count):
    rng = random.Random(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


@pytest.fixture(params=["digits", "ofav2_mbv3_ee_dp_w1.0_32px", "ofa_resnet50"])
def space(request):
    found = get_space(request.param)
    return found.only(resolutions=found.resolutions[:1])


def test_peaks_are_those_of_a_run_that_frees_every_tensor_and_weights_are_those_of_the_network(space):
    net = Supernet(space, 10, torch.Generator().manual_seed(1)).eval()
    for arch in archs(space, 2):
        network = extract(net, arch)
        graph = space.graph(arch, (), 10)
        assert peak_bytes(graph, arch.resolution) == tracked_bytes(network, arch.resolution), arch.key
        tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
        assert weight_bytes(graph) == sum(4 * t.numel() for t in tensors), arch.key
