import random

import pytest

from ofa.cost import cost
from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.2", "ofa_mbv3_w0.5_32px", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_the_table_costs_every_arch_exactly(name):
    space, rng = get_space(name), random.Random(0)
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(500))]
    macs, params = CostTable(space, 10)(Genes(space).encode(archs))
    assert [cost(space, arch, 10) for arch in archs] == list(zip(macs.tolist(), params.tolist(), strict=True))
