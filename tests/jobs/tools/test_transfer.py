"""A supernet that is taken to other classes by the command line, in this process."""

import re
import tomllib

import helpers
import safetensors.torch
import torch

from cluster.config import dump
from cluster.run import Run
from cluster.texts import sha256
from jobs import files
from jobs.config import load
from jobs.tools.transfer import Start, start_of
from ofa.supernet import Supernet

TINY = str(helpers.TINY)
ONE = 'train.phases=[{name="one",epochs=1,lr=0.05,archs=["r24-d111-k300.300.300-e100.100.100"]}]'
FAST = [ONE, "train.backend=local", "train.workers=1", "data.selection=0.4", "data.test=0.4"]
LOW, HIGH = 'data.classes=["0","1","2"]', 'data.classes=["3","4","5","6"]'


def settings(*values):
    return [part for value in values for part in ("--set", value)]


def source(store, name="source", *values, done=True):
    """A run in `store` with the records and weights that a training leaves, made without one."""
    config = load(TINY, [*FAST, *values])
    run = Run.open(str(store), name, dump(config), "test")
    step = run.begin("train")
    net = Supernet(config.search_space, 3, torch.Generator().manual_seed(len(name)))
    tensors = {f"net.{key}": tensor for key, tensor in net.state_dict().items()}
    step.write(files.supernet(config.phases[-1].name), safetensors.torch.save(tensors))
    if done:
        step.finish(seed=1)
    return run


def test_a_supernet_goes_from_some_classes_to_others(ofa, tmp_path):
    """Trained for an epoch on three digits, then with a new head on four others."""
    store = tmp_path / "runs"
    assert ofa("train", TINY, "--store", store, *settings(*FAST, LOW))[0] == 0
    before = Run.at(str(store), load(TINY, [*FAST, LOW]).id, "")
    weights = before.raw("supernet/one/weights.safetensors")
    command = ["transfer", TINY, "--store", store, *settings(*FAST, HIGH), "--until", "train", "--from"]
    code, _, err = ofa(*command, before.id)
    assert code == 0, err
    url = f"{before.url}/supernet/one/weights.safetensors"
    assert f"train: starts from {url} (sha256 {sha256(weights)[:12]}), with a new head" in err
    after = Run.at(str(store), load(TINY, [*FAST, HIGH, f"train.weights={url}", "train.head=new"]).id, "")
    record = after.done("train")
    assert record["inputs"] == {files.GIVEN_WEIGHTS: sha256(weights)}
    assert record["data"]["class_names"] == ["3", "4", "5", "6"]
    written = tomllib.loads(after.raw("config.toml").decode())["train"]
    assert (written["weights"], written["head"]) == (url, "new")
    one, other = (safetensors.torch.load(run.raw("supernet/one/weights.safetensors")) for run in (before, after))
    assert [len(tensors["net.classifier.bias"]) for tensors in (one, other)] == [3, 4]
    assert not list(after.problems())
    for same in (before.url, f"file://{before.url}", url):  # other addresses of the same weights are the same run
        code, _, err = ofa(*command, same)
        assert (code, "train: finished before, nothing to do" in err) == (0, True), err
    assert {path.name for path in store.iterdir()} - {".tmp"} == {before.id, after.id}


def test_a_source_may_be_in_a_bucket(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    run = source("s3://results/transfer/runs")
    digest = sha256(run.raw("supernet/one/weights.safetensors"))
    expected = Start("s3://results/transfer/runs/source/supernet/one/weights.safetensors", digest, "digits")
    assert start_of(run.url, "./runs") == start_of("source", "s3://results/transfer/runs") == expected
    assert start_of(expected.url, "./runs") == Start(expected.url, digest)


def test_weights_that_have_changed_since_the_transfer_are_refused(ofa, tmp_path):
    run = source(tmp_path, "source")
    command = ["transfer", TINY, "--store", tmp_path, *settings(*FAST, HIGH), "--until", "train", "--from", run.id]
    assert ofa(*command)[0] == 0
    (tmp_path / "source/train.done.json").unlink()
    other = source(tmp_path / "elsewhere", "another")
    run.store.write("source/supernet/one/weights.safetensors", other.raw("supernet/one/weights.safetensors"))
    step = run.begin("train")
    step.adopt(files.supernet("one"))
    step.finish(seed=1)
    code, _, err = ofa(*command)
    assert code == 2
    assert "has sha256" in err and "the training began from" in err and err.count("\n") == 1


def test_a_source_of_another_space_or_without_a_trained_supernet_is_one_line(ofa, tmp_path):
    source(tmp_path, "source")
    source(tmp_path, "unfinished", done=False)
    bare = tmp_path / "bare"
    (bare / "run").mkdir(parents=True)
    (bare / "run/notes.txt").write_text("x")
    cases = {
        ("source", "space=ofa_mbv3_w0.25_32px"): r"space is 'ofa_mbv3_w0.25_32px', the supernet of .*source/supernet/one/",
        ("unfinished", LOW): "--from unfinished: .*unfinished: its training is not finished; give a run",
        ("sauce", LOW): "--from sauce: .*has no run 'sauce'; there is: source, unfinished",
        (f"{bare}/run", LOW): f"--from {bare}/run: {bare}/run: has no config.toml, so it is no run",
        ("nowhere/run", LOW): "--from nowhere/run: .*there is no such directory",
        ("source", "train.head=kept"): "--set train.head: is given twice",
    }
    there = sorted(tmp_path.rglob("*"))
    for (run, setting), says in cases.items():
        values = [*FAST[1:], setting] if "space" in setting else [*FAST, setting]
        code, _, err = ofa("transfer", TINY, "--store", tmp_path, *settings(*values), "--from", run)
        assert code == 2
        assert err.count("\n") == 1
        assert re.search(says, err), err
    assert sorted(tmp_path.rglob("*")) == there
