"""A whole run on a space with exits: they are in the front, in exits.json, in the report, and are exported."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import ExitsRun, ofa

from ensemble.network import CascadeNetwork, from_safetensors
from ofa.arch import Arch
from ofa.spaces import get_space
from ofa.timings import BatchTimes

SPACE = ExitsRun.space


@pytest.fixture
def arguments(exits_run):
    return exits_run.arguments


@pytest.fixture
def folder(exits_run):
    return exits_run.folder


def test_no_step_but_predict_has_read_a_test_image(arguments, folder):
    """All steps after `train` have finished with files that are no images in their place, with which `predict` fails."""
    steps = ("train", "adapt", "measure", "fit", "search", "validate", "predict", "ensemble", "report")
    assert all((folder / f"{step}.done.json").exists() for step in steps)
    (folder / "predict.done.json").rename(folder / "kept")
    try:
        done = ofa("predict", *arguments)
    finally:
        (folder / "kept").rename(folder / "predict.done.json")
    assert done.returncode == 2 and "11 images cannot be decoded" in done.stderr, done.stderr


def test_the_adaptation_of_the_supernet_is_in_the_run_and_in_the_report(folder):
    doc = json.loads((folder / "adapt.json").read_text())
    assert [row["iteration"] for row in doc["iterations"]] == [0, 1]
    archive = [json.loads(line) for line in (folder / "archive.jsonl").read_text().splitlines()]
    measured = [json.loads(line) for line in (folder / "measured.jsonl").read_text().splitlines()]
    assert len(archive) == 10 and all(row in measured for row in archive)
    assert "The adaptation of the supernet" in (folder / "report.html").read_text()


def test_evaluators_have_the_batch_size_that_the_run_chose_once(folder):
    times = BatchTimes.from_bytes((folder / "batch.json").read_bytes(), "batch.json")
    assert times.arch == get_space(SPACE).only(resolutions=(20,)).largest() and len(times.rows) > 1
    assert "batch.json" in json.loads((folder / "adapt.done.json").read_text())["outputs"]
    for step in ("measure", "search", "validate", "predict", "report"):
        assert "batch.json" in json.loads((folder / f"{step}.done.json").read_text())["inputs"]
    assert f"Evaluations: {times.fastest.batch} images at a time" in (folder / "report.html").read_text()


def test_archs_of_several_exits_are_measured_and_exits_json_is_about_one_of_the_front(folder):
    measured = [Arch.from_json(json.loads(line)["arch"]) for line in (folder / "measured.jsonl").read_text().splitlines()]
    assert len({arch.exit for arch in measured}) > 2 and all(get_space(SPACE).contains(arch) for arch in measured)
    front = [Arch.from_json(member["arch"]) for member in json.loads((folder / "front.json").read_text())["members"]]
    if not (folder / "exits.json").exists():
        assert {arch.exit for arch in front} == {1}
        return
    exits = json.loads((folder / "exits.json").read_text())
    assert Arch.from_json(exits["arch"]) in front
    assert [row["exits"] for row in exits["singles"]] == [[i] for i in range(1, exits["arch"]["exit"] + 1)]
    assert "The exits of one network" in (folder / "report.html").read_text()


def test_all_exits_of_a_network_are_exported_and_agree_with_onnx(arguments, folder):
    space = get_space(SPACE)
    arch = space.uniform(20, 3, 2, 6, 3, 3)
    done = ofa("export", *arguments, "--arch", arch.key, "--exits", "1,3")
    assert done.returncode == 0, done.stderr
    name = folder / "subnets" / f"{arch.key}-exits13"
    network, description = from_safetensors(f"{name}.safetensors")
    assert description.exits == (1, 3)
    images = torch.rand(3, 3, 20, 20)
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["exit1", "exit3"]
    with torch.no_grad():
        for found, wanted in zip(session.run(None, {"images": images.numpy()}), network(images), strict=True):
            assert np.abs(found - wanted.numpy()).max() < 1e-4


def test_a_cascade_is_exported_within_its_average_cost(arguments, folder):
    arch = get_space(SPACE).uniform(20, 3, 2, 6, 3, 3)
    done = ofa("export", *arguments, "--arch", arch.key, "--average-macs", 400_000)
    assert done.returncode == 0, done.stderr
    name = folder / "subnets" / f"{arch.key}-macs400000"
    network, _ = from_safetensors(f"{name}.safetensors")
    reached = json.loads(name.with_name(f"{name.name}.json").read_text())["cascade"]
    assert isinstance(network, CascadeNetwork) and list(network.cascade.thresholds) == reached["thresholds"]
    assert reached["macs"] <= 400_000
    assert "MACs on average" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--exits", "9"), "--exits is '9'"),
        (("--exits", "1,1"), "--exits is '1,1'"),
        (("--exits", "1", "--average-macs", "9e9"), "exclude each other"),
        (("--average-macs", "10"), "the limit on the average cost is 10; the first exit alone costs"),
    ],
)
def test_exits_that_cannot_be_exported_are_one_line(arguments, words, says):
    arch = get_space(SPACE).uniform(20, 3, 2, 6, 3, 3)
    done = ofa("export", *arguments, "--arch", arch.key, *words)
    assert (done.returncode, done.stderr.count("\nofa: ") + done.stderr.startswith("ofa: ")) == (2, 1)
    assert says in done.stderr


def test_exits_without_an_arch_are_one_line(arguments):
    done = ofa("export", *arguments, "--exits", "all")
    assert done.returncode == 2 and "give its --arch too" in done.stderr
