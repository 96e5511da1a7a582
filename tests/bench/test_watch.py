"""What a command takes, all its processes together."""

import os
import sys
from pathlib import Path

import pytest

from bench.watch import stolen_seconds, watched


def test_a_command_has_its_exit_code_output_times_and_memory():
    done = watched([sys.executable, "-c", "import time; print('here'); time.sleep(1.5); raise SystemExit(3)"])
    assert (done.returncode, done.output) == (3, "here\n")
    assert done.seconds > 1.5
    assert 0 <= done.stolen_s <= done.seconds + 0.1  # the kernel counts hundredths
    assert 2**20 < done.peak_bytes < 2**28


def test_stolen_time_is_the_mean_of_the_processors():
    lines = Path("/proc/stat").read_text().splitlines()
    ticks = [int(line.split()[8]) for line in lines if line.startswith("cpu") and not line.startswith("cpu ")]
    mean_s = sum(ticks) / len(ticks) / os.sysconf("SC_CLK_TCK")
    assert stolen_seconds() == pytest.approx(mean_s, abs=1.0)
