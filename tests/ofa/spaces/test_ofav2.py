"""OFAv2's spaces against the released code's counts, a network written by hand, and brute force."""

import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.extract import extract
from ofa.genes import Genes
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet
from search.costs.exact import CostTable

VARIANTS = [f"{exits}_{blocks}" for exits in ("se", "ee") for blocks in ("b", "d", "p", "dp")]


def small(variant):
    return get_space(f"ofav2_mbv3_{variant}_w0.25_32px")


def trained_like(space, seed=0):
    """A supernet none of whose weights are special."""
    generator = torch.Generator().manual_seed(seed)
    net = Supernet(space, 10, generator)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def images(count, resolution, seed=1):
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def samples(space, count, seed=0):
    rng = random.Random(seed)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


class TestCosts:
    def rows(self, reference):
        """(space, arch, exits, row) of every network that the released code counted."""
        found = json.loads((reference / "ofav2_natv2_mlt" / "ofav2_network_costs.json").read_text())["networks"]
        for network in found:
            variant, width = network["network"].rpartition("_OFA")[0].lower(), network["width_mult"]
            name = f"ofav2_mbv3_{variant}_w{width}_published" if variant else f"ofav2_mbv3_se_b_w{width}"
            space = get_space(name)
            for row in network["subnets"]:
                s = row["setting"]
                values = {"depth": s["d"], "kernel": s["ks"], "expand": s["e"], "level": s.get("nw"), "exit": s.get("nd", 5)}
                arch = space.arch([{**values, "resolution": row["resolution"]}[gene.field] for gene in space.forest.genes])
                yield space, arch, (1, 2, 3, 4, 5) if row["all_exits"] else (), row
            net = Supernet(space, 200)
            assert sum(p.numel() for p in net.parameters()) == network["supernet_params"], name

    def test_params_and_macs_of_every_network_are_those_of_the_released_code(self, reference):
        count = 0
        for space, arch, exits, row in self.rows(reference):
            graph = space.graph(arch, exits, 200)
            costs = [node.part.cost(size) for node, size in zip(graph.nodes, graph.sizes(arch.resolution), strict=True)]
            assert (sum(c.params for c in costs), sum(c.macs for c in costs)) == (row["params"], row["macs"]), row
            count += 1
        assert count == 592

    @pytest.mark.parametrize("width", ["1.0", "1.2", "0.5"])
    def test_a_space_of_plain_blocks_with_one_exit_is_once_for_alls(self, width):
        space, plain = get_space(f"ofav2_mbv3_se_b_w{width}_64px"), get_space(f"ofa_mbv3_w{width}_64px")
        for arch in samples(plain, 20):
            assert cost(space, arch, 200) == cost(plain, arch, 200)
            assert space.graph(arch) == plain.graph(arch)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_vectorised_costs_are_the_graphs(self, variant):
        space = get_space(f"ofav2_mbv3_{variant}_w1.0")
        archs = samples(space, 100)
        genes = Genes(space)
        rows = genes.encode(archs)
        assert genes.decode(rows) == archs
        macs, params = CostTable(space, 200)(rows)
        assert list(zip(macs.tolist(), params.tolist(), strict=True)) == [cost(space, arch, 200) for arch in archs]


class TestSizes:
    def test_sizes_are_those_of_the_formulas(self):
        plain = sum(9**depth for depth in (2, 3, 4))
        parallel = sum((4 * 9 + 3) ** depth for depth in (2, 3, 4))  # 4 levels with and 3 without the elastic branch
        for variant in VARIANTS:
            stage = parallel if "p" in variant else plain
            networks = sum(stage**stages for stages in range(1, 6)) if "ee" in variant else stage**5
            assert get_space(f"ofav2_mbv3_{variant}_w1.0").size == networks * 5, variant  # at five resolutions

    def test_sizes_of_three_resolutions_and_two_widths_are_those_in_the_literature(self):
        sizes = {variant: get_space(f"ofav2_mbv3_{variant}_w1.0").only(resolutions=(48, 56, 64)).size * 2
                 for variant in ("se_b", "ee_b", "ee_p")}  # fmt: skip
        assert [f"{size:.4g}" for size in sizes.values()] == ["1.306e+20", "1.306e+20", "4.527e+32"]

    def test_brute_force_finds_as_many_canonical_archs(self):
        space = replace(
            small("ee_dp"), resolutions=(20,), depths=(1, 2), kernels=(3, 5), expands=(3,), levels=(1, 4), exits=(1, 2),
            stages=small("ee_dp").stages[:2], stage_slots=2,
        )  # fmt: skip
        assert len({space.arch(values) for values in itertools.product(*space.choices)}) == space.size


class TestDense:
    def test_sums_are_those_of_the_released_stages(self, reference):
        """Blocks of a stage that multiply by a factor, all but the first residual."""
        published = json.loads((reference / "ofav2_natv2_mlt" / "ofav2_dense_and_widths.json").read_text())["dense_stage"]
        space = get_space("ofav2_mbv3_se_d_w1.0")
        factors = [2, 3, 5, 7]
        for depth in (2, 3, 4):
            arch = replace(space.largest(), depth=(depth, 2, 2, 2, 2))

            def apply(node, x):
                if not node.name.startswith("stage0_block"):
                    return x
                place = int(node.name[-1])
                return factors[place] * x + (x if place else 0)

            graph = space.graph(arch)
            graph = replace(graph, outputs=("stage1_block0",))  # the input of the next stage, which is passed on
            [found] = graph.flow(torch.tensor(published["input"]), apply)
            assert found.tolist() == published["outputs_by_depth"][str(depth)]

    def test_a_stage_of_five_blocks_adds_each_output_once(self):
        """The released code adds to a stored output in place, which a fifth block would notice."""
        space = replace(get_space("ofav2_mbv3_se_d_w1.0"), stage_slots=5, depths=(5,))
        node = next(node for node in space.graph(space.largest()).nodes if node.name == "stage1_block0")
        assert node.inputs == ("stage0_block4", "stage0_block0", "stage0_block1", "stage0_block2")


def by_hand(net, arch, x, dense):
    """The logits at every exit of an arch, from the weights alone, in training mode."""
    acts = {"relu": F.relu, "h_swish": F.hardswish}

    def norm(layer, y):
        c = y.shape[1]
        return F.batch_norm(y, None, None, layer.weight[:c], layer.bias[:c], training=True, eps=layer.eps)

    def inverted(layer, y, act, *, kernel, mid, residual, stride):
        z = y
        if layer.widen is not None:
            z = acts[act](norm(layer.widen_norm, F.conv2d(z, layer.widen.weight[:mid])))
        weight = layer.depth.weight[:mid]
        for smaller in (5, 3):
            if kernel <= smaller and weight.shape[-1] > smaller:
                centre = weight[:, :, 1:-1, 1:-1].reshape(mid, -1)
                weight = (centre @ layer.depth.transforms[str(smaller)].T).reshape(mid, 1, smaller, smaller)
        z = acts[act](norm(layer.depth_norm, F.conv2d(z, weight, stride=stride, padding=kernel // 2, groups=mid)))
        if layer.se is not None:
            hidden = max(8, (mid // 4 + 4) // 8 * 8)
            hidden += 8 * (hidden < 0.9 * (mid // 4))
            s = z.mean((2, 3), keepdim=True)
            s = F.relu(F.conv2d(s, layer.se.reduce.weight[:hidden, :mid], layer.se.reduce.bias[:hidden]))
            s = F.conv2d(s, layer.se.expand.weight[:mid, :hidden], layer.se.expand.bias[:mid])
            z = z * F.relu6(s + 3) / 6
        z = norm(layer.narrow_norm, F.conv2d(z, layer.narrow.weight[:, :mid]))
        return y + z if residual else z

    def head(prefix, y):
        y = F.hardswish(norm(net.part(f"{prefix}final").norm, F.conv2d(y, net.part(f"{prefix}final").conv.weight)))
        y = F.hardswish(F.conv2d(y.mean((2, 3), keepdim=True), net.part(f"{prefix}mix").conv.weight)).flatten(1)
        return F.linear(y, net.part(f"{prefix}classifier").weight, net.part(f"{prefix}classifier").bias)

    space = net.space
    y = F.hardswish(norm(net.part("stem").norm, F.conv2d(x, net.part("stem").conv.weight, stride=1, padding=1)))
    y = inverted(net.part("first"), y, "relu", kernel=3, mid=y.shape[1], residual=True, stride=1)
    found = []
    for stage in range(arch.exit or 5):
        stride, act = space.stages[stage].stride, space.stages[stage].act
        outputs = []
        for position in range(arch.depth[stage]):
            place, name = 4 * stage + position, f"stage{stage}_block{position}"
            level, total, step = (arch.level[place] if arch.level else 4), 0, 1 if position else stride
            if level & 4:
                mid = int(y.shape[1] * arch.expand[place])
                mid = (mid + 4) // 8 * 8
                total = total + inverted(
                    net.part(name), y, act, kernel=arch.kernel[place], mid=mid, residual=position > 0, stride=step
                )
            if level & 2:
                unit = net.part(f"{name}_conv")
                total = total + acts[act](norm(unit.norm, F.conv2d(y, unit.conv.weight, stride=step)))
            if level & 1:
                z = F.max_pool2d(y, step, ceil_mode=True) if step > 1 else y
                layer = net.part(f"{name}_transform")
                if layer.conv is not None:
                    z = F.conv2d(z, layer.conv.weight, layer.conv.bias)
                total = total + acts[act](norm(layer.norm, z))
            outputs.append(total)
            y = outputs[-1] + sum(outputs[:-2]) if dense else outputs[-1]
        if arch.exit or stage == 4:
            found.append(head(f"exit{stage + 1}_" if arch.exit else "", y))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_written_by_hand_agrees_and_its_gradients_too(variant):
    space = small(variant)
    net = trained_like(space).double().train()
    for arch in samples(space.only(resolutions=(20,)), 2):
        x = images(3, arch.resolution).double()
        weights = torch.randn(3, 10, generator=torch.Generator().manual_seed(2)).double()
        exits = tuple(range(1, arch.exit + 1))
        ours = net(x, arch, exits=exits) if exits else [net(x, arch)]
        theirs = by_hand(net, arch, x, dense="d" in variant.split("_")[1])
        gradients = []
        for logits in (ours, theirs):
            net.zero_grad()
            sum((i + 1) * (one * weights).sum() for i, one in enumerate(logits)).backward()
            gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            error = (gradient - gradients[1][name]).abs().max() / gradient.abs().max().clamp(min=1e-6)
            assert error < 1e-6, (arch.key, name, error)


class TestExits:
    def test_extracted_networks_are_the_supernets_to_the_last_bit(self):
        for variant in VARIANTS:
            space = small(variant)
            net = trained_like(space)
            for arch in samples(space, 3):
                x = images(3, arch.resolution)
                statistics = calibrate(net, arch, [x])
                with torch.no_grad():
                    assert torch.equal(net(x, arch, statistics), extract(net, arch, statistics)(x)), arch.key

    def test_every_level_and_every_exit_is_extracted_to_the_last_bit(self):
        space = small("ee_dp")
        net = trained_like(space)
        largest = replace(space.largest(), resolution=20)
        archs = [replace(largest, exit=after) for after in space.exits]
        archs += [replace(largest, level=(level,) * 20) for level in space.levels]
        for arch in archs:
            x = images(3, 20)
            statistics = calibrate(net, arch, [x])
            with torch.no_grad():
                assert torch.equal(net(x, arch, statistics), extract(net, arch, statistics)(x)), arch.key

    @pytest.mark.parametrize("exits", [(1, 2, 3, 4, 5), (2, 5), (1, 4), (3,)])
    def test_several_exits_in_one_pass_are_each_exit_alone(self, exits):
        space = small("ee_dp")
        net = trained_like(space)
        arch = replace(space.sample(random.Random(3)), resolution=24, exit=5)
        arch = space.arch([value or space.choices[i][0] for i, value in enumerate(arch.values)])
        x = images(3, 24)
        with torch.no_grad():
            together, plain = net(x, arch, exits=exits), extract(net, arch, exits=exits)
            for found in (together, plain(x)):
                assert len(found) == len(exits)
                for after, logits in zip(exits, found, strict=True):
                    assert torch.equal(logits, net(x, replace(arch, exit=after)))

    def test_layers_past_the_last_exit_are_not_in_the_network(self):
        space = small("ee_b")
        names = [node.name for node in space.graph(space.largest(), (1, 3)).nodes]
        assert not [name for name in names if name.startswith(("stage3", "stage4", "exit2", "exit4", "exit5"))]
        assert [name for name in names if "classifier" in name] == ["exit1_classifier", "exit3_classifier"]

    def test_an_exit_before_the_end_is_a_prefix_and_costs_less(self):
        space = small("ee_dp")
        macs = [cost(space, replace(space.largest(), exit=after), 10).macs for after in space.exits]
        assert macs == sorted(set(macs))

    def test_genes_past_the_exit_and_under_inert_branches_are_zero_in_key_and_json(self):
        space = small("ee_p")
        arch = replace(space.largest(), exit=2, level=(4, 3, 1, 7, *[6] * 16))
        assert arch.depth == (4, 4, 0, 0, 0)
        assert arch.level[:8] == (4, 3, 1, 7, 6, 6, 6, 6) and not any(arch.level[8:])
        assert arch.kernel[:4] == (7, 0, 0, 7) and not any(arch.expand[8:])
        assert Arch.from_key(arch.key) == arch == Arch.from_json(json.loads(json.dumps(arch.to_json())))
        assert arch.key.endswith("-x2")


class TestNormalisedSums:
    def test_the_input_of_the_next_block_is_the_normalised_sum_of_the_branches(self):
        space = get_space("ofav2_mbv3_se_p_w0.25_32px_norm").only(resolutions=(20,))
        net = trained_like(space).train()
        seen = {}
        for name in ("stage0_block0", "stage0_block0_conv", "stage0_block0_transform"):
            net.parts[name].register_forward_hook(lambda m, args, output, name=name: seen.__setitem__(name, output))
        net.parts["stage0_block1"].register_forward_hook(lambda m, args, output: seen.__setitem__("next", args[0]))
        net(images(4, 20), space.largest())
        total = seen["stage0_block0"] + seen["stage0_block0_conv"] + seen["stage0_block0_transform"]
        norm = net.parts["stage0_block0_sum"].norm
        wanted = F.batch_norm(total, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        torch.testing.assert_close(seen["next"], wanted, rtol=1e-4, atol=1e-5)

    def test_it_is_extracted_to_the_last_bit_and_costs_two_values_a_channel(self):
        space, plain = get_space("ofav2_mbv3_ee_dp_w0.25_32px_norm"), small("ee_dp")
        net = trained_like(space)
        for arch in samples(space.only(resolutions=(20,)), 2):
            x = images(3, 20)
            statistics = calibrate(net, arch, [x])
            with torch.no_grad():
                assert torch.equal(net(x, arch, statistics), extract(net, arch, statistics)(x))
            blocks = [space.stages[stage].width for stage, depth in enumerate(arch.depth) for _ in range(depth)]
            base = cost(plain, arch, 10)
            assert cost(space, arch, 10) == (base.macs, base.params + 2 * sum(blocks))

    def test_only_parallel_blocks_have_sums(self):
        with pytest.raises(ArchError, match="no space is called"):
            get_space("ofav2_mbv3_ee_d_w1.0_norm")


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"exit": 6}, "exit is 6"),
            ({"exit": 0}, "exit"),
            ({"level": (0,) * 20}, "level of stage 0 slot 0 is 0, may be 1, 2, 3, 4, 5, 6, 7"),
            ({"level": (8,) * 20}, "level of stage 0 slot 0 is 8, may be 1, 2, 3, 4, 5, 6, 7"),
        ],
    )
    def test_what_a_space_has_not_is_one_line(self, change, says):
        space = small("ee_p")
        with pytest.raises(ArchError, match=says) as error:
            space.checked(replace(space.largest(), **change))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("field", ["kernel", "expand"])
    def test_a_gene_of_a_branch_that_is_not_used_is_one_line(self, field):
        arch = small("ee_p").uniform(20, 5, 2, 3, 3, 3)
        doc = arch.to_json()
        doc[field][4] = 3
        with pytest.raises(ArchError, match=rf"{field} of slot 4 is 3, but its level 3 has no such branch; expected 0"):
            Arch.from_json(doc)
        doc[field][4], doc[field][3] = 0, 3  # past the depth of its stage: as in released configs
        assert Arch.from_json(doc) == arch

    def test_an_exit_that_is_not_among_a_spaces_choices_is_refused(self):
        space = small("ee_b").only(exits=(3, 5))
        with pytest.raises(ArchError, match="exit is 4, may be 3, 5"):
            space.checked(replace(space.largest(), exit=4))

    def test_exits_of_a_network_without_them_are_refused(self):
        for variant, exits in (("se_b", (2,)), ("ee_b", (6,)), ("ee_b", (0, 1))):
            space = small(variant)
            with pytest.raises(ArchError, match="was asked for; it has"):
                space.graph(space.largest(), exits)

    @pytest.mark.parametrize("name", ["ofav2_mbv3_ee_x_w1.0", "ofav2_mbv3_ee_b_w9.0", "ofav2_mbv3_ee_b_w1.0_48px"])
    def test_an_unknown_variant_is_one_line(self, name):
        with pytest.raises(ArchError):
            get_space(name)
