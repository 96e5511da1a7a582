"""Which sub-networks a step samples, and what each learns from."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from ofa.arch import Arch
from ofa.draws import Given, Lesson, Sandwich, Uniform, Weighted
from ofa.genes import Genes
from ofa.phases import Phase
from ofa.spaces import get_space

SPACE = get_space("digits")
ENOUGH = 6000


def archs(draw, rng):
    return [lesson.arch for lesson in draw.lessons(SPACE, rng)]


PAIRS = ((1, 2), (2, 4), (3, 4))


@pytest.mark.parametrize(
    "draw",
    [Uniform(3), Uniform(2, largest=True), Sandwich(2), Uniform(2, extremes=(0.3, 0.2)), Sandwich(2, PAIRS)],
    ids=repr,
)
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
    assert Given(given).ends(SPACE) == (SPACE.largest(), SPACE.smallest())


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


def test_extremes_have_their_probabilities():
    rng = random.Random(5)
    sampled = [archs(Uniform(extremes=(0.25, 0.5)), rng)[0] for _ in range(2000)]
    of_size = Counter(
        "largest" if arch == replace(SPACE.largest(), resolution=arch.resolution)
        else "smallest" if arch == replace(SPACE.smallest(), resolution=arch.resolution)
        else "random"
        for arch in sampled
    )  # fmt: skip
    assert chisquare([of_size[name] for name in ("smallest", "largest", "random")], [500, 1000, 500]).pvalue > 0.01


def test_without_extremes_and_pairs_the_samples_are_those_of_the_space():
    rng, plain = random.Random(7), random.Random(7)
    for _ in range(5):
        [found] = archs(Uniform(), rng)
        assert found == SPACE.only(resolutions=[plain.choice(SPACE.resolutions)]).sample(plain)


@pytest.mark.parametrize("name", ["digits", "ofa_resnet50", "ofa_proxyless_w1.3", "ofav2_mbv3_ee_dp_w1.0"])
def test_coupled_stages_have_one_pair_each_and_the_extremes_are_pairs_too(name):
    """Each stage's depth with the expand ratio of all its blocks; ProxylessNAS's last stage has one depth only."""
    space = get_space(name)
    depths, expands = space.values("depth"), space.values("expand")
    pairs = ((depths[0], expands[0]), (depths[-1], expands[-1]))
    rng, seen = random.Random(3), set()
    for _ in range(40):
        arch = Uniform(coupled=pairs).lessons(space, rng)[0].arch
        assert space.contains(arch) and Arch.from_key(arch.key) == arch
        slots = [gene.place for gene in space.forest.genes if gene.field == "expand"]
        used = {}
        for place in slots:
            slot = space.slots[place]
            if arch.expand[place]:
                used.setdefault(slot.stage, set()).add(arch.expand[place])
        assert all(len(found) == 1 for found in used.values())
        first = len(arch.depth) - space.stage_count
        for stage, found in used.items():
            choices = {gene.place: space.choices[i] for i, gene in enumerate(space.forest.genes) if gene.field == "depth"}
            if len(choices[first + stage]) > 1 and arch.depth[first + stage]:
                assert (arch.depth[first + stage], *found) in pairs
        seen.add(arch)
    assert len(seen) > 20
    largest, smallest = Uniform(coupled=pairs).ends(space)
    assert (largest, smallest) == (space.largest(), space.smallest())


def test_the_extremes_of_coupled_networks_have_the_first_and_the_last_pair():
    largest, smallest = Sandwich(1, ((2, 2), (2, 4))).ends(SPACE)
    assert set(largest.depth) == set(smallest.depth) == {2}
    assert [set(arch.expand) - {0} for arch in (largest, smallest)] == [{4}, {2}]
    assert set(largest.kernel) - {0} == {SPACE.kernels[-1]}


def test_a_ramp_gives_all_but_the_first_lesson_a_growing_share():
    phase = Phase("p", SPACE, epochs=2, lr=0.1, draw=Sandwich(1), ramp_epochs=0.5)
    shares = {done: [lesson.share for lesson in phase.lessons(random.Random(0), done)] for done in (0.0, 0.125, 0.5, 1.0)}
    assert shares == {0.0: [1, 0, 0], 0.125: [1, 0.25, 0.25], 0.5: [1, 1, 1], 1.0: [1, 1, 1]}
    assert [lesson.arch for lesson in phase.lessons(random.Random(0), 0)] == [
        lesson.arch for lesson in replace(phase, ramp_epochs=0.0).lessons(random.Random(0))
    ]


def test_the_largest_network_of_the_step_teaches_the_others_where_it_is_the_teacher():
    phase = Phase("p", SPACE, epochs=1, lr=0.1, draw=Uniform(2, largest=True), distil=0.5, teacher="largest")
    lessons = phase.lessons(random.Random(0))
    assert [(lesson.learns_from, lesson.distil) for lesson in lessons] == [("labels", 0), *[("largest", 0.5)] * 2]
    assert not phase.has_teacher and replace(phase, teacher="first").has_teacher
