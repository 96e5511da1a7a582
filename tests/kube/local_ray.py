"""Clusters of real Ray nodes on this machine, for the operator of the tests: a head, workers, and the real entrypoint.

A head is `ray start --head` on ports of its own with token authentication, as KubeRay starts one with `authOptions`; a
worker pod is a node with as many CPUs as the pod may have. The operator's HTTP calls to the dashboard are the real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machines import free_port

Doc = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
TOKEN = "planted-ray-token-0123456789abcdef"  # what the Secret ofa-ray-token would hold
BIN = Path(sys.executable).parent
UP_S = 300
MARKER = "OFA_TEST_NODE"  # in the environment of every process of a node


@dataclass
class Node:
    """One Ray node."""

    marker: str
    process: subprocess.Popen

    def kill(self) -> None:
        kill(self.marker)
        self.process.wait(timeout=30)


@dataclass
class Nodes:
    """The processes of one cluster."""

    folder: Path
    port: int
    dashboard: str
    config: Path
    head: Node
    lives: int = 1  # of the head
    workers: dict[str, list[Node]] = field(default_factory=dict)


class LocalRay:
    """What the operator needs of clusters."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment  # what envFrom brings from the Secret ofa-store
        self.clusters: dict[str, Nodes] = {}
        self.entrypoints: list[str] = []
        self.sizes: list[tuple[str, int]] = []  # (group, pods), in the order they were asked for

    def start(self, cluster: str, config: dict[str, str]) -> str:
        """A head that is started again has the ports of the one before, and an empty disk."""
        before = self.clusters.get(cluster)
        if before is None:
            folder, port, dashboard, life = Path(tempfile.mkdtemp(prefix="ofa-kube-")), free_port(), free_port(), 1
        else:
            before.head.kill()
            folder, port, dashboard, life = before.folder, before.port, int(before.dashboard[17:]), before.lives + 1
        mount = folder / f"etc-ofa-{life}"
        mount.mkdir()
        for name, text in config.items():
            (mount / name).write_text(text)
        head = self.node(folder, "--head", "--num-cpus=0", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
                         f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray-{life}")  # fmt: skip
        workers = before.workers if before else {}
        self.clusters[cluster] = Nodes(folder, port, f"http://127.0.0.1:{dashboard}", mount, head, life, workers)
        deadline = time.monotonic() + UP_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                self.ask(cluster, "GET", "/api/version")
                return self.clusters[cluster].dashboard
            assert head.process.poll() is None, "the head ended"
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.2)

    def ended(self, cluster: str) -> int | None:
        nodes = self.clusters.get(cluster)
        return 137 if nodes is None else nodes.head.process.poll()

    def node(self, folder: Path, *arguments: str) -> Node:
        """A Ray node in a process that stays."""
        marker = uuid.uuid4().hex
        environment = {
            **os.environ, **self.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "20", "OMP_NUM_THREADS": "1",
            "RAY_PRESTART_WORKER_FIRST_DRIVER": "0", MARKER: marker,
        }  # fmt: skip
        for name in ("RAY_ADDRESS", "KUBECONFIG"):
            environment.pop(name, None)
        # several nodes on one machine; a port that is given is not waited for
        agents = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port",
                                                         "dashboard-agent-grpc-port", "runtime-env-agent-port")]  # fmt: skip
        command = [str(BIN / "ray"), "start", *arguments, *agents, "--block", "--disable-usage-stats",
                   "--object-store-memory=134217728"]  # fmt: skip
        with (folder / "nodes.log").open("ab") as log:
            return Node(marker, subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))

    def resize(self, cluster: str, group: str, pods: int, cpus: int) -> None:
        nodes = self.clusters[cluster]
        there = nodes.workers.setdefault(group, [])
        there[:] = [node for node in there if node.process.poll() is None]  # pods that have failed are replaced
        if len(there) != pods:
            self.sizes.append((group, pods))
        while len(there) < pods:
            there.append(self.node(nodes.folder, f"--address=127.0.0.1:{nodes.port}", f"--num-cpus={cpus}"))
        while len(there) > pods:
            there.pop().kill()

    def submit(self, cluster: str, job_id: str, entrypoint: str) -> None:
        """As the submitter: a shell reads the entrypoint unquoted, Ray gets the words that come out."""
        words = subprocess.run(["bash", "-c", f"printf '%s\\0' {entrypoint}"], capture_output=True, check=True, text=True)
        command = " ".join(words.stdout.split("\0")[:-1])
        self.entrypoints.append(command)
        command = command.replace("/etc/ofa", str(self.clusters[cluster].config))  # where a kubelet would mount it
        deadline = time.monotonic() + UP_S
        while not self.status(cluster, job_id):  # as the submitter, while the head still starts
            try:
                self.ask(cluster, "POST", "/api/jobs/", {"entrypoint": command, "submission_id": job_id})
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def status(self, cluster: str, job_id: str) -> str:
        """JobStatus; empty where the head is gone, does not answer, or has no such job."""
        if self.ended(cluster) is not None:
            return ""
        try:
            word: str = self.ask(cluster, "GET", f"/api/jobs/{job_id}")["status"]
        except (OSError, KeyError, ValueError):
            return ""
        return word

    def log(self, cluster: str, job_id: str) -> list[str]:
        try:
            text: str = self.ask(cluster, "GET", f"/api/jobs/{job_id}/logs")["logs"]
        except (OSError, KeyError, ValueError):
            return []
        lines = text.splitlines()
        return lines if text.endswith("\n") or not lines else lines[:-1]

    def ask(self, cluster: str, method: str, path: str, body: Doc | None = None) -> Doc:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.clusters[cluster].dashboard + path, data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            found: Doc = json.loads(answer.read())
        return found

    def lose(self, cluster: str) -> None:
        """The processes of the head are killed, the driver's too; what runs on workers is not."""
        self.clusters[cluster].head.kill()

    def stop(self, cluster: str) -> None:
        nodes = self.clusters.pop(cluster, None)
        if nodes is None:
            return
        for node in [*(node for group in nodes.workers.values() for node in group), nodes.head]:
            node.kill()
        shutil.rmtree(nodes.folder, ignore_errors=True)


def kill(marker: str) -> None:
    """SIGKILL to everything that was started with this in its environment, until nothing is left."""
    while True:
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and marked(entry, marker)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def marked(entry: Path, marker: str) -> bool:
    """Whether a live process has the marker in its environment; a dead one that nobody has waited for has none."""
    try:
        return f"{MARKER}={marker}".encode() in (entry / "environ").read_bytes()
    except OSError:
        return False
