"""The integer vectors of NAT and NATv2 against pairs that the released code made, and NAT's own networks."""

import json
import random
from math import prod

import numpy as np
import pytest

from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.layout import MAIN_BRANCH
from ofa.spaces import get_space
from search.adapt.encoding import Encoding

SPACES = {
    "base": "ofav2_mbv3_se_b_w1.0",
    "net_depth": "ofav2_mbv3_ee_b_w1.0",
    "parallel": "ofav2_mbv3_se_p_w1.0",
    "net_depth_parallel": "ofav2_mbv3_ee_dp_w1.0",
}
WIDTHS = [1.0, 1.2]
# The files net.encoding of NAT-M1 to M4 (human-analysis/neural-architecture-transfer, subnets/imagenet).
OFFICIAL = {
    "imagenet/NAT-M1": "08011001440551052208877",
    "imagenet/NAT-M2": "08111003100632076009771",
    "imagenet/NAT-M3": "08121105451581189759771",
    "imagenet/NAT-M4": "12115105572981578947781",
}


@pytest.fixture(scope="module")
def published(reference):
    return json.loads((reference / "ofav2_natv2_mlt/natv2_search_spaces.json").read_text())


@pytest.fixture(scope="module")
def nats(reference):
    return json.loads((reference / "ofa/nat_subnets.json").read_text())["nets"]


def encoding(name, resolutions=None):
    """The encoding of a published space, at its three resolutions or at others."""
    return Encoding(get_space(SPACES[name]).only(resolutions=resolutions or (48, 56, 64)))


def arch_of(subnet):
    """The arch that a published dictionary describes."""
    return Arch(subnet["r"], tuple(subnet["d"]), tuple(subnet["ks"]), tuple(subnet["e"]),
                level=tuple(subnet.get("nw", ())), exit=subnet.get("nd", 0))  # fmt: skip


def renumbered(vector, head):
    """A vector of the notebook with parallel blocks, whose revision of the code numbered level 3 before level 4."""
    others = {code: code + (9 if 19 <= code <= 27 else -9) for code in range(19, 37)}
    return [*vector[:head], *(others.get(code, code) for code in vector[head:])]


def without_effect(space, arch, position):
    """Why the code of layer `position` has no effect, as a whole or in part; None if all of it has."""
    slot, level = space.slots[position], arch.level[position] if arch.level else MAIN_BRANCH
    if arch.exit and slot.stage >= arch.exit:
        return "past the exit"
    return "no elastic branch" if level and not level & MAIN_BRANCH else None


@pytest.mark.parametrize("name", SPACES)
class TestPublishedSpaces:
    def test_the_bounds_are_the_published_ones(self, published, name):
        here = encoding(name)
        assert list(here.lower) == published[name]["lb"]
        assert list(here.upper) == published[name]["ub"]

    def test_every_pair_is_equal_both_ways(self, published, name):
        pairs = [(pair, encoding(name)) for pair in published[name]["examples"]]
        pairs += [(pair, encoding(name, (48, 52, 56, 60, 64)))
                  for pair in published["notebook_pairs_res_48_64_step4"] if pair["space"] == name]  # fmt: skip
        assert len(pairs) >= 5
        for pair, here in pairs:
            vector, subnet = pair["x"], pair["subnet"]
            head = len(vector) - len(here.space.slots)
            if pair.get("space") == "parallel":
                vector = renumbered(vector, head)
            arch, width = here.decode(vector)
            assert (arch, WIDTHS[width]) == (arch_of(subnet), subnet["w"])
            assert here.decode(here.encode(arch, width)) == (arch, width)
            assert list(here.encode(arch, width)[:head]) == vector[:head]
            for position, (ours, theirs) in enumerate(zip(here.encode(arch, width)[head:], vector[head:], strict=True)):
                reason = without_effect(here.space, arch, position)
                if reason is None:
                    assert ours == theirs
                elif reason == "past the exit":  # the published code keeps any code there
                    assert ours == here.lower[head + position]
                else:  # and any kernel and expand ratio of a level without the branch that has them
                    assert ours == (theirs - 1) // 9 * 9 + 1

    def test_every_code_of_a_layer_is_the_published_block(self, published, name):
        here, codes = encoding(name), published[name]["str2var"]
        most = here.space.uniform(*(choices[-1] for choices in map(here.space.values, here.space.forest.fields)))
        vector = list(here.encode(most))
        first = len(vector) - len(here.space.slots)
        for text, code in codes.items():
            if text == "skip":
                continue
            wanted = {key: int(value) for key, value in (part.split("@") for part in text.split("_"))}
            vector[first] = code
            arch, _ = here.decode(vector)
            level = wanted.get("nw", MAIN_BRANCH)
            assert (arch.level[0] if arch.level else MAIN_BRANCH) == level
            elastic = bool(level & MAIN_BRANCH)
            assert (arch.kernel[0], arch.expand[0]) == ((wanted["ks"], wanted["e"]) if elastic else (0, 0))
            assert here.encode(arch)[first] == (code if elastic else (code - 1) // 9 * 9 + 1)

    def test_sampled_archs_have_vectors_within_the_bounds_and_are_decoded_exactly(self, name):
        here, rng = encoding(name), random.Random(0)
        for _ in range(50):
            arch, width = here.space.sample(rng), rng.randrange(2)
            vector = here.encode(arch, width)
            assert all(least <= value <= most for least, value, most in zip(here.lower, vector, here.upper, strict=True))
            assert here.decode(vector) == (arch, width)
            assert here.decode(np.array(vector)) == (arch, width)


def test_the_sizes_are_the_published_ones(published):
    sizes = published["sizes"]
    distinct = {"base": "base", "net_depth": "net_depth_distinct", "parallel": "parallel_distinct",
                "net_depth_parallel": "net_depth_parallel_truly_distinct"}  # fmt: skip
    for name, key in distinct.items():
        assert encoding(name).space.size * len(WIDTHS) == int(sizes[key])
    vectors = {"base": "base", "net_depth": "net_depth_genotype", "parallel": "parallel",
               "net_depth_parallel": "net_depth_parallel_genotype"}  # fmt: skip
    for name, key in vectors.items():
        here = encoding(name)
        head = len(here.upper) - len(here.space.slots)
        stages = [here.upper[i : i + 4] for i in range(head, len(here.upper), 4)]
        assert prod(most + 1 for most in here.upper[:head]) * prod(
            sum(prod(codes[:depth]) for depth in (2, 3, 4)) for codes in stages
        ) == int(sizes[key])


class TestPublishedNetworks:
    def encoding(self):
        return Encoding(get_space("ofa_mbv3_w1.0").at(range(192, 257, 4)))

    def arch(self, net):
        kernel, expand = (tuple(value or 0 for value in net[key]) for key in ("ks", "e"))
        return Arch(net["image_size"], tuple(net["d"]), kernel, expand)

    def test_official_strings_are_those_of_the_networks(self, nats):
        here = self.encoding()
        for name, text in OFFICIAL.items():
            vector = here.encode(self.arch(nats[name]), WIDTHS.index(nats[name]["width_mult"]))
            assert here.to_text(vector) == text
            assert here.from_text(text) == vector
            assert here.decode(vector) == (self.arch(nats[name]), WIDTHS.index(nats[name]["width_mult"]))

    def test_every_network_is_decoded_as_it_was_encoded(self, nats):
        here = self.encoding()
        assert len(nats) == 14
        for net in nats.values():
            arch, width = self.arch(net), WIDTHS.index(net["width_mult"])
            vector = here.encode(arch, width)
            assert len(vector) == 22
            assert here.decode(here.from_text(here.to_text(vector))) == (arch, width)


class TestVectorsOfOtherSpaces:
    def test_the_last_stage_of_one_block_has_one_layer(self):
        here = Encoding(get_space("ofa_proxyless_w1.3"), widths=1)
        assert (here.lower[-1], here.upper[-1], here.upper[1]) == (1, 9, 0)
        arch = here.space.sample(random.Random(1))
        assert here.decode(here.encode(arch)) == (arch, 0)

    def test_layers_that_no_depth_reaches_are_always_skipped(self):
        here = Encoding(get_space("ofa_mbv3_w1.0").only(depths=(3,)))
        assert here.lower[2:6] == (1, 1, 1, 0)
        assert here.upper[2:6] == (9, 9, 9, 0)

    def test_a_space_with_other_choices_has_no_vectors(self):
        with pytest.raises(ArchError, match=r"^space ofa_resnet50: it chooses resolution, depth, expand, width; NAT's"):
            Encoding(get_space("ofa_resnet50"))


class TestBadVectors:
    GOOD = (0, 0, *(1, 1, 0, 0) * 5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({0: 3}, r"variable 0 \(resolution\) is 3; it may be 0 to 2"),
            ({1: -1}, r"variable 1 \(width\) is -1; it may be 0 to 1"),
            ({3: 0}, r"variable 3 \(stage 0 slot 1\) is 0; it may be 1 to 9"),
            ({21: 10}, r"variable 21 \(stage 4 slot 3\) is 10; it may be 0 to 9"),
            ({2: 1.5}, r"variable 2 \(stage 0 slot 0\) is 1.5; it may be 1 to 9"),
            ({2: "1"}, r"variable 2 \(stage 0 slot 0\) is '1'; it may be 1 to 9"),
            ({2: None}, r"variable 2 \(stage 0 slot 0\) is None; it may be 1 to 9"),
            ({9: 4}, r"stage 1 skips slot 2 but uses slot 3; a stage skips its last slots"),
        ],
    )
    def test_each_has_one_line_with_the_variable(self, change, message):
        here = encoding("base")
        assert here.decode(self.GOOD)[0] == here.space.smallest()
        with pytest.raises(ArchError, match=f"^vector: {message}$"):
            here.decode([change.get(i, value) for i, value in enumerate(self.GOOD)])

    def test_another_length_names_the_variables(self):
        with pytest.raises(ArchError, match=r"^vector: found 21 variables; .* has 22: resolution, width, and 20 layers$"):
            encoding("base").decode(self.GOOD[:-1])
        with pytest.raises(ArchError, match=r"^vector: found 22 variables; .* 23: resolution, width, exit, and 20 layers$"):
            encoding("net_depth").decode(self.GOOD)

    def test_a_depth_that_the_space_lacks_is_refused(self):
        here = Encoding(get_space("ofa_mbv3_w1.0").only(depths=(2, 4)))
        with pytest.raises(ArchError, match="depth of stage 0 is 3, may be 2, 4"):
            here.decode((0, 0, 1, 1, 1, 0, *(1, 1, 0, 0) * 4))

    def test_a_width_that_there_is_not_is_refused(self):
        here = encoding("base")
        with pytest.raises(ArchError, match=r"variable 1 \(width\) is 2; it may be 0 to 1"):
            here.encode(here.space.smallest(), 2)

    def test_an_arch_of_another_space_is_refused(self):
        with pytest.raises(ArchError, match="is not in the space"):
            encoding("base").encode(get_space("digits").smallest())

    @pytest.mark.parametrize(
        "text", ["", "0801100144055105220887", "080110014405510522088770", "0801100144055105220887x", "٠" * 23]
    )
    def test_another_text_is_refused(self, text):
        here = Encoding(get_space("ofa_mbv3_w1.0").at(range(192, 257, 4)))
        with pytest.raises(ArchError, match=r"^vector: found .*; expected 23 digits in the space ofa_mbv3_w1\.0$"):
            here.from_text(text)
        with pytest.raises(ArchError, match=r"variable 0 \(resolution\) is 17; it may be 0 to 16"):
            here.from_text("17011001440551052208877")


def test_in_a_space_of_two_widths_the_width_is_a_gene_and_costs_are_those_of_the_published_networks(nats):
    space = get_space("ofa_mbv3_w1.0_w1.2").at(range(192, 257, 4))
    here = Encoding(space)
    for name, text in OFFICIAL.items():
        vector = here.from_text(text)
        arch, width = here.decode(vector)
        assert arch.width == (width,) and here.encode(arch) == vector
        assert cost(space, arch, 1000).params == nats[name]["params"]
