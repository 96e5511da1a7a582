"""Memory of many archs at once against that of each network."""

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.memory import peak_bytes, weight_bytes
from ofa.spaces import get_space
from search.costs.memory import ActivationCost, ChainPeaks, WeightCost


@pytest.mark.parametrize(
    ("name", "chain"),
    [("digits", True), ("ofa_mbv3_w1.0", True), ("ofav2_mbv3_ee_d_w1.0_32px", False), ("ofa_resnet50", False)],
)
def test_every_arch_has_the_memory_of_its_network(name, chain):
    space, rng = get_space(name), np.random.default_rng(0)
    genes = Genes(space)
    genes_BG = np.concatenate([genes.encode([space.smallest(), space.largest()]), genes.random(12, rng)])
    activations = ActivationCost(10)(space)
    assert isinstance(activations, ChainPeaks) == chain
    found, weights = activations(genes_BG), WeightCost(10)(space)(genes_BG)
    for arch, peak, size in zip(genes.decode(genes_BG), found, weights, strict=True):
        graph = space.graph(arch, (), 10)
        assert (peak, size) == (peak_bytes(graph, arch.resolution), weight_bytes(graph)), arch.key
