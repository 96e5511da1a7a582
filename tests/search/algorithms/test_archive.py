import numpy as np

from ofa.genes import Genes
from ofa.spaces import get_space
from search.algorithms.archive import Seen

GENES = Genes(get_space("digits"))


class TestSeen:
    def test_new_archs_are_those_that_a_set_has_not_each_once_in_order(self):
        rng = np.random.default_rng(0)
        seen, known = Seen(rng.integers(1, 2**44, len(GENES.sizes_G))), set()
        for _ in range(40):  # more than the table holds at first
            genes_BG = GENES.random(500, rng)
            genes_BG[rng.integers(0, 500, 100)] = genes_BG[rng.integers(0, 500, 100)]
            rows = [row.tobytes() for row in genes_BG]
            chosen, keys = seen.new(genes_BG)
            expected = [i for i, row in enumerate(rows) if row not in known and row not in rows[:i]]
            assert chosen.tolist() == expected
            half = len(chosen) // 2
            seen.add(keys[:half])
            known.update(rows[i] for i in chosen[:half])
        assert seen.count == len(known) > len(Seen(seen.key_G).slots) // 4

    def test_the_arch_whose_genes_are_all_zero_is_one_like_others(self):
        seen = Seen(np.full(len(GENES.sizes_G), 7))
        smallest = np.zeros((1, len(GENES.sizes_G)), dtype=np.int8)
        chosen, keys = seen.new(smallest)
        assert chosen.tolist() == [0]
        seen.add(keys)
        assert not len(seen.new(smallest)[0])
