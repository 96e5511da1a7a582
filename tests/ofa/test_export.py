import json

import numpy as np
import pytest
import torch

from ofa.arch import ArchError
from ofa.export import (
    Ballot,
    Description,
    Vote,
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


def test_a_vote_is_the_mean_of_the_members_probabilities(members):
    vote = Vote(members, [a.resolution for a in ARCHS])
    wanted = sum(m(resize(images(), a.resolution)).softmax(1) for m, a in zip(members, ARCHS, strict=True)) / 3
    torch.testing.assert_close(vote(images()), wanted)


def test_a_truncated_vote_counts_only_the_likeliest_classes(members):
    probs = Vote(members[:1], [24], Ballot(keep=2))(images())
    assert ((probs > 0).sum(1) == 2).all()
    torch.testing.assert_close(probs.max(1).values, members[0](resize(images(), 24)).softmax(1).max(1).values)


def test_files_bring_the_same_network_back(members, tmp_path):
    single = Description("digits", 10, (ARCHS[1],), SCALE, ARCHS[1].resolution)
    several = Description("digits", 10, tuple(ARCHS), SCALE, 32, Ballot(keep=3))
    vote = Vote(members, [a.resolution for a in ARCHS], Ballot(keep=3)).eval()
    for network, description, x in ((members[1], single, resize(images(), 28)), (vote, several, images())):
        path = tmp_path / "net.safetensors"
        path.write_bytes(to_safetensors(network, description))
        loaded, read = from_safetensors(str(path))
        assert read == description
        assert Description.from_json(json.loads(json.dumps(description.to_json()))) == description
        with torch.no_grad():
            assert torch.equal(loaded(x), network(x))


def test_onnx_and_torch_export_give_what_torch_gives(members):
    vote = Vote(members, [a.resolution for a in ARCHS], Ballot(keep=3)).eval()
    for network, x in ((members[2], images()), (vote, images())):
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


@pytest.mark.parametrize("how", ["soft", "hard", "weighted", "calibrated", "kept"])
def test_an_exported_ensemble_answers_as_it_was_scored(how):
    """Also after it was written and read; ensemble/ knows nothing of networks, so this compares the two definitions."""
    from ensemble.score import SubsetScorer
    from ensemble.table import Table
    from ensemble.vote import Voting

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (3, 80, 10)).astype(np.float32))
    weights, temperatures = ((0.5, 0.2, 0.3) if how == "weighted" else ()), ((0.6, 2.0, 1.3) if how == "calibrated" else ())
    ballot = Ballot(4 if how in ("kept", "calibrated") else 0, how == "hard", weights, temperatures)
    answers = sum(ballot.vote(member, index) for index, member in enumerate(logits)).argmax(1).numpy()

    probs, kept = logits.softmax(2).sort(dim=2, descending=True, stable=True)
    k = ballot.keep or 10
    table = Table(kept[:, :, :k].numpy(), probs[:, :, :k].numpy(), answers, np.ones(3))
    table = Voting("hard" if ballot.hard else "soft", temperatures).of_table(table)
    scorer = SubsetScorer(table.classes_MNK, table.probs_MNK, answers)
    assert scorer.correct_weighted(np.array([weights or (1, 1, 1)])).tolist() == [80]
