"""A raylet that dies: one line, exit code 1, no traceback and no log of Ray, wherever the main thread waits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime.watch import ENDED, LOST

PROGRAM = """
import os, sys, threading, time
from functools import partial
import numpy as np
import ray._private.worker
from cluster.errors import StepError
from cluster.runtime.pool import Pool
from cluster.runtime.session import session
from cluster.runtime.tasks import ray_map
from cluster.runtime.training import train_on_ray
from cluster.runtime.workers import Progressed

killed = threading.Event()

def kill(*_):
    if not killed.is_set():  # another event may arrive before the loss is noticed
        killed.set()
        print("killed", flush=True)
        os.kill(ray._private.worker._global_node.all_processes["raylet"][0].process.pid, 9)

def loop(worker, arrays):
    for step in range(1000):
        worker.report(Progressed(step))
        time.sleep(0.5)

class Sleeper:
    def __init__(self, arrays):
        pass
    def sleep(self, seconds):
        time.sleep(seconds)

def train():
    train_on_ray(loop, {}, kill, workers=1)

def pool():
    for _ in Pool(Sleeper, {}, 1).map("sleep", [0, 1000]):
        kill()

def tasks():
    threading.Timer(2, kill).start()
    ray_map(time.sleep, [1000])

try:
    with session("local", cpus=2, shared_bytes=0):
        globals()[sys.argv[1]]()
except StepError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.cluster
@pytest.mark.parametrize("step", ["pool", *(pytest.param(step, marks=pytest.mark.slow) for step in ("train", "tasks"))])
def test_a_raylet_that_dies_is_one_line_and_exit_code_1(tmp_path, step):
    root = Path(__file__).parents[3]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, program, step], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert ended.stdout == "killed\n"
    assert (ended.returncode, ended.stderr) == (1, f"{LOST}\n")


ENDING = """
import os, sys
from cluster.runtime.watch import ending_reported

with ending_reported(lambda error: print(error, file=sys.stderr, flush=True)):
    if sys.argv[1] == "dies":
        os._exit(1)  # as code of Ray does
    if sys.argv[1] == "raises":
        raise SystemExit("reason")
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "ends"), [("dies", (1, "", f"{ENDED}\n")), ("raises", (1, "", "reason\n")), ("works", (0, "done\n", ""))]
)
def test_a_process_that_ends_without_a_line_while_ray_starts_has_one(how, ends):
    done = subprocess.run([sys.executable, "-c", ENDING, how], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == ends


STARTING = """
import os, sys, threading, time
from cluster.runtime.session import session

def kill():
    while True:
        for entry in os.listdir("/proc"):
            try:
                if not entry.isdigit() or b"/raylet/raylet" not in open(f"/proc/{entry}/cmdline", "rb").read():
                    continue
                parent = int(open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == os.getpid():
                time.sleep(float(sys.argv[1]))
                os.kill(int(entry), 9)
                return

threading.Thread(target=kill, daemon=True).start()
try:
    with session("local", cpus=1, shared_bytes=0):
        time.sleep(60)
except RuntimeError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.5, 1, 2])
def test_a_raylet_that_dies_while_the_driver_connects_is_one_line_and_exit_code_1(seconds):
    command = [sys.executable, "-c", STARTING, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert "Ray" in done.stderr
