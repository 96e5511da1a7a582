import numpy as np

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.predict.columns import exact_cost

SPACE = get_space("digits")
GENES = Genes(SPACE)


def test_exact_costs_are_counted_not_learned():
    genes_BG = GENES.random(30, np.random.default_rng(0))
    macs, params = CostTable(SPACE, 10)(genes_BG)
    for field, truth in (("macs", macs), ("params", params)):
        counter = exact_cost(SPACE, field, genes_BG[:5], truth[:5].astype(float))
        assert counter is not None
        assert np.array_equal(counter(genes_BG), truth)


def test_costs_that_another_counter_gives_are_not_taken_for_ours():
    genes_BG = GENES.random(5, np.random.default_rng(0))
    macs = CostTable(SPACE, 10)(genes_BG)[0].astype(float)
    assert exact_cost(SPACE, "macs", genes_BG, macs + np.arange(5)) is None
    assert exact_cost(SPACE, "macs", genes_BG, macs * 2.01) is None
