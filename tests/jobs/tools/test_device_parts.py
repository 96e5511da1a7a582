"""Parts as ONNX files, timed by the script that runs on a device, as a latency table of a space."""

import json
import runpy
import subprocess
import sys

import pytest

from cluster.errors import InputError
from cluster.progress import Reporter
from jobs.config import LatencyTableConfig
from jobs.costs import read_table
from jobs.tools.device_parts import export_parts
from ofa.genes import Genes
from ofa.spaces import get_space
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable

SPACE = get_space("digits").only(resolutions=(24, 32), depths=(1,), kernels=(3,), expands=(2,))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    export_parts(SPACE, SPACE.resolutions, 1, str(folder), Reporter())
    return folder


def test_the_script_writes_a_table_that_a_run_takes(exported, tmp_path):
    file = tmp_path / "phone.json"
    command = [sys.executable, "time_parts.py", ".", str(file), "--runs", "6", "--device", "a phone"]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    doc = read_table(LatencyTableConfig("phone", str(file)))
    assert doc["_device"] == "a phone" and doc["_ratio"].keys() == {"24", "32"}
    costs = DeviceCosts(SPACE, 1000, {"phone": LatencyTable.parse(doc, str(file))})
    archs = [SPACE.smallest(), SPACE.largest()]
    sums = costs.latencies["phone"](Genes(SPACE).encode(archs))
    assert (sums > 0).all()
    # the largest network is the one that was timed whole: its sum is what that took
    counts = {key: len(doc[key]) for key in ("24", "32")}
    assert counts["24"] == counts["32"] == len({p["key"] for p in listed(exported)["parts"] if p["resolution"] == 24})


def listed(folder):
    return json.loads((folder / "parts.json").read_text())


def test_a_file_serves_all_resolutions_and_every_file_is_listed(exported):
    doc = listed(exported)
    files = {part["file"] for part in doc["parts"]}
    assert len(doc["parts"]) > len(files)
    assert {path.name for path in exported.glob("part-*.onnx")} == files
    for network in doc["networks"]:
        known = {part["key"] for part in doc["parts"] if part["resolution"] == network["resolution"]}
        assert set(network["keys"]) <= known


def test_entries_are_scaled_so_that_sums_are_those_of_whole_networks(exported, monkeypatch):
    """With a clock that gives a part 2 ms and a network 12 ms, the sum of its 6 to 10 parts is made 12 ms."""
    script = runpy.run_path(str(exported / "time_parts.py"))
    wholes = {network["file"] for network in listed(exported)["networks"]}

    def turns(models, runs):
        return [[12.0 if session._model_path.split("/")[-1] in wholes else 2.0] * 4 for session, _ in models]

    script["timed"].__globals__["turns"] = turns
    table = script["timed"](exported, 4, 1, "CPUExecutionProvider")
    for network in listed(exported)["networks"]:
        entries = table[str(network["resolution"])]
        assert sum(entries[key]["mean"] for key in network["keys"]) == pytest.approx(12.0)


def test_what_has_no_parts_to_write_is_one_line(tmp_path):
    with pytest.raises(InputError, match="ofa measure --parts: ofa_resnet50 has no published format"):
        export_parts(get_space("ofa_resnet50"), (224,), 1, str(tmp_path / "out"), Reporter())
    assert not (tmp_path / "out").exists()
