"""Sampling laws against their stated probabilities, and estimated ones against the survivors of a published run."""

import json
import random

import numpy as np
import pytest
from scipy.stats import chisquare

from ofa.draws import Weighted
from ofa.genes import Genes
from ofa.spaces import get_space
from search.adapt.encoding import Encoding
from search.adapt.laws import INITIAL, LAWS, SMOOTHING, categorical, ksone

ENOUGH = 20_000
NAT = [1 / 100, 18 / 100, 81 / 100]
NATV2 = [1 / 3, 2 / 9, 4 / 9]
EVEN = [1 / 3, 1 / 3, 1 / 3]


def p_value(values, probabilities):
    """That of a chi-squared test of choices' indices against their probabilities; an impossible choice has 0."""
    counts, expected = np.bincount(values, minlength=len(probabilities)), np.array(probabilities) * len(values)
    if counts[expected == 0].any():
        return 0.0
    return chisquare(counts[expected > 0], expected[expected > 0]).pvalue


def least_p_value(genes, sampled_BG, probabilities):
    """The least p-value of all genes among the archs in which each matters, times the number of genes tested."""
    matter_BG = genes.matter(sampled_BG)
    found = [p_value(sampled_BG[matter_BG[:, g], g], row) for g, row in enumerate(probabilities) if len(row) > 1]
    return min(found) * len(found)


def depths(genes):
    """The indices of the genes that count slots."""
    return {genes.forest.genes[slot.genes[0]].parent for slot in genes.forest.slots}


def stated(genes, law):
    """Uniform probabilities for every gene, but those of `law` for genes that count slots and have so many choices."""
    counting = depths(genes)
    return [law if g in counting and size == len(law) else [1 / size] * int(size) for g, size in enumerate(genes.sizes_G)]


def total_variation(one, other):
    return float(np.abs(np.asarray(one) - np.asarray(other)).sum() / 2)


def shares(values, choices):
    """The relative frequency of each choice's index."""
    return np.bincount(values, minlength=choices) / len(values)


class TestInitial:
    @pytest.mark.parametrize(
        ("name", "space", "law"),
        [
            ("uniform", "ofa_mbv3_w1.0", EVEN),
            ("natv2", "ofa_mbv3_w1.0", NATV2),
            ("nat", "ofa_mbv3_w1.0", NAT),
            ("uniform", "ofav2_mbv3_ee_dp_w1.0", EVEN),
            ("natv2", "ofav2_mbv3_ee_dp_w1.0", NATV2),
            ("nat", "ofav2_mbv3_ee_dp_w1.0", [1 / 64**2, 2 * 63 / 64**2, 63**2 / 64**2]),  # 63 codes of a parallel block
            ("uniform", "ofa_resnet50", EVEN),
            ("natv2", "ofa_resnet50", NATV2),
            ("nat", "ofa_resnet50", [1 / 16, 6 / 16, 9 / 16]),  # 3 expand ratios of a block
            ("natv2", "ofa_proxyless_w1.3", NATV2),
            ("nat", "ofa_proxyless_w1.3", NAT),
            ("natv2", "digits", NATV2),
            ("nat", "digits", NAT),
        ],
    )
    def test_each_gene_has_the_stated_law_where_it_matters(self, name, space, law):
        genes = Genes(get_space(space))
        sampled_BG = INITIAL[name](genes, ENOUGH, np.random.default_rng(7))
        assert sampled_BG.shape == (ENOUGH, len(genes.sizes_G))
        assert np.array_equal(sampled_BG, genes.canonical(sampled_BG))
        assert least_p_value(genes, sampled_BG, stated(genes, law)) > 1e-3
        others = [other for other in (EVEN, NAT, NATV2) if other != law]
        assert all(least_p_value(genes, sampled_BG, stated(genes, other)) < 1e-6 for other in others)

    @pytest.mark.parametrize(
        ("name", "choices", "law"),
        [
            ("natv2", (3, 4), [1 / 3, 2 / 3]),
            ("nat", (3, 4), [1 / 10, 9 / 10]),
            ("natv2", (2, 4), [1 / 3, 2 / 3]),
            ("nat", (2, 4), [1 / 10, 9 / 10]),
        ],
    )
    def test_a_space_with_fewer_depths_has_one_step(self, name, choices, law):
        genes = Genes(get_space("ofa_mbv3_w1.0").only(depths=choices))
        sampled_BG = INITIAL[name](genes, ENOUGH, np.random.default_rng(3))
        assert least_p_value(genes, sampled_BG, stated(genes, law)) > 1e-3

    @pytest.mark.parametrize("name", INITIAL)
    def test_a_space_of_one_depth_has_only_that(self, name):
        genes = Genes(get_space("ofa_mbv3_w1.0").only(depths=(3,)))
        sampled_BG = INITIAL[name](genes, 5, np.random.default_rng(0))
        assert {arch.depth for arch in genes.decode(sampled_BG)} == {(3,) * 5}

    def test_published_laws_are_those_that_the_released_code_was_measured_to_have(self, reference):
        published = json.loads((reference / "ofav2_natv2_mlt/natv2_search_spaces.json").read_text())
        found = published["initial_depth_distribution"]
        for key, law in (("NAT_push_uniform", NAT), ("NATv2_fill_initprobs", NATV2)):
            assert list(found["analytic"][key].values()) == pytest.approx(law)
            assert list(found[key].values()) == pytest.approx(law, abs=0.005)

    @pytest.mark.parametrize("name", INITIAL)
    def test_a_seed_gives_the_same_archs(self, name):
        genes = Genes(get_space("digits"))
        one, same, other = (INITIAL[name](genes, 20, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)


class TestPublishedSurvivors:
    """150 survivors of a run of the released code, whose distributions its authors estimated wrongly."""

    @pytest.fixture
    def published(self, reference):
        return json.loads((reference / "ofav2_natv2_mlt/nat_topN_columns_and_fit_check.json").read_text())

    @pytest.fixture
    def vectors(self, published):
        return np.array(published["columns"]).T

    def survivors(self, vectors):
        encoding = Encoding(get_space("ofav2_mbv3_se_b_w1.0"))
        genes = Genes(encoding.space)
        return genes, genes.encode([encoding.decode(vector)[0] for vector in vectors])

    def test_the_categorical_is_close_to_their_frequencies_and_ksone_as_far_as_published(self, published, vectors):
        found = {"ksone": [], "categorical": []}
        for column, row in zip(vectors.T, published["per_variable"], strict=True):
            values, choices = column - column.min(), int(np.ptp(column)) + 1
            found["ksone"].append(total_variation(ksone(values, choices), shares(values, choices)))
            found["categorical"].append(total_variation(categorical(values, choices), shares(values, choices)))
            assert found["ksone"][-1] == pytest.approx(row["tv_author_code"], abs=0.02)  # theirs is of 4,000 samples
        means = {name: float(np.mean(each)) for name, each in found.items()}
        told = f"published {published['mean_total_variation']['author_code_ksone_bug']:.3f}, " + ", ".join(
            f"{name} {mean:.4f}" for name, mean in means.items()
        )
        assert means["ksone"] == pytest.approx(0.302, abs=0.005), told
        assert max(found["categorical"]) < 0.05, told
        assert means["categorical"] < 0.05, told

    def test_so_are_the_rows_of_our_genes_among_the_survivors_in_which_each_matters(self, vectors):
        genes, survivors_NG = self.survivors(vectors)
        matter_NG = genes.matter(survivors_NG)
        means = {}
        for name, law in LAWS.items():
            rows = law(genes, survivors_NG)
            assert [len(row) for row in rows] == genes.sizes_G.tolist()
            variations = []
            for g, row in enumerate(rows):
                values = survivors_NG[matter_NG[:, g], g]
                variations.append(total_variation(row, shares(values, len(row))))
            means[name] = float(np.mean(variations))
        told = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
        assert means["categorical"] < 0.05 < 0.1 < means["ksone"], told

    def test_layers_sampled_gene_by_gene_stay_far_closer_than_the_published_fit(self, vectors):
        """The published variables take depth, kernel and expand ratio of a layer together, our genes one by one."""
        genes, survivors_NG = self.survivors(vectors)
        encoding = Encoding(genes.space)
        lessons = Weighted(LAWS["categorical"](genes, survivors_NG), subnets=ENOUGH // 4).lessons(
            genes.space, random.Random(0)
        )
        sampled = np.array([encoding.encode(lesson.arch) for lesson in lessons])
        found = [total_variation(shares(ours, 10), shares(theirs, 10))
                 for ours, theirs in zip(sampled.T[2:], vectors.T[2:], strict=True)]  # fmt: skip
        assert np.mean(found) < 0.08, f"mean total variation {np.mean(found):.3f}; published 0.302"

    def test_what_is_sampled_has_the_estimated_law(self, vectors):
        """Chi-squared of each gene among the sampled networks in which it matters; one resolution holds for a whole step."""
        genes, survivors_NG = self.survivors(vectors)
        rows, rng = LAWS["categorical"](genes, survivors_NG), random.Random(11)
        steps = [Weighted(rows, subnets=20).lessons(genes.space, rng) for _ in range(ENOUGH // 20)]
        sampled_BG = genes.encode([lesson.arch for lessons in steps for lesson in lessons])
        assert p_value(sampled_BG[::20, 0], rows[0]) > 1e-3
        matter_BG, sampled_BG = genes.matter(sampled_BG)[:, 1:], sampled_BG[:, 1:]
        found = [p_value(sampled_BG[matter_BG[:, g], g], row) for g, row in enumerate(rows[1:])]
        assert min(found) * len(found) > 1e-3
        uniform = [p_value(sampled_BG[matter_BG[:, g], g], [1 / len(row)] * len(row)) for g, row in enumerate(rows[1:])]
        assert min(uniform) < 1e-6


class TestCategorical:
    def test_it_counts_only_survivors_in_which_the_gene_matters(self):
        genes = Genes(get_space("ofav2_mbv3_ee_p_w1.0"))
        survivors_NG = INITIAL["uniform"](genes, 200, np.random.default_rng(0))
        rows, matter_NG = LAWS["categorical"](genes, survivors_NG), genes.matter(survivors_NG)
        last = genes.of("depth").stop - 1  # matters before the last exit only
        assert 0 < matter_NG[:, last].sum() < 100
        for g, row in enumerate(rows):
            counts = np.bincount(survivors_NG[matter_NG[:, g], g], minlength=len(row))
            assert row == pytest.approx((counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(row)))

    def test_every_choice_keeps_a_probability_and_genes_that_never_matter_are_uniform(self):
        genes = Genes(get_space("ofav2_mbv3_ee_p_w1.0"))
        smallest_NG = genes.encode([genes.space.smallest()] * 150)
        rows = LAWS["categorical"](genes, smallest_NG)
        assert all(weight > 0 for row in rows for weight in row)
        never = np.flatnonzero(~genes.matter(smallest_NG).any(axis=0))
        assert len(never) > 50
        assert all(rows[g] == pytest.approx([1 / len(rows[g])] * len(rows[g])) for g in never)


class TestKsone:
    def test_it_takes_no_notice_of_frequencies_between_the_least_and_the_greatest_value(self):
        values = np.array([0] * 140 + [4] * 5 + [8] * 5)
        weights = ksone(values, 9)
        assert weights.sum() == pytest.approx(1)
        assert np.ptp(weights[1:8]) < 1e-6
        assert weights[0] < 0.15

    def test_values_beyond_the_choices_are_clipped_and_one_value_is_certain(self):
        assert ksone(np.array([2] * 20), 3) == pytest.approx([0, 0, 1])
        assert ksone(np.array([], dtype=np.int64), 4) == pytest.approx([0.25] * 4)
        assert ksone(np.array([0, 0, 0]), 1) == pytest.approx([1])
        assert ksone(np.array([0] * 50 + [3] * 50), 4).min() > 0.15  # neither 1 nor 2 was observed

    def test_its_rows_can_be_sampled_in_any_space(self):
        genes = Genes(get_space("digits"))
        survivors_NG = INITIAL["natv2"](genes, 10, np.random.default_rng(2))
        rows = LAWS["ksone"](genes, survivors_NG)
        assert genes.space.contains(Weighted(rows).lessons(genes.space, random.Random(0))[0].arch)
