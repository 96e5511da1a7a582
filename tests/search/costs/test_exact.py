import random

import numpy as np
import pytest

from ofa.cost import cost
from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable, Sums, node_tables


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.2", "ofa_mbv3_w0.5_32px", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_the_table_costs_every_arch_exactly(name):
    space, rng = get_space(name), random.Random(0)
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(500))]
    macs, params = CostTable(space, 10)(Genes(space).encode(archs))
    assert [cost(space, arch, 10) for arch in archs] == list(zip(macs.tolist(), params.tolist(), strict=True))


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.2", "ofav2_mbv3_ee_dp_w1.0"])
def test_sums_are_those_of_the_nodes_to_the_last_bit(name):
    """NumPy's order of additions: published latencies are sums of its kind."""
    space, rng = get_space(name), np.random.default_rng(0)
    sums = Sums(node_tables(space, 10), lambda _name, _part, _size, _resolution: rng.lognormal(0, 4))
    genes_BG = Genes(space).random(300, rng)
    expected = sums.of_nodes(genes_BG).sum(axis=1) + sums.fixed_R[genes_BG[:, 0]]
    np.testing.assert_array_equal(sums(genes_BG), expected)
