from itertools import combinations

import numpy as np

from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.exact import CostTable
from search.islands import guided
from search.islands.breeder import Individual
from search.islands.guided import BRED_FROM, Guided
from search.islands.proposal import bred
from search.objective import MACS, TOP1

SPACE = get_space("digits")
GENES = Genes(SPACE)


def test_it_never_asks_for_what_is_known_or_pending_and_asks_anew_for_another_seed():
    guides = [Guided(SPACE, (TOP1, MACS), seed) for seed in ("a", "a", "b")]
    genes_BG = GENES.random(40, np.random.default_rng(0))
    macs = CostTable(SPACE, 10)(genes_BG)[0]
    known = [
        Individual(p, (float(1 - 0.2 * (4e4 / m) ** 0.5), float(m)))
        for p, m in zip(GENES.pack_all(genes_BG), macs, strict=True)
    ]
    for guide in guides:
        guide.tell(known)
    first, same, other = (guide.ask(10) for guide in guides)
    assert first == same != other
    assert len(set(first)) == 10
    second = guides[0].ask(10)
    taken = [{i.packed for i in known}, set(first), set(second)]
    assert not any(a & b for a, b in combinations(taken, 2))


def test_a_fifth_of_a_later_batch_is_bred_from_the_front(monkeypatch):
    counts = []

    def counted(genes, objectives, known, taken, count, rng):
        counts.append(count)
        return bred(genes, objectives, known, taken, count, rng)

    monkeypatch.setattr(guided, "bred", counted)
    genes_BG = np.unique(GENES.random(200, np.random.default_rng(0)), axis=0)[:BRED_FROM]
    assert len(genes_BG) == BRED_FROM
    macs = CostTable(SPACE, 10)(genes_BG)[0]
    known = [
        Individual(p, (float(1 - 0.2 * (4e4 / m) ** 0.5), float(m)))
        for p, m in zip(GENES.pack_all(genes_BG), macs, strict=True)
    ]
    for some, expected in ((known[:-1], []), (known, [2])):
        counts.clear()
        guide = Guided(SPACE, (TOP1, MACS), "a")
        guide.tell(some)
        assert len(set(guide.ask(10))) == 10
        assert counts == expected
