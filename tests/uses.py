"""What a test uses beyond this process: a cluster, a server, a browser, a whole run. Each is a mark.

Marks come from the fixtures that a test asks for (`FIXTURES`), or stand at the test where it starts such a thing itself.
A test that starts what it is not marked with fails there, so `make test-unit`, which leaves marked ones out, stays quick.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

import pytest

FIXTURES = {
    "ray_cluster": "cluster",
    "mock_s3": "server",
    "radosgw": "server",
    "server": "server",
    "chromium": "browser",
    "tiny_run": "whole_run",
    "exits_run": "whole_run",
    "demo": "whole_run",
}
# Made once: a test that asks for it goes to one process of pytest-xdist.
SHARED = ("demo", "tiny_run", "exits_run", "radosgw", "ray_cluster")
REAL_SERVER = (pytest.mark.server, pytest.mark.xdist_group("radosgw"))  # of tests that ask for `radosgw` as they run
MARKS = tuple(dict.fromkeys(FIXTURES.values()))
# Commands of ofa that train, or start Ray for a step of a run.
WHOLE = {"run", "train", "measure", "fit", "validate", "predict", "report", "export", "eval", "finetune", "serve", "tune",
         "transfer", "adapt"}  # fmt: skip


class Machine:
    """Shares this machine between the processes of tests: many at a time, or one that has all of it.

    Locks of two files of a folder. Whoever wants all of it keeps others from starting while it waits for those that run.
    """

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        self.door, self.room = (os.open(folder / name, os.O_RDONLY) for name in ("uses.py", "conftest.py"))

    def _enter(self, how: int) -> None:
        fcntl.flock(self.door, fcntl.LOCK_EX)
        fcntl.flock(self.room, how)
        fcntl.flock(self.door, fcntl.LOCK_UN)

    @contextmanager
    def shared(self) -> Iterator[None]:
        self._enter(fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside `shared`: no test of another process runs meanwhile."""
        fcntl.flock(self.room, fcntl.LOCK_UN)
        self._enter(fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_SH)


class NotMarked(AssertionError):
    """A test has started what its marks do not say."""


class Guard:
    """Watches what this process starts; `allowed` are the marks of the test that runs, None between tests."""

    def __init__(self) -> None:
        self.allowed: set[str] | None = None
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple) -> None:
        if self.allowed is None:
            return
        used, what = None, ""
        if event == "socket.bind" and isinstance(arguments[1], tuple):
            used, what = "server", f"a socket bound to {arguments[1]}"
        elif event == "subprocess.Popen":
            command = [arguments[1]] if isinstance(arguments[1], str | bytes | PurePath) else arguments[1]
            used, what = use_of([word.decode() if isinstance(word, bytes) else str(word) for word in command]), str(command)
        if used and used not in self.allowed:
            raise NotMarked(f"this test starts {what}; mark it with pytest.mark.{used}, or do without")


def use_of(words: Sequence[str]) -> str | None:
    """The mark for a command, None if it is a quick one of one process."""
    names = [PurePath(word).name for word in words]
    if "gcs_server" in names or "raylet" in names or names[:2] == ["ray", "start"]:
        return "cluster"
    if any(name.startswith(("radosgw", "moto_server")) for name in names):
        return "server"
    if "chromium" in names or any("/playwright/" in word for word in words):
        return "browser"
    if "make" in names[:1] or any(
        word in WHOLE and (names[at] == "ofa" or names[at - 1 : at + 1] == ["-m", "jobs"])
        for at, word in enumerate(words[1:])
    ):
        return "whole_run"
    return None


def mark(item: pytest.Item) -> None:
    """Adds the marks of the fixtures that a test asks for, and the process of pytest-xdist in which they are."""
    names = getattr(item, "fixturenames", ())
    for name in names:
        if name in FIXTURES:
            item.add_marker(FIXTURES[name])
    if item.get_closest_marker("xdist_group") is None:
        group = next((name for name in SHARED if name in names), item.location[0])  # a file's tests share what it makes once
        item.add_marker(pytest.mark.xdist_group(group))
    group = item.get_closest_marker("xdist_group")
    if group is not None and item.config.getoption("loadgroup", False) and not hasattr(item, "_nodeid"):
        # pytest-xdist 3.8 adds a test's group to `_nodeid`, which pytest 9.2 no longer has: its groups would do nothing
        item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


def marks(item: pytest.Item) -> set[str]:
    return {name for name in MARKS if item.get_closest_marker(name) is not None}
