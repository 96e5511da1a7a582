"""Published weights: `ofa import` in this process, and runs that start from what it leaves."""

import json
import os
import zlib
from pathlib import Path

import helpers
import numpy as np
import pytest
import safetensors.torch
import torch

from cluster.errors import InputError
from cluster.run import Run
from cluster.texts import sha256
from jobs.config import load
from jobs.tools.transfer import Start, start_of
from jobs.tools.weights import converted, read_checkpoint, space_of
from ofa.arch import Arch
from ofa.published import SPACES, is_transform, published_names
from ofa.spaces import get_space
from ofa.supernet import Supernet

TINY = str(helpers.TINY)
DIGITS = get_space("digits")


def drawn(name, shape):
    """The tensor that the rule of the reference data gives a name."""
    z = np.random.default_rng([7, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("_matrix"):
        z = np.eye(shape[0]) + 0.05 * z
    elif name.endswith("running_var"):
        z = 0.5 + np.abs(z)
    elif len(shape) > 1:
        z = z * np.sqrt(2 / np.prod(shape[1:]))
    else:
        z = 1 + 0.2 * z if name.endswith("weight") else 0.1 * z
    return torch.from_numpy(z.astype(np.float32))


def published_arch(space, row):
    """The arch of a row of the reference data."""
    if row["active"] is None:
        return space.largest()
    values = {"depth": "d", "kernel": "ks", "expand": "e", "width": "w"}
    genes = [row["resolution"] if gene.field == "resolution" else row["active"][values[gene.field]][gene.place]
             for gene in space.forest.genes]  # fmt: skip
    return space.at([row["resolution"]]).arch(genes)


@pytest.mark.parametrize("name", SPACES)
def test_imported_weights_give_the_published_logits(reference, name):
    doc = json.loads((reference / "ofa/published_state_dicts.json").read_text())[name]
    state = {key: drawn(key, shape) for key, shape in doc["state_dict"].items() if not key.endswith("num_batches_tracked")}
    space = get_space(name)
    found = converted(state, space, "checkpoint")
    assert (found.classes, found.transforms) == (10, sum(key.endswith("_matrix") for key in state))
    net = Supernet(space, 10).eval()
    net.load_state_dict(found.tensors)
    assert len(doc["rows"]) == 10
    for row in doc["rows"]:
        size = row["resolution"]
        images = np.random.default_rng([9, size]).standard_normal((2, 3, size, size)).astype(np.float32)
        with torch.no_grad():
            logits = net(torch.from_numpy(images), published_arch(space, row)).numpy()
        expected = np.array(row["logits"])
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max(), row["active"]


def supernet(classes=10, seed=1):
    """A supernet of the digits whose every tensor has values of its own."""
    net, generator = Supernet(DIGITS, classes), torch.Generator().manual_seed(seed)
    net.load_state_dict({name: torch.rand(t.shape, generator=generator) + 0.5 for name, t in net.state_dict().items()})
    return net


def checkpoint(net, prefix=""):
    """The state dict of a supernet, as the released code names it: elastic layers have wrappers, norms a counter."""
    state, tensors = {}, net.state_dict()
    for ours, there in published_names(net).items():
        elastic = there.startswith("blocks.") and not there.startswith("blocks.0.")
        name = there.replace(".conv.weight", ".conv.conv.weight").replace(".bn.", ".bn.bn.") if elastic else there
        state[prefix + name] = tensors[ours]
        if name.endswith("running_var"):
            state[prefix + name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def save(place, doc):
    torch.save(doc, place)
    return place


def same(tensors, net):
    state = net.state_dict()
    return tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "older", "legacy"])
def test_every_form_of_a_checkpoint_is_read(tmp_path, form):
    net, place = supernet(), tmp_path / "checkpoint.pth"
    state = checkpoint(net, "module." if form == "module" else "")
    if form == "older":
        state = {name.replace("depth_conv", "x").replace(".conv.x", ".mobile_inverted_conv.depth_conv"): tensor
                 for name, tensor in state.items() if "batches" not in name}  # fmt: skip
        assert any(".mobile_inverted_conv." in name for name in state)
    doc = {"epoch": 3, "state_dict": state} if form == "state_dict" else state
    torch.save(doc, place, _use_new_zipfile_serialization=form != "legacy")
    assert same(converted(read_checkpoint(str(place)), DIGITS, "checkpoint").tensors, net)


def test_the_command_leaves_weights_and_what_it_found(ofa, tmp_path):
    net = supernet(classes=3)
    place = save(tmp_path / "checkpoint.pth", {"state_dict": checkpoint(net, "module.")})
    code, out, err = ofa("import", place, "--space", "digits", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)
    transforms = sum(map(is_transform, net.state_dict()))
    assert (found["space"], found["classes"], found["tensors"]) == ("digits", 3, len(net.state_dict()))
    assert (found["kernel_transforms"], found["params"]) == (transforms, sum(p.numel() for p in net.parameters()))
    data = Path(found["weights"]).read_bytes()
    assert same(safetensors.torch.load(data), net)
    assert space_of(data) == "digits"
    code, out, err = ofa("import", place, "--space", "digits", "--out", tmp_path / "again")
    assert f"with 3 classes, {transforms} kernel transforms" in out + err
    assert (tmp_path / "again/weights.safetensors").read_bytes() == data


def test_without_kernel_transforms_the_centres_are_kernels():
    net = supernet()
    found = converted({k: v for k, v in checkpoint(net).items() if "_matrix" not in k and "batches" not in k}, DIGITS, "x")
    assert found.transforms == 0
    for name in filter(is_transform, found.tensors):
        assert torch.equal(found.tensors[name], torch.eye(len(found.tensors[name])))


def test_half_precision_becomes_float32():
    state = {name: tensor.half() for name, tensor in checkpoint(supernet()).items() if "batches" not in name}
    found = converted(state, DIGITS, "x").tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


class Code:
    """A pickle of it would run a command."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def damaged(kind, tmp_path):
    """The content of a checkpoint that cannot be used."""
    state = {name: tensor for name, tensor in checkpoint(supernet()).items() if "batches" not in name}
    stem = "first_conv.conv.weight"
    changes = {
        "missing": {stem: None},
        "shape": {stem: torch.ones(16, 3, 3, 3)},
        "unknown": {"blocks.77.conv.weight": torch.ones(1)},
        "nan": {stem: state[stem] * float("nan")},
        "whole": {stem: torch.ones(state[stem].shape, dtype=torch.int64)},
        "twice": {f"module.{stem}": state[stem]},
        "text": {"note": "hello"},
        "transform": {next(key for key in state if key.endswith("_matrix")): None},
        "code": {"x": Code(tmp_path / "made")},
    }
    return {key: value for key, value in {**state, **changes[kind]}.items() if value is not None}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "has no tensor first_conv.conv.weight, which a supernet of digits has with shape (8, 3, 3, 3)"),
        ("shape", "first_conv.conv.weight has shape (16, 3, 3, 3), in a supernet of digits it has (8, 3, 3, 3)"),
        ("unknown", "'blocks.77.conv.weight' is no tensor of a supernet of digits"),
        ("nan", "first_conv.conv.weight: has values that are not finite"),
        ("whole", "first_conv.conv.weight: has no numbers of floating point"),
        ("twice", "'first_conv.conv.weight' and 'module.first_conv.conv.weight' are the same tensor"),
        ("text", "'note' is a str, no tensor"),
        ("transform", "_matrix, which a supernet of digits has"),
        ("code", "has code or objects (posix.mkdir) beside tensors, which are never loaded"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(ofa, tmp_path, kind, says):
    place = save(tmp_path / "bad.pth", damaged(kind, tmp_path))
    code, out, err = ofa("import", place, "--space", "digits", "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{place}: " in err
    assert says in err
    assert sorted(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>not found</html>", "is no file of PyTorch"),
        (b"PK\x03\x04 cut", "is damaged, or cut short"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content, says):
    place = tmp_path / "file"
    place.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_checkpoint(str(place))


def test_a_cut_checkpoint_is_one_line(tmp_path):
    for new in (True, False):
        place = tmp_path / "cut.pth"
        torch.save(checkpoint(supernet()), place, _use_new_zipfile_serialization=new)
        place.write_bytes(place.read_bytes()[:-1000])
        with pytest.raises(InputError, match=r"cut\.pth: is damaged, or cut short"):
            read_checkpoint(str(place))


def test_a_list_is_no_state_dict(tmp_path):
    with pytest.raises(InputError, match="has no state dict but a list"):
        read_checkpoint(str(save(tmp_path / "list.pth", [torch.ones(3)])))


def test_a_checkpoint_of_another_space_names_it():
    wide = Supernet(get_space("ofa_mbv3_w1.2"), 10)
    state = {there: wide.state_dict()[ours] for ours, there in list(published_names(wide).items())}
    with pytest.raises(InputError, match=r"has shape \(24, 3, 3, 3\).* \(16, 3, 3, 3\); .*: give --space ofa_mbv3_w1\.2"):
        converted(state, get_space("ofa_mbv3_w1.0"), "x")
    with pytest.raises(InputError, match=r"has no tensor input_stem\.0.*: give --space ofa_mbv3_w1\.2"):
        converted(state, get_space("ofa_resnet50"), "x")
    with pytest.raises(
        InputError, match=r"--space ofav2_mbv3_ee_d_w1\.0: there are no checkpoints of this space; give ofa_mbv3"
    ):
        converted(state, get_space("ofav2_mbv3_ee_d_w1.0"), "x")


# ---- runs from imported weights

FAST = ["train.backend=local", "train.workers=1", "data.selection=0.4", "data.test=0.4"]
ONE = 'train.phases=[{name="one",epochs=1,lr=0.05,archs=["r24-d111-k300.300.300-e100.100.100"]}]'


def settings(*values):
    return [part for value in values for part in ("--set", value)]


def imported(folder, net):
    """A directory as `ofa import` leaves it."""
    folder.mkdir()
    state = {name: tensor for name, tensor in checkpoint(net).items() if "batches" not in name}
    (folder / "weights.safetensors").write_bytes(converted(state, DIGITS, "x").to_safetensors())
    return folder


def test_a_run_without_phases_has_the_imported_weights(ofa, tmp_path):
    net = supernet()
    weights = f"train.weights={imported(tmp_path / 'out', net)}/weights.safetensors"
    code, _, err = ofa("train", TINY, "--store", tmp_path / "runs", *settings(*FAST, weights, "train.phases=[]"))
    assert code == 0, err
    assert "there are no phases, so its weights are used as they are" in err
    run = Run.at(str(tmp_path / "runs"), load(TINY, [*FAST, weights, "train.phases=[]"]).id, "")
    left = safetensors.torch.load(run.raw("supernet/given/weights.safetensors"))
    assert same({name.removeprefix("net."): tensor for name, tensor in left.items()}, net)
    assert json.loads(run.raw("supernet/given/meta.json"))["history"] == []
    assert not list(run.problems())
    assert start_of(run.url, "").url.endswith("supernet/given/weights.safetensors")


def test_a_new_head_has_the_classes_of_the_images_and_is_named_untrained(ofa, tmp_path):
    weights = f"train.weights={imported(tmp_path / 'out', supernet(classes=7))}/weights.safetensors"
    values = [*FAST, weights, "train.phases=[]"]
    code, _, err = ofa("train", TINY, "--store", tmp_path / "runs", *settings(*values))
    assert code == 2
    assert 'or set train.head to "new"' in err.splitlines()[-1]
    code, _, err = ofa("train", TINY, "--store", tmp_path / "runs", *settings(*values, "train.head=new"))
    assert code == 0, err
    assert "its new head is not trained" in err
    run = Run.at(str(tmp_path / "runs"), load(TINY, [*values, "train.head=new"]).id, "")
    left = safetensors.torch.load(run.raw("supernet/given/weights.safetensors"))
    assert left["net.classifier.weight"].shape[0] == 10


def test_a_transfer_starts_from_imported_weights(ofa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = imported(tmp_path / "out", supernet(classes=7))
    command = ["transfer", TINY, "--store", tmp_path / "runs", *settings(*FAST, ONE), "--until", "train", "--from"]
    code, _, err = ofa(*command, folder)
    assert code == 0, err
    assert f"train: starts from {folder}/weights.safetensors" in err
    for spelling in ("out", "./out", f"{folder}/weights.safetensors", f"file://{folder}"):
        assert start_of(spelling, "runs") == Start(
            f"{folder}/weights.safetensors", start_of(str(folder), "").sha256, "digits"
        )
        code, _, err = ofa(*command, spelling)
        assert (code, "train: finished before, nothing to do" in err) == (0, True), err
    code, _, err = ofa(*command, folder, *settings("space=ofa_mbv3_w0.25_32px"))
    assert (code, err.count("\n")) == (2, 1)


def test_imported_weights_of_another_space_are_refused(ofa, tmp_path):
    folder = imported(tmp_path / "out", supernet())
    values = settings(*FAST, "space=ofa_mbv3_w0.25_32px", 'train.phases=[{name="one",epochs=1,lr=0.05}]')
    code, _, err = ofa("transfer", TINY, "--store", tmp_path / "runs", *values, "--from", folder)
    assert (code, err.count("\n")) == (2, 1)
    assert f"space is 'ofa_mbv3_w0.25_32px', the supernet of {folder}/weights.safetensors is of 'digits'" in err
    assert not (tmp_path / "runs").exists()


SMALL = [
    "space=ofa_mbv3_w1.0", "choices={resolutions=[32],depths=[2]}", 'data.classes=["0","1","2"]', "data.selection=0.3",
    "train.backend=local", "train.workers=1", "measure.archs=10", "measure.calibration_images=32", "measure.latency_archs=5",
    "measure.latency_runs=5", "search.evaluations=12", "search.population=8", "search.predicted_evaluations=200",
    "search.predicted_members=4", "fit.predictor=ridge", "ray.evaluators=1",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.whole_run
def test_an_imported_supernet_is_trained_with_a_new_head_then_searched_as_it_is(tmp_path):
    """MobileNetV3 at 32 pixels on three digits: a run with one epoch, and one without phases from what that left."""
    net = Supernet(get_space("ofa_mbv3_w1.0"), 1000, torch.Generator().manual_seed(1))
    place = save(tmp_path / "published.pth", {"state_dict": checkpoint(net, "module.")})
    done = helpers.ofa("import", place, "--space", "ofa_mbv3_w1.0", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "out/weights.safetensors"
    phase = 'train.phases=[{name="head",epochs=1,lr=0.01,kernels=[3,7],subnets=2}]'
    runs = []
    for start, values, until in ((weights, [phase, "train.head=new"], "export"), (None, ["train.phases=[]"], "report")):
        given = [f"train.weights={start or runs[0].url + '/supernet/head/weights.safetensors'}", *values, *SMALL]
        done = helpers.ofa("run", TINY, "--store", tmp_path / "runs", "--until", until, *settings(*given))
        assert done.returncode == 0, done.stderr
        runs.append(Run.at(str(tmp_path / "runs"), load(TINY, given).id, ""))
    trained, given = runs
    assert trained.done("train")["inputs"] == {"train.weights": sha256(weights.read_bytes())}
    for run in runs:
        assert not list(run.problems())
        members = json.loads(run.raw("front.json"))["members"]
        space = get_space("ofa_mbv3_w1.0").at([32]).only(depths=(2,))
        assert members and all(space.contains(Arch.from_json(member["arch"])) for member in members)
    assert "subnets/knee.onnx" in trained.keys("subnets/")
    before, after = (safetensors.torch.load(run.raw(f"supernet/{phase}/weights.safetensors"))
                     for run, phase in ((trained, "head"), (given, "given")))  # fmt: skip
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(before["net.classifier.bias"]) == 3
    pages = [run.raw("report.html").decode() for run in runs]
    assert ["<h2>Training</h2>" in page for page in pages] == [True, False]
