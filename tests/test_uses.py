"""Tests start only what their marks say, so that the quick ones can be told from the rest."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uses

COMMANDS = {
    "cluster": (["/x/ray/core/src/ray/gcs/gcs_server", "--port", "1"], ["/x/bin/ray", "start", "--head"]),
    "server": (["/x/tests/radosgw.sh", "start"],),
    "browser": (["/x/playwright/driver/node", "cli.js"], ["/usr/bin/chromium", "--headless"]),
    "whole_run": (
        ["/x/bin/ofa", "run", "x.toml"],
        [sys.executable, "-m", "jobs", "train", "x.toml"],
        ["make", "demo"],
    ),
}


@pytest.mark.parametrize(("mark", "command"), [(mark, command) for mark in COMMANDS for command in COMMANDS[mark]])
def test_a_test_that_is_not_marked_starts_no_such_process(mark, command):
    with pytest.raises(uses.NotMarked, match=f"pytest.mark.{mark}"):
        subprocess.Popen(command)


@pytest.mark.parametrize(
    "command", [["/x/bin/ofa", "cost"], [sys.executable, "-m", "jobs", "choose"], ["bash", "-c", "run"]]
)
def test_commands_of_one_quick_process_are_free(command):
    assert uses.use_of(command) is None


def test_a_test_that_is_not_marked_starts_no_server():
    with socket.socket() as listener, pytest.raises(uses.NotMarked, match=r"pytest.mark.server"):
        listener.bind(("127.0.0.1", 0))


def test_a_test_that_is_not_marked_starts_no_ray():
    import ray

    if ray.is_initialized():
        pytest.skip("tests before this one have Ray here")
    with pytest.raises(uses.NotMarked):
        ray.init(num_cpus=1, include_dashboard=False)


HOLDER = """
import sys, time
from pathlib import Path
import uses
began, leave, left = map(Path, sys.argv[1:])
with uses.Machine(began.parent).shared():
    began.touch()
    while not leave.exists():
        time.sleep(0.01)
    left.touch()
"""


def test_who_wants_the_whole_machine_waits_for_tests_of_other_processes(tmp_path):
    for name in ("uses.py", "conftest.py"):
        (tmp_path / name).touch()
    began, leave, left = (tmp_path / name for name in ("began", "leave", "left"))
    command = [sys.executable, "-c", HOLDER, str(began), str(leave), str(left)]
    other = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(uses.__file__).parent)})
    while not began.exists():
        assert other.poll() is None
        time.sleep(0.01)
    mine = uses.Machine(tmp_path)
    with mine.shared():
        threading.Timer(0.2, leave.touch).start()
        with mine.alone():
            assert left.exists()
            assert not can_enter(tmp_path)
        assert can_enter(tmp_path)
    assert other.wait(timeout=60) == 0


def can_enter(folder):
    """Whether a test of another process could start now."""
    with open(folder / "conftest.py") as room:
        try:
            fcntl.flock(room, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.xdist_group("one")
def test_tests_of_a_group_go_to_one_process(request):
    """By their ids, which pytest-xdist reads."""
    assert request.node.nodeid.endswith("@one") or not request.config.getoption("loadgroup", False)


@pytest.mark.server
def test_a_test_that_is_marked_starts_what_its_mark_says():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert listener.getsockname()[1] > 0


def test_whoever_asks_for_a_cluster_a_server_a_browser_or_a_run_is_marked(request):
    """Of the tests of this session."""
    for item in request.session.items:
        wanted = {uses.FIXTURES[name] for name in item.fixturenames if name in uses.FIXTURES}
        assert wanted <= uses.marks(item), item.nodeid
