import json
import random

import pytest

from ofa.arch import Arch, ArchError
from ofa.spaces import get_space


def arch(depth=(1, 3), kernel=(3, 5, 7, 3, 5, 7), expand=(1, 2, 4, 1, 2, 4)):
    return Arch(24, depth, kernel, expand)


def test_genes_of_unused_slots_are_zero():
    assert arch().kernel == (3, 0, 0, 3, 5, 7)
    assert arch().expand == (1, 0, 0, 1, 2, 4)


def test_equal_networks_are_equal_values():
    one, other = arch(), arch(kernel=(3, 7, 5, 3, 5, 7), expand=(1, 1, 1, 1, 2, 4))
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key


def test_different_networks_have_different_names():
    space, rng = get_space("digits"), random.Random(0)
    archs = {space.sample(rng) for _ in range(2000)}
    assert len({a.key for a in archs}) == len(archs)


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_json_and_name_give_the_arch_back(name):
    space, rng = get_space(name), random.Random(1)
    for _ in range(100):
        a = space.sample(rng)
        assert Arch.from_json(json.loads(json.dumps(a.to_json()))) == a
        assert Arch.from_key(a.key) == a


def test_lists_make_the_same_arch_as_tuples():
    assert Arch(24, [1, 3], [3, 5, 7, 3, 5, 7], [1, 2, 4, 1, 2, 4]) == arch()


def test_json_has_only_the_keys_of_its_space():
    assert set(get_space("digits").largest().to_json()) == {"resolution", "depth", "kernel", "expand"}
    assert set(get_space("ofa_resnet50").largest().to_json()) == {"resolution", "depth", "expand", "width"}


def test_a_released_proxyless_config_without_its_last_stage_is_the_same_arch():
    largest = get_space("ofa_proxyless_w1.3").largest()
    assert Arch(224, largest.depth[:-1], largest.kernel, largest.expand) == largest
    assert largest.depth == (4, 4, 4, 4, 4, 1)


def test_a_resnet_always_has_the_first_two_blocks_of_a_stage():
    shallow = Arch(224, (0, 0, 0, 1, 2), (), (0.25,) * 18, (0,) * 6)
    used = [e > 0 for e in shallow.expand]
    assert used == [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2 + [True] * 5 + [False] + [True] * 4


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ({"resolution": 24}, "exactly resolution, depth, kernel, expand"),
        ([], "expected an object"),
        ({"resolution": "24", "depth": [1], "kernel": [3], "expand": [1]}, "whole number"),
        ({"resolution": 24, "depth": [1], "kernel": [None], "expand": [1]}, "entry 0 of kernel is None; expected a whole"),
        ({"resolution": 24, "depth": [2], "kernel": [3], "expand": [1]}, "may be 1 to 1"),
        ({"resolution": 24, "depth": [1, 1, 1], "kernel": [3] * 4, "expand": [1] * 4}, "every slot"),
        ({"resolution": 24, "depth": [1], "kernel": [3, 3], "expand": [1]}, "both list every slot"),
        ({"resolution": 24, "depth": [1], "expand": [1], "width": [1]}, "without kernels it is a ResNet-50D's"),
    ],
)
def test_what_is_no_arch_gets_one_line(doc, says):
    with pytest.raises(ArchError, match=says) as caught:
        Arch.from_json(doc)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "r24", "r24-d1-k3", "x24-d1-k3-e1", "r24-d1-k3-ea", "r24-d5-k3-e1"])
def test_a_wrong_name_gets_one_line(key):
    with pytest.raises(ArchError):
        Arch.from_key(key)
