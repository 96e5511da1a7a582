import json

import pytest
import torch
from typer.testing import CliRunner

from cluster.errors import InputError
from jobs.cli.main import app
from jobs.operate.places import output_file
from jobs.tools import latency_table
from jobs.tools.latency_table import CLASSES, compared, measure_table
from jobs.workers.parts import covering_archs
from ofa.genes import Genes
from ofa.graph import strided
from ofa.latency import Latency
from ofa.spaces import get_space
from search.costs.exact import node_tables
from search.costs.latency import LatencyTable, TableLatency, keys

DIGITS = get_space("digits")


def test_keys_are_those_of_the_published_table(reference):
    """Every part of every network of the space, at each of the table's resolutions; and nothing else is in the table."""
    table = json.loads((reference / "ofa" / "note10_latency_lut_w1.2.json").read_text())
    space = get_space("ofa_mbv3_w1.2")
    nodes = node_tables(space, CLASSES)
    for resolution in (160, 224):
        made = {
            keys(name, part, strided(resolution, stride))[0]
            for name in nodes.names
            for part, stride in filter(None, nodes.entries[name].values())
        }
        assert made == set(table[str(resolution)])


def test_a_measured_table_holds_every_part_and_its_sums_rank_networks():
    """Two resolutions of the digits' space; on a busy machine milliseconds mean little, so only the form is exact."""
    table, agreement = measure_table(DIGITS, (24, 32), runs=8, threads=1, networks=6)
    assert {key for key in table if key.isdigit()} == {"24", "32"}
    for resolution in (24, 32):
        for entry in table[str(resolution)].values():
            assert entry["count"] > 0
            assert entry["mean"] > 0
    space = DIGITS.only(resolutions=(24, 32))
    archs = [space.smallest(), space.largest(), space.uniform(32, 3, 5, 4), space.uniform(32, 1, 3, 1)]
    sums = TableLatency(LatencyTable.parse(json.loads(json.dumps(table)), "t.json"), space)(Genes(space).encode(archs))
    assert (sums > 0).all()
    assert sums[2] > sums[3]
    assert agreement.networks == 6
    assert -1 <= agreement.kendall_tau <= 1
    assert agreement.ratio > 0


@pytest.mark.parametrize("name", ["digits", "ofa_mbv3_w1.0", "ofav2_mbv3_ee_dp_w0.25_32px"])
def test_the_networks_that_are_timed_have_every_part_of_the_space(name):
    space = get_space(name)
    nodes, side = node_tables(space, 10), space.resolutions[-1]
    every = {
        keys(node, part, strided(side, stride))[0]
        for node in nodes.names
        for part, stride in filter(None, nodes.entries[node].values())
    }
    archs = covering_archs(space, 10)
    graphs = [space.graph(arch, (), 10) for arch in archs]
    found = {keys(node.name, node.part, size)[0] for g in graphs for node, size in zip(g.nodes, g.sizes(side), strict=True)}
    assert found == every
    assert len(archs) < 100
    assert all(space.contains(arch) for arch in archs)


def test_agreement_is_the_rank_the_ratio_and_what_is_left():
    exact = compared([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [2.0, 4.0, 6.0])
    assert (exact.kendall_tau, exact.ratio, exact.error) == (1.0, 2.0, 0.0)
    assert compared([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).error == pytest.approx(0.0)
    assert compared([1.0, 2.0], [2.0, 1.0], [2.0, 1.0]).kendall_tau == -1.0
    assert compared([1.0, 2.0], [1.25, 2.0], [1.25, 2.0]).farthest == pytest.approx(0.2)


def test_the_same_networks_timed_again_are_compared_with_the_first_time():
    same, other = (compared([1.0, 2.0, 3.0], [2.0, 4.0, 5.0], again) for again in ([2.0, 4.0, 5.0], [2.0, 5.0, 4.0]))
    assert (same.repeated_tau, same.repeated_farthest) == (1.0, 0.0)
    assert other.repeated_tau == pytest.approx(1 / 3) and other.repeated_farthest == pytest.approx(0.25)
    assert other.kendall_tau == same.kendall_tau == 1.0 and other.farthest == same.farthest


def test_whole_networks_are_timed_twice_and_sums_are_compared_with_the_first_time(monkeypatch):
    timed = []

    def latencies(nets, **settings):
        timed.append([resolution for _, resolution in nets])
        return [Latency(float(len(timed) * (number + 1)), 0.0) for number in range(len(nets))]

    monkeypatch.setattr(latency_table, "measure_latencies", latencies)
    _, agreement = measure_table(DIGITS, (24,), runs=4, threads=1, networks=3)
    assert timed == [[24] * 3] * 2
    assert (agreement.repeated_tau, agreement.repeated_farthest) == (1.0, 1.0)


def test_the_command_writes_the_table_and_says_how_good_sums_are(tmp_path):
    file = tmp_path / "here.json"
    asked = ["measure", "--latency-table", str(file), "--space", "digits", "--resolution", "24"]
    done = CliRunner().invoke(app, [*asked, "--runs", "4", "--networks", "3", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["networks"] == 3
    assert list(json.loads(file.read_text())["_agreement"]) == [
        "networks", "kendall_tau", "ratio", "error", "farthest", "repeated_tau", "repeated_farthest"
    ]  # fmt: skip
    assert "timed again they are at most" in done.stderr + done.stdout
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize(
    ("space", "resolution", "line"),
    [
        ("digits", 23, "resolution 23 is not in digits; it has 24, 28, 32"),
        ("ofa_resnet50", 224, "ofa_resnet50 has no published format; use a MobileNetV3 space"),
    ],
)
def test_what_cannot_be_measured_is_one_line(space, resolution, line):
    with pytest.raises(InputError, match=line):
        measure_table(get_space(space), (resolution,), runs=4, threads=1, networks=3)


def test_a_config_or_a_table_not_both():
    for arguments in ([], ["configs/digits.toml", "--latency-table", "x.json"], ["--latency-table", "x.json"]):
        done = CliRunner().invoke(app, ["measure", *arguments])
        assert isinstance(done.exception, InputError)
        assert "give a config file, or --latency-table FILE and --space NAME" in str(done.exception)


def test_a_table_is_written_where_the_path_says_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for path, place in {"a#b%20.json": "a#b%20.json", "~/t.json": "home/t.json", "./x//t.json": "x/t.json"}.items():
        assert output_file("--latency-table", path) == tmp_path / place
    for path in ("", "t/", "file:///t.json", "s3://bucket/t.json", "a\nb", "x" * 300):
        with pytest.raises(InputError):
            output_file("--latency-table", path)
    assert list(tmp_path.iterdir()) == []
