"""Networks with several exits as modules and files: what they answer, and that cascades answer as they were scored."""

import dataclasses

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from cluster.progress import Reporter
from ensemble.cascade import Cascade
from ensemble.network import CascadeDescription, CascadeNetwork, from_safetensors
from jobs.tools.serve import serve, vote_of
from ofa.arch import ArchError
from ofa.export import Description, onnx_difference, pt2_difference, to_onnx, to_program, to_pt2, to_safetensors
from ofa.extract import extract
from ofa.images import Scale
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet

NAME = "ofav2_mbv3_ee_dp_w0.25_32px"
SPACE = get_space(NAME).only(resolutions=(20,))
SCALE = Scale((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
EXITS = (1, 3, 5)
ARCH = SPACE.uniform(20, 5, 2, 6, 3, 3)


def images(count=12):
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def network():
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()

    with torch.no_grad():
        for i in range(1, 6):
            net.part(f"exit{i}_classifier").weight *= 20  # confident here and there
    return extract(net, ARCH, calibrate(net, ARCH, [images(64)], EXITS), exits=EXITS)


def thresholds_of(network):
    """Between the confidences of the images, so that some leave at every exit."""
    with torch.no_grad():
        return [float(logits.softmax(1).max(1).values.median()) for logits in network(images())[:-1]]


def test_every_image_has_the_answer_of_the_exit_that_it_leaves_by(network):
    thresholds = thresholds_of(network)
    with torch.no_grad():
        probs, exits = CascadeNetwork(network, thresholds).leave(images())
        every = torch.stack([logits.softmax(1) for logits in network(images())])
    wanted = Cascade(tuple(thresholds)).exits(every.max(2).values.numpy())
    assert exits.tolist() == wanted.tolist()
    assert len(set(exits.tolist())) == 3
    torch.testing.assert_close(probs, every[exits, torch.arange(12)], rtol=1e-4, atol=1e-5)


def test_layers_past_the_exit_of_every_image_are_not_computed(network, monkeypatch):
    computed = []
    part = network.part

    def counting(name):
        computed.append(name)
        return part(name)

    monkeypatch.setattr(network, "part", counting)
    with torch.no_grad():
        _, exits = CascadeNetwork(network, (0.0, 0.0)).leave(images())
    assert set(exits.tolist()) == {0}
    assert computed[-1] == "exit1_classifier" and not [name for name in computed if name.startswith("stage1")]


def test_extremes_of_the_thresholds_are_the_first_and_the_last_exit(network):
    with torch.no_grad():
        every = [logits.softmax(1) for logits in network(images())]
        torch.testing.assert_close(CascadeNetwork(network, (0, 0))(images()), every[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(CascadeNetwork(network, (1, 1))(images()), every[-1], rtol=1e-4, atol=1e-5)


def test_a_file_of_several_exits_brings_them_back(network, tmp_path):
    description = Description.of(NAME, 10, ARCH, SCALE, 20, EXITS)
    (tmp_path / "net.safetensors").write_bytes(to_safetensors(network, description))
    loaded, read = from_safetensors(str(tmp_path / "net.safetensors"))
    assert read == description and read.exits == EXITS
    with torch.no_grad():
        for one, other in zip(loaded(images()), network(images()), strict=True):
            assert torch.equal(one, other)


def test_a_file_of_exits_that_are_added_up_brings_them_back_and_other_weights_are_one_line(network, tmp_path):
    description, weights = Description.of(NAME, 10, ARCH, SCALE, 20, EXITS, (0.5, 0.25, 0.25)), (0.5, 0.25, 0.25)
    path = tmp_path / "net.safetensors"
    path.write_bytes(to_safetensors(network, description))
    loaded, read = from_safetensors(str(path))
    assert read == description and read.outputs == ["output"]
    with torch.no_grad():
        wanted = sum(weight * one for weight, one in zip(weights, network(images()), strict=True))
        torch.testing.assert_close(loaded(images()), wanted)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    assert vote_of(loaded, read, 0, pixels).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    path.write_bytes(to_safetensors(network, dataclasses.replace(description, exit_weights=(1.0,))))
    with pytest.raises(ArchError, match="has 1 weights for 3 exits"):
        from_safetensors(str(path))


def test_a_file_of_a_cascade_brings_it_back_and_is_served(network, tmp_path):
    thresholds = tuple(thresholds_of(network))
    description = CascadeDescription.of_exits(NAME, 10, ARCH, SCALE, EXITS, thresholds)
    cascade = CascadeNetwork(network, thresholds).eval()
    (tmp_path / "net.safetensors").write_bytes(to_safetensors(cascade, description))
    loaded, read = from_safetensors(str(tmp_path / "net.safetensors"))
    assert read == description
    with torch.no_grad():
        assert torch.equal(loaded(images()), cascade(images()))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 20, 20), dtype=np.uint8)
    votes = vote_of(loaded, read, 0, pixels)
    assert votes.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(votes), cascade(SCALE(torch.from_numpy(pixels))))


@pytest.mark.slow  # jobs/test_run_with_exits.py exports exits in every suite
def test_onnx_and_torch_export_have_one_output_an_exit(network):
    description = Description.of(NAME, 10, ARCH, SCALE, 20, EXITS)
    program = to_program(network, 20)
    onnx = to_onnx(program, description.outputs)
    assert onnx_difference(onnx, network, images()) < 1e-4
    assert pt2_difference(to_pt2(program), network, images()) < 1e-4
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["exit1", "exit3", "exit5"]


@pytest.mark.parametrize(("thresholds", "says"), [((0.5,), "1 thresholds and 3 exits"), ((0.5, 2.0), "exit 2 is 2.0")])
def test_a_file_whose_thresholds_do_not_fit_is_one_line(network, tmp_path, thresholds, says):
    description = CascadeDescription.of_exits(NAME, 10, ARCH, SCALE, EXITS, thresholds)
    (tmp_path / "net.safetensors").write_bytes(to_safetensors(network, description))
    with pytest.raises(ArchError, match=says):
        from_safetensors(str(tmp_path / "net.safetensors"))


@pytest.mark.parametrize(("exits", "says"), [((3, 1), "do not ascend"), ((1, 1), "do not ascend"), ((1, 6), "the space")])
def test_a_file_with_other_exits_than_its_network_is_one_line(network, tmp_path, exits, says):
    description = Description.of(NAME, 10, ARCH, SCALE, 20, exits)
    (tmp_path / "net.safetensors").write_bytes(to_safetensors(network, description))
    with pytest.raises(ArchError, match=says):
        from_safetensors(str(tmp_path / "net.safetensors"))


def test_a_file_with_an_exit_after_its_networks_last_is_one_line(network, tmp_path):
    early = dataclasses.replace(ARCH, exit=2)
    (tmp_path / "net.safetensors").write_bytes(to_safetensors(network, Description.of(NAME, 10, early, SCALE, 20, (1, 3))))
    with pytest.raises(ArchError, match="its network none after 2"):
        from_safetensors(str(tmp_path / "net.safetensors"))


def test_several_outputs_are_not_served_and_a_cascade_is_advised(network, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(to_safetensors(network, Description.of(NAME, 10, ARCH, SCALE, 20, EXITS)))
    with pytest.raises(InputError, match="has 3 outputs, one for each exit; serve a cascade"):
        serve(str(path), "127.0.0.1", 0, "local", Reporter("plain"))
