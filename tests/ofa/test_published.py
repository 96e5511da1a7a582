"""The names of tensors in the released checkpoints, against those of the published state dicts."""

import json

import pytest

from ofa.published import SPACES, has_checkpoints, is_transform, meta_supernet, published_names, simplified
from ofa.spaces import get_space


@pytest.mark.parametrize("space", SPACES)
def test_every_tensor_of_a_published_supernet_is_one_of_ours_with_its_shape(reference, space):
    shapes = json.loads((reference / "ofa/published_state_dicts.json").read_text())[space]["state_dict"]
    shapes = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    net = meta_supernet(get_space(space), 10)
    state = net.state_dict()
    ours = {there: tuple(state[name].shape) for name, there in published_names(net).items()}
    assert ours == {simplified(name): shape for name, shape in shapes.items()}
    assert len(ours) == len(shapes)
    assert sum(map(is_transform, state)) == sum(name.endswith("_matrix") for name in shapes)


def test_spellings_of_one_name_are_one():
    plain = "blocks.3.conv.depth_conv.bn.weight"
    for name in (plain, "module.blocks.3.mobile_inverted_conv.depth_conv.bn.bn.weight", f"module.module.{plain}"):
        assert simplified(name) == plain
    assert simplified("input_stem.1.conv.conv.conv.weight") == "input_stem.1.conv.weight"
    assert simplified("blocks.0.conv1.conv.conv.weight") == "blocks.0.conv1.conv.weight"
    assert simplified("classifier.linear.linear.bias") == "classifier.linear.bias"


def test_only_the_families_of_the_released_code_have_checkpoints():
    assert all(has_checkpoints(get_space(name)) for name in (*SPACES, "digits", "ofa_mbv3_w0.5_32px"))
    assert not any(has_checkpoints(get_space(name)) for name in ("ofav2_mbv3_ee_d_w1.0", "ofa_mbv3_w1.0_w1.2"))
