"""Runs a command and measures its time and the peak memory of all its processes together."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Watched:
    """The result of a command.

    stolen_s: of `seconds`, what other virtual machines took, in the mean of the processors. peak_bytes: proportional set
    size, which counts a page shared by several processes once.
    """

    returncode: int
    output: str
    seconds: float
    stolen_s: float
    peak_bytes: int


def watched(command: Sequence[str], folder: Path | None = None, timeout_s: float | None = None) -> Watched:
    """Runs a command and reads its memory once a second."""
    started, stolen, peak = time.monotonic(), stolen_seconds(), [0]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def look() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], tree_bytes(process.pid))
            time.sleep(1)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        looking.join()
    return Watched(process.returncode, output, time.monotonic() - started, stolen_seconds() - stolen, peak[0])


def stolen_seconds() -> float:
    """The seconds since the start that a virtual machine waited for its host, in the mean of the processors (Linux)."""
    ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def tree_bytes(root: int) -> int:
    """The present memory of a process and all its descendants, in bytes (Linux)."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # the process has just ended
    total = 0
    for pid in parents:
        above = pid
        while above != root and above in parents:
            above = parents[above]
        if above != root:
            continue
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Pss: +(\d+) kB", rollup, re.M))
    return total
