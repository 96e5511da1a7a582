"""An exported ensemble on Ray Serve, against the same ensemble as one network."""

import base64
import io
import json
import random
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY
from pictures import write_digits
from PIL import Image

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.runtime.serving import RequestError
from ensemble.network import Combination, EnsembleDescription, EnsembleNetwork, from_safetensors
from jobs.config import load
from jobs.export import for_images
from jobs.images import dataset
from jobs.images.decoding import DecodingCounts, decode_central_squares
from jobs.tools.serve import answer_of, application, check_host, decoded, images_of, latency, token_of, vote_of
from ofa.export import Decoding, Description, to_safetensors
from ofa.extract import extract
from ofa.images import Scale, resize
from ofa.norms import calibrate
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
PORT = 18423
TOKEN = "a-token-of-a-test-0123456789"


PHOTOS = Decoding(side=32, crop=0.875)
NAMES = tuple(f"number {label}" for label in range(10))


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
    description = replace(description, names=NAMES, decoding=PHOTOS)
    path = tmp_path / "ensemble.safetensors"
    path.write_bytes(to_safetensors(vote, description))
    return str(path)


def post(doc, token=TOKEN, kind="application/json"):
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    body = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/ensemble", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def photos(count):
    """JPEG files of odd sizes, and the images that the evaluation of their split decodes them to."""
    rng, files = random.Random(4), []
    for pixels in np.random.default_rng(5).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8):
        image, file = Image.fromarray(pixels), io.BytesIO()
        image.resize((rng.randrange(33, 99, 2), rng.randrange(33, 99, 2)), Image.Resampling.BICUBIC).save(file, "JPEG")
        files.append(file.getvalue())
    counts = DecodingCounts("photos", 0)
    numbered = [list(enumerate(files))]
    return files, decode_central_squares(numbered, count, str, PHOTOS.side, PHOTOS.crop, counts)[0]


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
        files, pixels = photos(32)
        with torch.inference_mode():
            scaled = resize(description.scale(torch.from_numpy(pixels)), description.input_resolution)
            wanted = [NAMES[label] for label in network(scaled).argmax(1).tolist()]
        with ThreadPoolExecutor(32) as clients:  # 32 at once
            answers = list(clients.map(lambda file: post(file, kind="image/jpeg"), files))
        assert [answer["names"] for answer in answers] == [[name] for name in wanted]
        assert len(set(wanted)) > 1
        together = post({"files": [base64.b64encode(file).decode() for file in files]})
        assert together["names"] == wanted
        with pytest.raises(urllib.error.HTTPError, match="400"):
            post(files[0][:100], kind="image/jpeg")
        found = latency(exported, ask)
    assert len(found.members_ms) == 2
    assert 0 < found.modelled["max"] < found.modelled["sum"]
    assert found.served_ms > 0


class TestAServedNetworkThatWasTrained:
    """On images of the test split as JPEG files: what is answered is right where `ofa eval` counts it as right."""

    def test_files_get_the_names_that_the_evaluation_counts_as_right(self, tmp_path):
        write_digits(tmp_path / "digits", test=64, kind="jpg")
        config = load(str(TINY), [f"data.source={tmp_path / 'digits'}"])
        reporter = Reporter()
        data = dataset.load(config, reporter, check_test=False)
        arch, net = SPACE.largest(), Supernet(SPACE, 10, torch.Generator().manual_seed(1))
        fit(net, arch, data)
        evaluator = data.evaluator(net, 128, 64)
        network = extract(net, arch, evaluator.statistics(arch))
        job = SimpleNamespace(config=config, data=data)
        described = for_images(job, Description.of("digits", 10, arch, evaluator.scale, arch.resolution))
        test = data.held_out.open(reporter)
        right = evaluator.logits(arch, test).argmax(1) == test.labels
        files, labels = test_files(tmp_path / "digits")
        assert labels == test.labels.tolist()
        images = decoded(described, files)
        assert np.array_equal(images, test.pixels.numpy())
        names = answer_of(described.names, vote_of(network, described, 0, images))["names"]
        assert [name == str(label) for name, label in zip(names, labels, strict=True)] == right.tolist()
        assert evaluator.top1(arch, test) == right.float().mean().item()
        assert right.float().mean() > 0.5


def fit(net, arch, data):
    """A short training, after which most digits are recognised."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    pixels, labels = data.train.pixels[:512], data.train.labels[:512]
    for _ in range(4):
        for part, label in zip(pixels.split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(data.scale(part), arch), label).backward()
            optimizer.step()
    net.eval()


def test_files(folder):
    """The content of the files of the test split with their labels, in the order in which a data set lists them."""
    paths = sorted((folder / "test").rglob("*.jpg"))
    return [path.read_bytes() for path in paths], [int(path.parent.name) for path in paths]


test_files.__test__ = False
SINGLE = replace(Description.of("digits", 10, SPACE.smallest(), Scale((0.3,) * 3, (0.4,) * 3), 24), decoding=PHOTOS)


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ([1], "has no 'images'"),
        ({"images": [[1, 2], [3]]}, "rows of different lengths"),
        ({"images": [[1, 2]]}, r"images are \(1, 2\)"),
        ({"images": [[[[300]]] * 3]}, "0 to 255"),
        ({"images": [[[[0.5]]] * 3]}, "whole numbers"),
        ({"files": []}, "no list of texts"),
        ({"files": "a"}, "no list of texts"),
        ({"files": ["%"]}, "is not in base64"),
        ({"files": ["QUJD"]}, "file 0 cannot be decoded: no known image format"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(doc, says):
    with pytest.raises(RequestError, match=says):
        images_of(SINGLE, "application/json", json.dumps(doc).encode())


def test_bodies_that_are_neither_json_nor_an_image_are_refused():
    with pytest.raises(RequestError, match=r"is not JSON: .*; an image file needs the content type image/"):
        images_of(SINGLE, "", b"\xff\xd8\xff")
    with pytest.raises(RequestError, match="cannot be decoded"):
        images_of(SINGLE, "image/jpeg", b"\xff\xd8\xff")
    with pytest.raises(RequestError, match="without the size of decoded images; export it again"):
        images_of(replace(SINGLE, decoding=None), "image/jpeg", b"")


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
