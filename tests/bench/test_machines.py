"""Processes of a bench: they are found and killed with all that they have started, also those of a bench that was killed."""

import subprocess
import sys
import time

from bench.machines import descendants, kill_marked, marked, marked_environment

PARENT = "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); input()"


def parent(environment):
    return subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, start_new_session=True)


def waited_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_process_has_started_belongs_to_it_and_is_killed_with_it(tmp_path):
    with marked_environment(tmp_path) as (environment, scratch):
        assert scratch.is_dir()
        (scratch / "file").touch()
        process = parent({**environment, "OFA_BENCH_NODE": "one"})
        waited_for(lambda: len(descendants(process.pid)) == 2)
        assert set(marked("OFA_BENCH_NODE", "one")) == set(descendants(process.pid))
        assert not marked("OFA_BENCH_NODE", "on")
        kill_marked("OFA_BENCH_NODE", "one")
        assert process.wait(timeout=60) == -9
    process.stdin.close()
    assert not scratch.exists()


def test_what_a_killed_bench_has_left_is_removed_by_the_next_one_of_its_folder(tmp_path):
    with marked_environment(tmp_path) as (environment, _):
        pass
    left = parent(environment)
    with marked_environment(tmp_path):
        assert left.wait(timeout=60) == -9
    left.stdin.close()
