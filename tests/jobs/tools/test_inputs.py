"""Searches from files: tables, predictors, limits and fixed genes that fit, and the one line about those that do not."""

import json

import numpy as np
import pytest

from ofa import npz
from ofa.genes import Genes
from ofa.graph import strided
from ofa.spaces import get_space
from search.costs.exact import node_tables
from search.costs.latency import keys
from search.predict.predictor import fit

DIGITS = get_space("digits")


def table_of(space):
    """A latency table of a space's parts, by resolution, in the published format."""
    nodes = node_tables(space, 1000)
    return {
        str(resolution): {
            keys(name, part, strided(resolution, stride))[0]: {"mean": 0.1 + 0.01 * i}
            for name in nodes.names
            for i, (part, stride) in enumerate(filter(None, nodes.entries[name].values()))
        }
        for resolution in space.resolutions
    }


def predictor_of(space, target="top1"):
    genes = Genes(space).random(60, np.random.default_rng(0))
    return fit(space, genes, np.linspace(0.8, 0.99, len(genes)), target).to_npz()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """top1.npz and latency.npz of the digits' space, small.npz of a part of it, and tables: all.json and 24.json."""
    here = tmp_path_factory.mktemp("inputs")
    small = DIGITS.at((20, 24)).only(kernels=(3, 5))
    for name, data in (
        ("top1.npz", predictor_of(DIGITS)),
        ("latency.npz", predictor_of(DIGITS, "latency_ms")),
        ("small.npz", predictor_of(small)),
        ("w10.npz", predictor_of(get_space("ofa_mbv3_w1.0"))),
    ):
        (here / name).write_bytes(data)
    arrays = npz.unpack_all(predictor_of(DIGITS))
    (here / "far.npz").write_bytes(npz.pack(**arrays | {"standard": np.array([1e300, 1.0, 1.0])}))
    doc = table_of(DIGITS)
    (here / "all.json").write_text(json.dumps(doc))
    (here / "24.json").write_text(json.dumps({"24": doc["24"]}))
    (here / "16.json").write_text(json.dumps({"16": doc["24"]}))
    (here / "us.json").write_text(json.dumps({"unit": "us", **doc}))
    (here / "utf16.json").write_text(json.dumps(doc), encoding="utf-16")
    return here


@pytest.fixture
def search(ofa, folder, tmp_path, monkeypatch):
    """Runs a search from the folder's files: exit code, stderr, and the members of the front."""
    monkeypatch.chdir(folder)

    def call(*arguments, predictor="top1.npz", command="search"):
        options = ["--space", "digits", "--classes", 10, "--evaluations", 200, "--out", tmp_path / "out"]
        out = tmp_path / "out" / ("front.json" if command == "search" else "targets.json")
        out.unlink(missing_ok=True)
        code, _, err = ofa(command, *options, "--predictor", predictor, *arguments)
        assert out.exists() == (code == 0)
        return code, err, json.loads(out.read_text())["members"] if code == 0 else None

    return call


def test_the_resolutions_that_a_table_and_a_run_know_are_searched(search):
    _, _, members = search("--latency-table", "24.json", "--population", 8)
    assert {member["arch"]["resolution"] for member in members} == {24}
    _, _, members = search("--latency-table", "utf16.json", "--population", 30)
    assert {member["arch"]["resolution"] for member in members} <= {24, 28, 32}


def test_a_predictor_of_a_run_with_fewer_choices_brings_them(search):
    _, _, members = search(predictor="small.npz")
    assert {member["arch"]["resolution"] for member in members} <= {20, 24}
    assert {kernel for member in members for kernel in member["arch"]["kernel"]} <= {0, 3, 5}
    code, err, _ = search("--latency-table", "16.json", predictor="small.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "16.json: has none of the resolutions of digits" in err


@pytest.mark.parametrize(
    ("predictor", "arguments", "says"),
    [
        ("latency.npz", [], "latency.npz: predicts 'latency_ms'; expected a predictor of top1"),
        ("w10.npz", [], "w10.npz: is of the space 'ofa_mbv3_w1.0', not of digits; fit one on this space"),
        ("far.npz", [], "far.npz: predicts -inf for the smallest network; expected top-1, a fraction of at most 1"),
        ("all.json", [], "all.json: is no predictor: it is not an npz file"),
        (".", [], ".: is a directory; give the path of a predictor of top-1"),
        ("nowhere.npz", [], "nowhere.npz: No such file or directory"),
        ("x" * 300, [], "File name too long"),
        ("x/" * 3000, [], "File name too long"),
        ("top1.npz", ["--latency-table", "x" * 300], "File name too long"),
        ("top1.npz", ["--out", "x" * 300], "--out is given 2 times"),
        ("top1.npz", ["--latency-table", "us.json"], "us.json: its unit is 'us'; expected 'ms'"),
        ("top1.npz", ["--latency-table", "top1.npz"], "top1.npz: "),
        ("top1.npz", ["--latency-table", "."], ".: is a directory; give the path of a latency table"),
        ("top1.npz", ["--latency-table", "a=all.json", "--latency-table", "a=24.json"], "two tables are both called a"),
        ("top1.npz", ["--latency-table", "all.json", "--latency-table", "all.json"], "two tables are both called all"),
        *(
            ("top1.npz", [option, f"{name}={value}"], f"{option}: {value} is no finite number")
            for option, name in (("--at-most", "macs"), ("--at-least", "top1"))
            for value in ("nan", "inf", "-inf", "1e400")
        ),
        ("top1.npz", ["--at-most", "macs=much"], "--at-most: 'much' is no number"),
        ("top1.npz", ["--at-most", "macs=1e6", "--at-most", "macs=2e6"], "--at-most macs: is given twice; give it once"),
        ("top1.npz", ["--at-least", "top1=0.1", "--at-least", "top1=0.1"], "--at-least top1: is given twice; give it once"),
        ("top1.npz", ["--fix", "depth.0=1", "--fix", "depth.0=2"], "--fix depth.0: is given twice; give it once"),
        ("top1.npz", ["--fix", "depth.0=nan"], "is no finite number"),
        ("top1.npz", ["--fix", "depth.9=1"], "--fix depth.9=1: expected resolution="),
        ("top1.npz", ["--fix", "depth.00=1"], "--fix depth.00=1: expected resolution="),
        ("top1.npz", ["--fix", "depth.\u00b2=1"], "expected resolution="),
        ("top1.npz", ["--fix", "=1"], "--fix =1: expected resolution="),
    ],
)
def test_files_and_limits_that_do_not_fit_get_one_line(search, predictor, arguments, says):
    code, err, _ = search(*arguments, predictor=predictor)
    assert (code, err.count("\n")) == (2, 1), err
    assert says in err
    assert len(err) < 600


def test_targets_given_in_several_options_are_all_searched(search):
    found = []
    for asked in (["--latency-ms", "1.6,1.8"], ["--latency-ms", "1.6", "--latency-ms", "1.8"]):
        code, err, members = search("--latency-table", "all.json", *asked, command="targets")
        assert code == 0, err
        assert [member["latency_ms"] <= bound for member, bound in zip(members, (1.6, 1.8), strict=True)] == [True, True]
        found.append(members)
    assert found[0] == found[1]


@pytest.mark.parametrize("value", ["nan", "4,nan", "inf", "1e400", "4,,5", "", "4 5"])
def test_targets_that_are_no_numbers_get_one_line(search, value):
    for option, table in (("--latency-ms", ["--latency-table", "all.json"]), ("--macs", [])):
        code, err, _ = search(option, value, *table, command="targets")
        assert (code, err.count("\n")) == (2, 1), err


@pytest.mark.parametrize("command", ["search", "targets", "ensemble"])
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x" * 300, "the name is too long"),
        ("x/" * 3000, ""),
        ("", "the store is ''"),
        ("top1.npz", "is a file"),
        ("top1.npz/out", "cannot be written to: Not a directory"),
        ("a\0b", "control character"),
        ("ftp://x", "ftp"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(ofa, folder, monkeypatch, command, out, says):
    def work(*_, **__):
        raise AssertionError("has begun to work")

    monkeypatch.chdir(folder)
    for place in ("jobs.tools.search.predicted.solve", "jobs.tools.targets.targets_search.search"):
        monkeypatch.setattr(place, work)
    given = {"search": [], "targets": ["--macs", "1e6"]}
    options = ["--space", "digits", "--classes", 10, "--predictor", "top1.npz", *given.get(command, [])]
    code, _, err = ofa(command, *(options if command in given else ["--predictions", "nowhere.npz"]), "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert says in err
    assert "nowhere" not in err


@pytest.mark.parametrize("out", ["x" * 300, "", " ", ".", "top1.npz/x", "a\0b"])
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_measured(ofa, folder, monkeypatch, out):
    def work(*_, **__):
        raise AssertionError("has begun to measure")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("jobs.tools.latency_table.measure_table", work)
    code, _, err = ofa("measure", "--space", "digits", "--latency-table", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert "Traceback" not in err
