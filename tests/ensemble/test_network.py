"""Ensembles of extracted networks: what they answer, their files, and that they answer as they were scored."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from ensemble.network import Combination, EnsembleDescription, EnsembleNetwork, from_safetensors
from ensemble.score import SubsetScorer
from ensemble.table import Table
from ensemble.vote import VOTES, Vote, Voting
from ofa import export
from ofa.arch import ArchError
from ofa.cost import cost
from ofa.export import Description, onnx_difference, pt2_difference, to_onnx, to_program, to_pt2, to_safetensors
from ofa.extract import extract
from ofa.images import Scale, resize
from ofa.norms import calibrate
from ofa.sharing import pieces
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
ARCHS = [SPACE.smallest(), SPACE.uniform(28, 2, 5, 2), SPACE.largest()]
RESOLUTIONS = [arch.resolution for arch in ARCHS]
SCALE = Scale((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


class Squared(Vote):
    """Votes are squares of probabilities; only this file has it."""

    def of_table(self, table):
        return Table(table.classes_MNK, table.probs_MNK**2, table.labels_N, table.cost_M)

    def of_network(self, probs_NC):
        return probs_NC**2


@pytest.fixture
def squared(monkeypatch):
    monkeypatch.setitem(VOTES, "squared", Squared())


def images(count=5):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def members():
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    return [extract(net, arch, calibrate(net, arch, [resize(images(64), arch.resolution)])) for arch in ARCHS]


def test_soft_voting_is_the_mean_of_the_members_probabilities(members):
    ensemble = EnsembleNetwork(members, RESOLUTIONS)
    wanted = sum(m(resize(images(), side)).softmax(1) for m, side in zip(members, RESOLUTIONS, strict=True)) / 3
    torch.testing.assert_close(ensemble(images()), wanted)


def test_a_truncated_vote_counts_only_the_likeliest_classes(members):
    probs = EnsembleNetwork(members[:1], [24], Combination(keep=2))(images())
    assert ((probs > 0).sum(1) == 2).all()
    torch.testing.assert_close(probs.max(1).values, members[0](resize(images(), 24)).softmax(1).max(1).values)


def ensemble_file(path, members, combination):
    description = EnsembleDescription.of_members("digits", 10, ARCHS, SCALE, 32, combination)
    network = EnsembleNetwork(members, RESOLUTIONS, combination).eval()
    path.write_bytes(to_safetensors(network, description))
    return network, description


def test_a_file_brings_the_same_ensemble_back(members, tmp_path):
    combination = Combination(vote="weighted", keep=3, weights=(0.2, 0.3, 0.5), temperatures=(1.0, 2.0, 0.5))
    network, description = ensemble_file(tmp_path / "e.safetensors", members, combination)
    loaded, read = from_safetensors(str(tmp_path / "e.safetensors"))
    assert read == description
    with torch.no_grad():
        assert torch.equal(loaded(images()), network(images()))
    with pytest.raises(ArchError, match=r"is an ensemble; read it with `ensemble.network.from_safetensors`"):
        export.from_safetensors(str(tmp_path / "e.safetensors"))


def test_a_file_of_one_network_is_read_too(members, tmp_path):
    description = Description.of("digits", 10, ARCHS[1], SCALE, 28)
    (tmp_path / "n.safetensors").write_bytes(to_safetensors(members[1], description))
    loaded, read = from_safetensors(str(tmp_path / "n.safetensors"))
    assert read == description
    with torch.no_grad():
        assert torch.equal(loaded(images()), members[1](images()))


def test_a_file_with_an_unknown_vote_is_one_line(members, tmp_path):
    ensemble_file(tmp_path / "e.safetensors", members, Combination())
    _, description = ensemble_file(tmp_path / "e.safetensors", members, Combination())
    loud = dataclasses.replace(description, combination=Combination(vote="loud"))
    (tmp_path / "e.safetensors").write_bytes(to_safetensors(EnsembleNetwork(members, RESOLUTIONS), loud))
    with pytest.raises(ArchError, match=r"e.safetensors: its members vote by 'loud'; there are soft, hard, weighted"):
        from_safetensors(str(tmp_path / "e.safetensors"))


NAN = float("nan")
FIRST = ARCHS[0].to_json()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": "nowhere"}, "no space is called 'nowhere'"),
        ({"space": 5}, "space: is 5; expected a text"),
        ({"space": "ofa_mbv3_w1.0"}, "ofa_mbv3_w1.0"),
        ({"classes": 10**9}, "has no layer of 1000000000 classes"),
        ({"classes": -1}, "has no layer of -1 classes"),
        ({"classes": None}, "classes: is None; expected a whole number"),
        ({"archs": []}, "archs|no resolution|members"),
        ({"archs": [FIRST]}, "its weights are not of the network"),
        ({"archs": [{**FIRST, "kernel": [9, *FIRST["kernel"][1:]]}] * 3}, "kernel of stage 0 slot 0 is 9, may be 3, 5, 7"),
        ({"archs": [5]}, "is 5; expected an architecture"),
        ({"archs": None}, "archs: is None; expected a list"),
        ({"input": {"layout": "NCHW", "resolution": 0, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "takes images of 0 pixels"),
        ({"input": {"layout": "NCHW", "resolution": 8, "mean": [0, 0, 0], "std": [1, 0, 1]}}, "divides pixels by 0"),
        ({"input": {"layout": "NCHW", "resolution": 8, "mean": [NAN, 0, 0], "std": [1, 1, 1]}}, "is nan; expected a number"),
        ({"combination": {"weights": [1.0]}}, "has 1 weights for 3 members"),
        ({"combination": {"temperatures": [1.0]}}, "has 1 temperatures for 3 members"),
        ({"combination": {"temperatures": [1.0, 0.0, 1.0]}}, "has a temperature of 0"),
        ({"combination": {"keep": 11}}, "keeps 11 of 10 classes"),
        ({"combination": {"keep": -1}}, "keeps -1 of 10 classes"),
        ({"combination": None}, "combination: is None"),
        ({"combination": ...}, "has 3 networks, but no rule that combines them"),
        ({"exits": [1]}, "has the exits"),
        ({"thresholds": [0.5]}, "thresholds|combination"),
    ],
)
def test_a_description_of_another_network_is_one_line(members, tmp_path, changes, says):
    path = tmp_path / "e.safetensors"
    network, description = ensemble_file(path, members, Combination())
    doc = {name: value for name, value in (description.to_json() | changes).items() if value is not ...}
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata={"ofa": json.dumps(doc)}))
    with pytest.raises(ArchError, match=says) as caught:
        from_safetensors(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors | {"more": torch.zeros(10)}, "Unexpected key"),
        (lambda tensors: dict(list(tensors.items())[1:]), "Missing key"),
        (lambda tensors: {name: t[..., :1] if t.ndim == 4 else t for name, t in tensors.items()}, "size mismatch"),
        (lambda tensors: {name: t * NAN if t.is_floating_point() else t for name, t in tensors.items()}, "are not finite"),
    ],
)
def test_weights_of_another_network_are_one_line(members, tmp_path, change, says):
    path = tmp_path / "e.safetensors"
    network, description = ensemble_file(path, members, Combination())
    tensors = {name: tensor.contiguous() for name, tensor in change(network.state_dict()).items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"ofa": json.dumps(description.to_json())}))
    with pytest.raises(ArchError, match=f"e.safetensors: its weights .*{says}") as caught:
        from_safetensors(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000, '{"a": NaN}'])
def test_a_description_that_is_none_is_one_line(members, tmp_path, text):
    path = tmp_path / "e.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(3)}, metadata={"ofa": text}))
    with pytest.raises(ArchError) as caught:
        from_safetensors(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # the demo of test_readme.py exports an ensemble in every suite
@pytest.mark.usefixtures("squared")
@pytest.mark.parametrize(
    "combination",
    [Combination(keep=3), Combination(vote="hard"), Combination(vote="squared")],
    ids=["kept", "hard", "a new vote"],
)
def test_onnx_and_torch_export_give_what_torch_gives(members, combination):
    network = EnsembleNetwork(members[:2], RESOLUTIONS[:2], combination).eval()
    program = to_program(network, 32)
    assert onnx_difference(to_onnx(program), network, images()) < 1e-5
    assert pt2_difference(to_pt2(program), network, images()) < 1e-5
    with torch.no_grad():
        assert network(images()).abs().max() > 0.01  # the agreement is about something


@pytest.mark.usefixtures("squared")
@pytest.mark.parametrize("combination", [
    Combination(), Combination(vote="hard"), Combination(vote="hard", keep=3, temperatures=(0.6, 2.0, 1.3)),
    Combination(vote="weighted", weights=(0.5, 0.2, 0.3)), Combination(keep=4),
    Combination(keep=4, temperatures=(0.6, 2.0, 1.3)), Combination(vote="squared", keep=4),
], ids=str)  # fmt: skip
def test_an_ensemble_answers_as_it_was_scored(combination):
    """Also after it was written and read: the table's definition of the vote against the network's."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (3, 80, 10)).astype(np.float32))
    answers = sum(combination.votes(member, index) for index, member in enumerate(logits)).argmax(1).numpy()

    probs, kept = logits.softmax(2).sort(dim=2, descending=True, stable=True)
    k = combination.keep or 10
    table = Table(kept[:, :, :k].numpy(), probs[:, :, :k].numpy(), answers, np.ones(3))
    scorer = SubsetScorer.of(Voting(combination.vote, combination.temperatures).of_table(table))
    assert scorer.correct_weighted(np.array([combination.weights or (1, 1, 1)])).tolist() == [80]


def test_what_members_have_in_common_is_computed_once():
    """Two exits of a network, one that differs late, and one of another resolution."""
    space = get_space("ofav2_mbv3_ee_dp_w0.25_32px")
    net = Supernet(space, 10, torch.Generator().manual_seed(0)).eval()
    late = space.uniform(24, 4, 2, 6, 3, 3)
    other = dataclasses.replace(late, expand=(*late.expand[:12], *(4 if value else 0 for value in late.expand[12:])))
    archs = [late, dataclasses.replace(late, exit=2), other, dataclasses.replace(late, resolution=28)]
    plain = [extract(net, arch, calibrate(net, arch, [resize(images(16), arch.resolution)])) for arch in archs]
    alone = torch.stack([one(resize(images(), arch.resolution)).softmax(1) for one, arch in zip(plain, archs, strict=True)])
    computed = []
    for member, one in enumerate(plain):
        for node in one.graph.nodes:
            one.part(node.name).register_forward_hook(lambda *_, at=(member, node.name): computed.append(at))
    ensemble = EnsembleNetwork(plain, [arch.resolution for arch in archs])
    with torch.no_grad():
        assert torch.equal(ensemble(images()), alone.mean(0))
    assert {name for member, name in computed if member == 1} == {
        "exit2_final",
        "exit2_average",
        "exit2_mix",
        "exit2_classifier",
    }
    assert {name.split("_")[0] for member, name in computed if member == 2} == {"stage3", "exit4"}
    assert len([name for member, name in computed if member == 3]) == len(plain[3].graph.nodes)
    needed = pieces(space, archs, 10)
    assert (
        len(computed) < sum(len(one.graph.nodes) for one in plain) and needed.cost_P.sum() < 4 * cost(space, late, 10).macs
    )
