"""An exported ensemble on Ray Serve, against the same ensemble as one network."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from cluster.runtime.serving import RequestError
from ensemble.network import Combination, EnsembleDescription, EnsembleNetwork, from_safetensors
from jobs.tools.serve import application, check_host, images_of, latency, token_of
from ofa.export import to_safetensors
from ofa.extract import extract
from ofa.images import Scale, resize
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
PORT = 18423
TOKEN = "a-token-of-a-test-0123456789"


@pytest.fixture
def exported(tmp_path):
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(1)).eval()
    archs = [SPACE.smallest(), SPACE.largest()]
    batches = [torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(2))]
    members = [extract(net, a, calibrate(net, a, [resize(x, a.resolution) for x in batches])) for a in archs]
    combination = Combination(keep=3, weights=(0.4, 0.6))
    vote = EnsembleNetwork(members, [arch.resolution for arch in archs], combination).eval()
    scale, side = Scale((0.3,) * 3, (0.4,) * 3), SPACE.resolutions[-1]
    description = EnsembleDescription.of_members("digits", 10, archs, scale, side, combination)
    path = tmp_path / "ensemble.safetensors"
    path.write_bytes(to_safetensors(vote, description))
    return str(path)


def post(doc, token=TOKEN):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/ensemble", json.dumps(doc).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_an_application_answers_as_the_network_does(ray_cluster, exported):
    network, description = from_safetensors(exported)
    images = np.random.default_rng(3).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    with torch.inference_mode():
        votes = network(resize(description.scale(torch.from_numpy(images)), description.input_resolution)).numpy()
    with application(exported, PORT, token=TOKEN) as ask:
        assert np.allclose(ask(images), votes, atol=1e-5)
        answer = post({"images": images.tolist()})
        assert answer["classes"] == votes.argmax(axis=1).tolist()
        assert np.allclose(answer["votes"], votes, atol=1e-5)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post({"images": [[1, 2]]})
        for token in ("", "another-token-0123456789"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                post({"images": images.tolist()}, token)
        found = latency(exported, ask)
    assert len(found.members_ms) == 2
    assert 0 < found.modelled["max"] < found.modelled["sum"]
    assert found.served_ms > 0


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ([1], "has no 'images'"),
        ({"images": [[1, 2], [3]]}, "rows of different lengths"),
        ({"images": [[1, 2]]}, r"images are \(1, 2\)"),
        ({"images": [[[[300]]] * 3]}, "0 to 255"),
        ({"images": [[[[0.5]]] * 3]}, "whole numbers"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(doc, says):
    with pytest.raises(RequestError, match=says):
        images_of(doc)


class TestWhoMayAsk:
    def test_the_token_is_that_of_the_file_or_else_of_the_environment(self, tmp_path):
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert token_of(str(tmp_path / "token"), {"OFA_SERVE_TOKEN": "another-token-0123456789"}) == TOKEN
        assert token_of(None, {"OFA_SERVE_TOKEN": TOKEN}) == TOKEN
        assert token_of(None, {"OFA_SERVE_TOKEN": ""}) == token_of(None, {}) == ""

    @pytest.mark.parametrize("text", ["", "short", "has a space in it, which no header has", "a-token-\x07-of-a-test"])
    def test_what_is_no_token_is_refused_without_repeating_it(self, tmp_path, text):
        (tmp_path / "token").write_text(text)
        with pytest.raises(InputError, match="is no token; give at least 16") as refused:
            token_of(str(tmp_path / "token"), {})
        assert not text or text not in str(refused.value)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_this_machine_alone_needs_no_token(self, host):
        check_host(host, "")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
    def test_a_host_that_others_reach_needs_one(self, host):
        check_host(host, TOKEN)
        with pytest.raises(
            InputError, match=r"other machines can reach it; give a token .*--token-file FILE or OFA_SERVE_TOKEN"
        ):
            check_host(host, "")

    @pytest.mark.parametrize("host", ["", "a host", "example.org", "1.2.3"])
    def test_what_is_no_address_is_refused(self, host):
        with pytest.raises(InputError, match=r"--host is .*; give an IP address"):
            check_host(host, TOKEN)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("nowhere", "nowhere: No such file or directory; give the path of an exported network or ensemble"),
        (".", ".: is a directory"),
        ("", "the path is ''"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null"),
        ("/dev/zero", "is a device"),
        ("empty", "empty: is no exported network"),
        ("text", "text: is no exported network"),
        ("binary", "binary: is no exported network"),
        ("line", "line: is no exported network"),
        ("marked", "marked: is no exported network"),
        ("s3://bucket/x", "is an address"),
    ],
)
def test_a_file_that_is_no_network_is_one_line(ofa, tmp_path, monkeypatch, file, says):
    monkeypatch.chdir(tmp_path)
    for name, data in (("empty", b""), ("text", b"{}"), ("binary", bytes(range(256))), ("line", b"x" * 10**7)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "marked").write_text("{}", encoding="utf-8-sig")
    code, out, err = ofa("serve", file)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert says in err
