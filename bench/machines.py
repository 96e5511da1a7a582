"""Ray nodes and an S3 server on this machine, each in processes of its own that can be killed like a machine's.

Every process has a marker in its environment, so all of them are found again, also those that a killed bench left.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
OURS, NODE = "OFA_BENCH_MARKER", "OFA_BENCH_NODE"  # environment variables with the markers of a bench, and of a node
UP_S = 300.0  # seconds until a node has started
NODE_CPUS = 2


def free_port(below: int = 2**16) -> int:
    """A port on which nothing listens."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port


def titles() -> dict[int, tuple[int, str]]:
    """The parent and the title of every process, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):  # the process has just ended
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[int(entry.name)] = (parent, title)
    return found


def descendants(root: int) -> dict[int, str]:
    """The titles of a process and of all that it has started, by their ids."""
    there = titles()
    found = {root: there[root][1]} if root in there else {}
    grown = True
    while grown:
        more = {pid: title for pid, (parent, title) in there.items() if parent in found and pid not in found}
        found.update(more)
        grown = bool(more)
    return found


def marked(variable: str, marker: str) -> list[int]:
    """The processes that were started with this value of an environment variable."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{variable}={marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def kill_marked(variable: str, marker: str) -> None:
    """SIGKILL to these processes, until none is left."""
    while found := marked(variable, marker):
        kill(*found)
        time.sleep(0.05)


def kill(*pids: int) -> None:
    """SIGKILL to processes that may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Node:
    """A Ray node: `ray start --block` with all that it has started."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.marker, self.folder, self.log = uuid.uuid4().hex, folder, folder.with_suffix(".log")
        # several nodes on one machine: a port that is given is not waited for
        agents = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port",
                                                         "dashboard-agent-grpc-port", "runtime-env-agent-port")]  # fmt: skip
        command = [str(BIN / "ray"), "start", *arguments, *agents, "--block", "--disable-usage-stats",
                   "--object-store-memory=134217728", f"--temp-dir={self.folder}"]  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, env={**environment, NODE: self.marker}, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out, start_new_session=True)  # fmt: skip

    def wait_until_started(self) -> None:
        """Returns once the node has joined; raises a RuntimeError with the end of its log if it does not."""
        deadline = time.monotonic() + UP_S
        while "Ray runtime started" not in (text := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a Ray node did not start: {text[-2000:]}")
            time.sleep(0.2)

    def workers(self, title: str) -> list[int]:
        """Its worker processes whose title begins with `title`."""
        return sorted(pid for pid, found in descendants(self.process.pid).items() if found.startswith(title))

    def kill(self) -> None:
        """SIGKILL to all of it at once, as where a machine loses its power."""
        kill(*descendants(self.process.pid))
        kill_marked(NODE, self.marker)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A Ray cluster of a head without CPUs and some nodes with `NODE_CPUS` each, with token authentication."""

    def __init__(self, folder: Path, environment: dict[str, str], nodes: int) -> None:
        self.folder, self.started = folder, 0
        self.port = free_port()
        self.access = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_AUTH_MODE": "token",
                       "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # fmt: skip
        self.environment = {
            **environment, **self.access, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1", "RAY_PRESTART_WORKER_FIRST_DRIVER": "0",
            "RAY_raylet_start_wait_time_s": "300",  # a node of a busy machine starts slowly
        }  # fmt: skip
        del self.environment["RAY_ADDRESS"]
        self.head = self._node("--head", "--num-cpus=0", "--include-dashboard=false", f"--port={self.port}")
        self.nodes: list[Node] = []
        try:
            self.head.wait_until_started()
            for _ in range(nodes):
                self.add()
            for node in self.nodes:
                node.wait_until_started()
        except BaseException:
            self.close()
            raise

    def add(self) -> Node:
        """Starts a further node, which joins some seconds later."""
        node = self._node(f"--address=127.0.0.1:{self.port}", f"--num-cpus={NODE_CPUS}")
        self.nodes.append(node)
        return node

    def lose(self, node: Node) -> None:
        """Kills a node."""
        self.nodes.remove(node)
        node.kill()

    def close(self) -> None:
        """Kills all nodes."""
        for node in [*self.nodes, self.head]:
            node.kill()

    def _node(self, *arguments: str) -> Node:
        self.started += 1
        return Node(self.folder / f"n{self.started}", self.environment, *arguments)


class S3Server:
    """Ceph's S3 gateway with its monitor and its object store (tests/radosgw.sh); what it acknowledged survives a kill."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.port = free_port(below=50_000)  # it also uses the ports from 10,000 above

    def call(self, command: str) -> None:
        """`start` (again), `crash` or `remove`; raises a RuntimeError if that fails."""
        done = subprocess.run(
            [str(ROOT / "tests/radosgw.sh"), command, str(self.folder), str(self.port)],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the S3 server: {command}: {done.stderr}")


def s3_settings(port: int) -> dict[str, str]:
    """The environment variables with which a client uses that server, or a proxy before it."""
    return {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # this release of the gateway does not know the checksums that clients send unasked
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


@contextlib.contextmanager
def marked_environment(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """The environment of a bench's processes, and a directory for their files with a short path, since sockets are in it.

    What an earlier bench of `folder` has left is killed and deleted first; so is, at the end, what this one has started.
    """
    file = folder / "marker"
    if not file.exists():
        file.write_text(uuid.uuid4().hex)
    marker = file.read_text()
    scratch = Path(tempfile.gettempdir()) / f"ofa-bench-{marker[:8]}"
    environment = {**os.environ, OURS: marker}
    for name in ("RAY_ADDRESS", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        environment.pop(name, None)

    def clear() -> None:
        kill_marked(OURS, marker)
        shutil.rmtree(scratch, ignore_errors=True)

    clear()
    scratch.mkdir()
    try:
        yield environment, scratch
    finally:
        clear()
