"""Whole commands in processes of their own, to watch, to kill and to look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

TINY = Path(__file__).parent / "jobs" / "tiny.toml"
OFA = Path(sys.executable).parent / "ofa"


@dataclass
class TinyRun:
    """A run in a directory."""

    store: Path
    id: str

    @property
    def folder(self) -> Path:
        return self.store / self.id

    def read(self, key: str) -> Any:
        return json.loads((self.folder / key).read_text())


MOST_PARAMS = 20_000


@dataclass
class ExitsRun(TinyRun):
    """A run on a space with exits, with every optional step; `arguments` of every command on it."""

    arguments: list[str]
    space: ClassVar[str] = "ofav2_mbv3_ee_dp_w0.1_32px"
    settings: ClassVar[tuple[str, ...]] = (
        f"space={space}", "choices.resolutions=[20]", "train.teacher_exits=ascending", "train.backend=local",
        "train.workers=1", "ray.evaluators=1",
        'train.phases=[{name="full",epochs=1,lr=0.1,joint_exits="ascending",exits=[5]},'
        '{name="all",epochs=1,lr=0.05,distil=1.0,teacher="previous"}]',
        'search.objectives=["top1","latency_ms.here","params"]', f"search.at_most.params={MOST_PARAMS}",
        "ensemble.unit=latency_ms.here", "measure.archs=20", "measure.latency_archs=5", "measure.latency_runs=5",
        "measure.batch=auto",
        "search.evaluations=24", "search.population=8", "search.predicted_evaluations=300", "search.predicted_members=4",
        "adapt.iterations=1", "adapt.archs=10", "adapt.oversample=1", "adapt.batch=3", "adapt.survivors=5", "adapt.epochs=1",
        "adapt.subnets=1", "adapt.predicted_evaluations=100", "adapt.candidates=10",
    )  # fmt: skip


def ofa(*arguments: object, **settings: Any) -> subprocess.CompletedProcess:
    """A whole `ofa` command in a process of its own."""
    command = [str(OFA), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, **settings)


def run_id(*settings: str) -> str:
    from jobs.config import load

    return load(str(TINY), list(settings)).id


class Running:
    """An `ofa run` under way, whose processes can be killed."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [str(OFA), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # tests that run in the background of a shell inherit that Ctrl-C is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for(self, condition: Any, timeout_s: float = 300) -> None:
        """Until `condition()`; the run must not end before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the run ended early:\n{self.process.stdout.read()}"
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def workers(self, name: str) -> list[int]:
        """Its Ray worker processes whose title starts with `name`."""
        return [pid for pid, title, parents in processes() if title.startswith(name) and self.process.pid in parents]

    def kill(self) -> None:
        """SIGKILL to the driver. Its Ray cluster dies with it some seconds later, which nobody waits for here."""
        self.process.kill()
        self.process.communicate()

    def kill_all(self) -> None:
        """SIGKILL to the driver and to every worker."""
        workers = self.workers("ray::")
        self.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                kill(pid)

    def finish(self) -> None:
        output, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, output


def processes() -> Iterator[tuple[int, str, list[int]]]:
    """(pid, title, parents) of every process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            table[int(entry.name)] = (title, parent)
    for pid, (title, _) in table.items():
        parents, here = [], pid
        while here in table and here > 1:
            here = table[here][1]
            parents.append(here)
        yield pid, title, parents


def kill(pid: int) -> None:
    os.kill(pid, 9)
