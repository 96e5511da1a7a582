"""Tests start only what their marks say, so that the quick ones can be told from the rest."""

import socket
import subprocess
import sys

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
