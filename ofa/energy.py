"""The energy that a network needs for one image, by the counters of the processor (RAPL), in millijoules.

The counters are those of whole processor packages: they also count what other processes use meanwhile, and the idle
machine. They are read before and after many runs. Linux shows them in /sys/class/powercap, on Intel and AMD;
often only root may read them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
SECONDS = 0.3  # least duration of the runs between two readings
_WARM_UP = 3  # runs before the first reading


class NoCounter(Exception):
    """A machine whose energy counters do not exist or cannot be read."""


def packages(root: Path = COUNTERS) -> list[Path]:
    """The readable counters of processor packages; empty where there is none."""
    domains = (path.parent for path in sorted(root.glob("intel-rapl:*/energy_uj")) if os.access(path, os.R_OK))
    return [domain for domain in domains if domain.name.count(":") == 1]  # intel-rapl:0:1 is a part of intel-rapl:0


def energy_mj(run: Callable[[], object], *, seconds: float = SECONDS, root: Path = COUNTERS) -> float:
    """The mean energy of a call of `run` in millijoules, over at least `seconds`; raises a `NoCounter` without counters."""
    counters = packages(root)
    if not counters:
        raise NoCounter(
            f"energy_mj: this machine has no readable energy counter in {root}/intel-rapl:*; leave the objective out, or "
            "let the evaluators read the counters"
        )
    for _ in range(_WARM_UP):
        run()
    before, started, calls = [_microjoules(counter) for counter in counters], time.monotonic(), 0
    while calls == 0 or time.monotonic() - started < seconds:
        run()
        calls += 1
    used = 0
    for counter, start in zip(counters, before, strict=True):
        passed = _microjoules(counter) - start
        if passed < 0:  # the counter has begun again at 0
            passed += int((counter / "max_energy_range_uj").read_text())
        used += passed
    return used / calls / 1e3


def _microjoules(counter: Path) -> int:
    return int((counter / "energy_uj").read_text())
