"""What a command does where its standard streams or its environment are broken; each case is a process of its own."""

import os
import subprocess
import sys

import helpers
import pytest

from ofa.spaces import get_space

COST = f"cost --space digits --json --arch {get_space('digits').smallest().key}"
BAD = "cost --space nowhere --arch x --json"


def shell(line, **variables):
    """(exit code, stderr) of a line of bash, in which OFA is the command."""
    line = line.replace("OFA", f"{sys.executable} -m jobs")
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env=os.environ | {"PYTHONPATH": os.getcwd()} | variables,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return ended.returncode, ended.stderr


@pytest.mark.whole_run
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (f"OFA {COST} >/dev/full", 1, "ofa: stdout cannot be written: [Errno 28] No space left on device; give it a place"),
        (f"OFA {COST} >&-", 1, "ofa: stdout cannot be written: [Errno 9] Bad file descriptor; give it a place"),
        (f"OFA {BAD} >/dev/full", 2, "ofa: no space is called 'nowhere'"),
        (f"OFA {COST} | (exec <&-; sleep 3)", 1, ""),
        (f"OFA {COST} <&- >/dev/null", 0, ""),
        (f"OFA {BAD} 2>&- >/dev/null", 2, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_one_line(line, code, says, unbuffered):
    found, err = shell(line, PYTHONUNBUFFERED=unbuffered)
    assert found == code, err
    assert err.startswith(says) and err.count("\n") == bool(says), err


@pytest.mark.whole_run
def test_characters_that_an_encoding_lacks_are_escaped():
    assert shell(f"OFA cite {helpers.TINY} --set search.algorithm=nsga2 >/dev/null", PYTHONIOENCODING="ascii") == (0, "")


@pytest.mark.whole_run
@pytest.mark.parametrize(
    ("line", "variables", "says"),
    [
        ("OFA run {} --store STORE", {"OMP_NUM_THREADS": "junk"}, "OMP_NUM_THREADS is 'junk'; expected a number of threads"),
        (
            "OFA run {} --store STORE",
            {"PYTHONWARNINGS": "error"},
            "PYTHONWARNINGS is 'error', with which Ray",
        ),
        ("mkdir gone; cd gone; rmdir ../gone; OFA run {} --store STORE", {}, "the working directory no longer exists"),
    ],
)
def test_an_environment_in_which_a_run_cannot_start_is_named(tmp_path, line, variables, says):
    line = f"cd {tmp_path}; " + line.format(helpers.TINY).replace("STORE", str(tmp_path / "store"))
    code, err = shell(line, **variables)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"ofa: {says}")
    assert not (tmp_path / "store").exists()
