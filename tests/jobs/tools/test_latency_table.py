import json

import pytest
import torch
from typer.testing import CliRunner

from cluster.errors import InputError
from jobs.cli.main import app
from jobs.tools.latency_table import compared, measure_table, part_key, table_ms
from ofa.arch import Arch
from ofa.blocks import mobile_block, parts
from ofa.cost import strided
from ofa.spaces import get_space

DIGITS = get_space("digits")


def test_keys_are_those_of_the_published_table(reference):
    """Every part of every network of the space, at each of the table's resolutions; and nothing else is in the table."""
    table = json.loads((reference / "ofa" / "note10_latency_lut_w1.2.json").read_text())
    space = get_space("ofa_mbv3_w1.2")
    for resolution in (160, 224):
        keys, size = set(), resolution
        for name, part in parts(space, space.largest()):
            if name.startswith("stage"):
                stage, position = (int(word[5:]) for word in name.split("_"))
                choices = [mobile_block(space, stage, position, k, e) for k in space.kernels for e in space.expands]
            else:
                choices = [part]
            keys |= {part_key(name, choice, size) for choice in choices}
            size = strided(size, part.stride)
        published = {k for k in table[str(resolution)] if not k.startswith(("AvgPool", "Conv_2", "Logits"))}
        assert keys == published


def test_sums_of_the_published_table_are_its_published_latencies(reference):
    """OFA²'s published front: networks and the latency that its authors got from this table."""
    table = json.loads((reference / "ofa" / "note10_latency_lut_w1.2.json").read_text())
    found = json.loads((reference / "ofa" / "ofa2_population.json").read_text())
    space = get_space("ofa_mbv3_w1.2")
    assert len(found["population"]) == 100
    for row in found["population"]:
        arch = Arch(row["r"], *(tuple(row[name]) for name in ("d", "ks", "e")))
        assert table_ms(table, space, arch) == pytest.approx(row["latency_ms"], abs=1e-9)


def test_a_measured_table_holds_every_part_and_its_sums_rank_networks():
    """Two resolutions of the digits' space; on a busy machine milliseconds mean little, so only the form is exact."""
    table, agreement = measure_table(DIGITS, (24, 32), runs=8, threads=1, networks=6)
    assert {key for key in table if key.isdigit()} == {"24", "32"}
    for resolution in (24, 32):
        for entry in table[str(resolution)].values():
            assert entry["count"] > 0
            assert entry["mean"] > 0
        for arch in (DIGITS.only(resolutions=(resolution,)).largest(), DIGITS.only(resolutions=(resolution,)).smallest()):
            assert table_ms(table, DIGITS, arch) > 0
    largest, smallest = DIGITS.uniform(32, 3, 5, 4), DIGITS.uniform(32, 1, 3, 1)
    assert table_ms(table, DIGITS, largest) > table_ms(table, DIGITS, smallest)
    assert agreement.networks == 6
    assert -1 <= agreement.kendall_tau <= 1
    assert agreement.ratio > 0


def test_agreement_is_the_rank_the_ratio_and_what_is_left():
    exact = compared([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert (exact.kendall_tau, exact.ratio, exact.error) == (1.0, 2.0, 0.0)
    assert compared([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]).error == pytest.approx(0.0)
    assert compared([1.0, 2.0], [2.0, 1.0]).kendall_tau == -1.0


def test_the_command_writes_the_table_and_says_how_good_sums_are(tmp_path):
    file = tmp_path / "here.json"
    asked = ["measure", "--latency-table", str(file), "--space", "digits", "--resolution", "24"]
    done = CliRunner().invoke(app, [*asked, "--runs", "4", "--networks", "3", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["networks"] == 3
    assert list(json.loads(file.read_text())["_agreement"]) == ["networks", "kendall_tau", "ratio", "error"]
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
