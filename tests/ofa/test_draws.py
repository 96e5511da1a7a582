"""Which sub-networks a step samples, and what each learns from."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from ofa.draws import Given, Lesson, Sandwich, Uniform, Weighted
from ofa.genes import Genes
from ofa.phases import Phase
from ofa.spaces import get_space

SPACE = get_space("digits")
ENOUGH = 6000


def archs(draw, rng):
    return [lesson.arch for lesson in draw.lessons(SPACE, rng)]


@pytest.mark.parametrize("draw", [Uniform(3), Uniform(2, largest=True), Sandwich(2)], ids=repr)
def test_all_networks_of_a_step_have_one_resolution_and_steps_differ(draw):
    rng, seen = random.Random(0), set()
    for _ in range(30):
        drawn = archs(draw, rng)
        assert len({arch.resolution for arch in drawn}) == 1
        assert all(SPACE.contains(arch) for arch in drawn)
        seen.add(drawn[0].resolution)
    assert seen == set(SPACE.resolutions)


def test_the_sandwich_has_both_extremes_and_all_but_the_largest_learn_from_it():
    lessons = Sandwich(2).lessons(SPACE, random.Random(0))
    resolution = lessons[0].arch.resolution
    assert lessons[0] == Lesson(replace(SPACE.largest(), resolution=resolution), "labels")
    assert lessons[1].arch == replace(SPACE.smallest(), resolution=resolution)
    assert [lesson.learns_from for lesson in lessons] == ["labels", "first", "first", "first"]


def test_given_networks_are_all_sampled_and_no_others():
    given = (SPACE.smallest(), SPACE.largest())
    rng = random.Random(0)
    assert {archs(Given(given), rng)[0] for _ in range(30)} == set(given)
    assert Given(given).extremes(SPACE) == (SPACE.largest(), SPACE.smallest())


def test_a_teacher_is_for_lessons_that_learn_from_labels():
    phase = Phase("p", SPACE, epochs=1, lr=0.1, draw=Sandwich(1), distil=0.5)
    lessons = phase.lessons(random.Random(0))
    assert [(lesson.learns_from, lesson.distil) for lesson in lessons] == [("teacher", 0.5), ("first", 0), ("first", 0)]
    assert all(lesson.learns_from != "teacher" for lesson in replace(phase, distil=0.0).lessons(random.Random(0)))


def test_weighted_genes_have_their_probabilities():
    """Chi-square of each gene's choices against its weights, among the networks in which the gene matters."""
    rng, genes = np.random.default_rng(1), Genes(SPACE)
    weights = tuple(tuple(rng.uniform(0.2, 1, size).tolist()) for size in genes.sizes_G)
    draw, seeds = Weighted(weights), random.Random(3)
    sampled = [archs(draw, seeds)[0] for _ in range(ENOUGH)]
    assert all(SPACE.contains(arch) for arch in sampled)
    p_values = []
    for g, (row, size) in enumerate(zip(weights, genes.sizes_G, strict=True)):
        if size == 1:
            continue
        matters = [arch for arch in sampled if matters_in(arch, g)]
        counts = Counter(int(genes.encode([arch])[0, g]) for arch in matters)
        assert len(matters) > 500
        expected = np.array(row) / sum(row) * len(matters)
        p_values.append(chisquare([counts[i] for i in range(size)], expected).pvalue)
    assert min(p_values) > 0.05 / len(p_values) / 5
    uniform = Counter(arch.resolution for arch in sampled)
    assert chisquare([uniform[r] for r in SPACE.resolutions]).pvalue < 1e-6  # the weights were not ignored


def matters_in(arch, gene):
    """Whether a gene's value is not merely the 0 of an unused slot."""
    values = [arch.resolution, *arch.depth, *arch.kernel, *arch.expand, *arch.width]
    return values[gene] != 0


def test_weighted_networks_of_a_step_have_one_resolution():
    draw = Weighted(tuple((1.0,) * size for size in Genes(SPACE).sizes_G), subnets=4)
    for seed in range(20):
        drawn = archs(draw, random.Random(seed))
        assert len(drawn) == 4 and len({arch.resolution for arch in drawn}) == 1
    assert len(set(drawn)) > 1


def test_weights_for_another_space_are_refused():
    with pytest.raises(AssertionError, match=r"digits: .* probabilities for"):
        Weighted(((1.0,),)).lessons(SPACE, random.Random(0))
