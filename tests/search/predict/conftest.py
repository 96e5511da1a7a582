"""What tests of predictions have in common."""

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable


@pytest.fixture
def measured():
    """A function of a count and a seed: genes of the digits' space, and values of top-1, MACs and a latency."""
    space = get_space("digits")

    def draw(count, seed=0):
        genes_BG = Genes(space).random(count, np.random.default_rng(seed))
        macs, params = (cost.astype(float) for cost in CostTable(space, 10)(genes_BG))
        return genes_BG, np.stack([1 - 20 / macs**0.4, macs, macs / 1e5 + params / 1e4], axis=1)

    return draw
