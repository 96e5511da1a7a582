import pytest
import safetensors.torch
import torch

from ofa.arch import ArchError
from ofa.export import (
    Description,
    from_safetensors,
    onnx_difference,
    pt2_difference,
    to_onnx,
    to_program,
    to_pt2,
    to_safetensors,
)
from ofa.extract import extract
from ofa.images import Scale, resize
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
ARCHS = [SPACE.smallest(), SPACE.uniform(28, 2, 5, 2), SPACE.largest()]
SCALE = Scale((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


def images(count=5):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def members():
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    return [extract(net, arch, calibrate(net, arch, [resize(images(64), arch.resolution)])) for arch in ARCHS]


def test_files_bring_the_same_network_back(members, tmp_path):
    single = Description.of("digits", 10, ARCHS[1], SCALE, ARCHS[1].resolution)
    path, x = tmp_path / "net.safetensors", resize(images(), 28)
    path.write_bytes(to_safetensors(members[1], single))
    loaded, read = from_safetensors(str(path))
    assert read == single
    assert (read.scale, read.input_resolution) == (SCALE, 28)
    with torch.no_grad():
        assert torch.equal(loaded(x), members[1](x))


def test_onnx_and_torch_export_give_what_torch_gives(members):
    network, x = members[2], images()
    program = to_program(network, x.shape[-1])
    assert onnx_difference(to_onnx(program), network, x) < 1e-5
    assert pt2_difference(to_pt2(program), network, x) < 1e-5
    with torch.no_grad():
        assert network(x).abs().max() > 0.01  # the agreement is about something


def test_a_file_that_is_no_network_gets_one_line(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"not a network")
    with pytest.raises(ArchError, match="is no exported network"):
        from_safetensors(str(path))
    with pytest.raises(ArchError, match="is no exported network"):
        from_safetensors(str(tmp_path / "missing"))
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, metadata={"ofa": '{"space": "digits"}'}))
    with pytest.raises(ArchError, match=r"net.safetensors: has no 'classes'; expected space, [^\n]*; this is no exported"):
        from_safetensors(str(path))
