import itertools
import random
from dataclasses import replace

import pytest

from ofa.arch import Arch, ArchError
from ofa.spaces import get_space

DIGITS = get_space("digits")


def test_digits_has_a_million_sub_networks_and_more():
    assert DIGITS.size >= 10**6


def test_size_counts_distinct_networks():
    tiny = DIGITS.only(resolutions=(24,), depths=(1, 2), kernels=(3, 5), expands=(1,))
    blocks = 9
    every = {
        Arch(24, depth, kernel, (1,) * blocks)
        for depth in itertools.product((1, 2), repeat=3)
        for kernel in itertools.product((3, 5), repeat=blocks)
    }
    assert len(every) == tiny.size == (2 + 4) ** 3


def test_published_sizes_of_the_mobilenetv3_space():
    """(9^2 + 9^3 + 9^4)^5 architectures at 25 resolutions; the paper says 2 x 10^19 for one."""
    assert get_space("ofa_mbv3_w1.0").size == 25 * (9**2 + 9**3 + 9**4) ** 5


def test_published_sizes_of_the_other_spaces():
    """Proxyless has one more block of 9 kinds; ResNet-50D 2.46 x 10^12 networks at each resolution."""
    assert get_space("ofa_proxyless_w1.3").size == 25 * 9 * (9**2 + 9**3 + 9**4) ** 5
    resnet = get_space("ofa_resnet50")
    assert f"{resnet.size / len(resnet.resolutions):.2e}" == "2.46e+12"


@pytest.mark.parametrize("name", ["ofa_mbv3_w0.5_32px", "ofa_mbv3_w0.35_64px", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_every_family_samples_what_it_contains(name):
    space, rng = get_space(name), random.Random(0)
    archs = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(100))]
    assert all(space.contains(arch) for arch in archs)
    assert not any(DIGITS.contains(arch) for arch in archs)
    assert {e for arch in archs for e in arch.expand} == {0, *space.expands}
    assert {w for arch in archs for w in arch.width} == ({0, 1, 2} if name == "ofa_resnet50" else set())


@pytest.mark.parametrize("side", [32, 64])
def test_small_images_keep_a_feature_map_of_four_pixels(side):
    space = get_space(f"ofa_mbv3_w0.5_{side}px")
    assert space.resolutions[-1] == side
    graph = space.graph(space.smallest())
    sizes = dict(zip(graph.strides, graph.sizes(side), strict=True))
    assert sizes["average"] == 4


def test_a_multiplier_that_cannot_be_is_one_line():
    with pytest.raises(ArchError, match=r"the width multiplier is 9.5; use 0.1 to 4.0"):
        get_space("ofa_mbv3_w9.5")


def test_samples_and_extremes_are_in_the_space():
    rng = random.Random(0)
    assert all(DIGITS.contains(a) for a in [DIGITS.largest(), DIGITS.smallest(), *(DIGITS.sample(rng) for _ in range(200))])


def test_every_choice_is_sampled():
    rng = random.Random(0)
    archs = [DIGITS.sample(rng) for _ in range(300)]
    assert {a.resolution for a in archs} == set(DIGITS.resolutions)
    assert {d for a in archs for d in a.depth} == set(DIGITS.depths)
    assert {k for a in archs for k in a.kernel} == {0, *DIGITS.kernels}
    assert {e for a in archs for e in a.expand} == {0, *DIGITS.expands}


def test_a_smaller_space_samples_only_what_it_has():
    rng = random.Random(0)
    smaller = DIGITS.only(resolutions=(28,), kernels=(3,))
    archs = [smaller.sample(rng) for _ in range(50)]
    assert {a.resolution for a in archs} == {28}
    assert {k for a in archs for k in a.kernel} <= {0, 3}
    assert all(DIGITS.contains(a) for a in archs)
    assert not smaller.contains(DIGITS.largest())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resolution": 25}, "resolution is 25, may be 24, 28, 32"),
        ({"kernel": (9,) * 9}, "kernel of stage 0 slot 0 is 9, may be 3, 5, 7"),
        ({"expand": (3,) * 9}, "expand of stage 0 slot 0 is 3, may be 1, 2, 4"),
    ],
)
def test_an_arch_outside_the_space_is_told_why(change, says):
    arch = replace(DIGITS.largest(), **change)
    assert not DIGITS.contains(arch)
    with pytest.raises(ArchError, match=says):
        DIGITS.checked(arch)


def test_an_arch_of_another_space_is_told_why():
    with pytest.raises(ArchError, match="5 stages of 4 slots"):
        DIGITS.checked(replace(get_space("ofa_mbv3_w1.0").largest(), resolution=32))


def test_an_unknown_space_is_answered_with_those_there_are():
    with pytest.raises(
        ArchError,
        match=r"no space is called 'digit'; there are digits, nas_bench_macro, ofa_mbv3_w0.5_32px .*"
        r"ofa_mbv3_w1.0, .*ofa_mbv3_w1.2, ofa_prox",
    ):
        get_space("digit")


def test_values_that_the_space_lacks_are_refused():
    with pytest.raises(ArchError, match=r"kernels \[9\] are not among 3, 5, 7"):
        DIGITS.only(kernels=(9,))
