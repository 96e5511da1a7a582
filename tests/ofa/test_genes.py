import random

import numpy as np
import pytest

from ofa.genes import Genes
from ofa.spaces import get_space

NAMES = ["digits", "ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50", "nas_bench_macro"]


@pytest.mark.parametrize("name", NAMES)
def test_archs_survive_encoding_and_packing(name):
    space, rng = get_space(name), random.Random(0)
    genes = Genes(space)
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(200))]
    rows = genes.encode(archs)
    assert genes.decode(rows) == archs
    packed = [genes.pack(row) for row in rows]
    assert len(set(packed)) == len(set(archs))
    assert all(np.array_equal(genes.unpack(p), row) for p, row in zip(packed, rows, strict=True))
    assert all(number < words for p in packed for number, words in zip(p, genes.words, strict=True))
    assert all(words <= 2**50 for words in genes.words)


@pytest.mark.parametrize("name", NAMES)
def test_canonical_genes_are_a_fixed_point_and_mean_the_same_arch(name):
    genes, rng = Genes(get_space(name)), np.random.default_rng(0)
    raw = rng.integers(0, genes.sizes_G, (500, len(genes.sizes_G)))
    canonical = genes.canonical(raw)
    assert np.array_equal(genes.canonical(canonical), canonical)
    assert np.array_equal(genes.encode(genes.decode(canonical)), canonical)
    assert genes.decode(raw) == genes.decode(canonical)  # an Arch is canonical by construction


def test_random_genes_are_canonical_and_cover_every_choice():
    genes = Genes(get_space("digits"))
    rows = genes.random(3000, np.random.default_rng(0))
    assert np.array_equal(genes.canonical(rows), rows)
    assert (rows.max(axis=0) == genes.sizes_G - 1).all()


def test_depth_says_which_slots_are_used():
    space = get_space("digits")
    genes = Genes(space)
    arch = space.uniform(24, 2, 3, 1)
    assert genes.used(genes.encode([arch])).reshape(3, 3).tolist() == [[True, True, False]] * 3


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.2", "ofa_resnet50"])
def test_many_archs_are_packed_like_one(name):
    genes = Genes(get_space(name))
    genes_BG = genes.random(50, np.random.default_rng(0))
    packed = genes.pack_all(genes_BG)
    assert packed == [genes.pack(row) for row in genes_BG]
    assert np.array_equal(genes.unpack_all(packed), genes_BG)
    assert genes.unpack_all([]).shape == (0, len(genes.sizes_G))


def test_filled_genes_are_the_same_archs_and_differ_where_nothing_is_used():
    genes, rng = Genes(get_space("digits")), np.random.default_rng(0)
    genes_BG = genes.random(300, rng)
    filled_BG = genes.filled(genes_BG, rng)
    assert np.array_equal(genes.canonical(filled_BG), genes_BG)
    unused = ~genes.used(genes_BG)
    expand = genes.of("expand")
    assert set(np.unique(filled_BG[:, expand][unused])) == set(range(genes.sizes_G[expand][0]))
