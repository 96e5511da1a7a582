"""What a test uses beyond this process: a cluster, a server, a browser, a whole run. Each is a mark.

Marks come from the fixtures that a test asks for (`FIXTURES`), or stand at the test where it starts such a thing itself.
A test that starts what it is not marked with fails there, so `make test-unit`, which leaves marked ones out, stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePath

import pytest

FIXTURES = {
    "ray_cluster": "cluster",
    "mock_s3": "server",
    "radosgw": "server",
    "server": "server",
    "chromium": "browser",
    "tiny_run": "whole_run",
    "demo": "whole_run",
}
ONE_PROCESS = pytest.mark.xdist_group("radosgw")
REAL_SERVER = (pytest.mark.server, ONE_PROCESS)  # of a parameter with which a test asks for `radosgw` as it runs
MARKS = tuple(dict.fromkeys(FIXTURES.values()))
# Commands of ofa that train, or start Ray for a step of a run.
WHOLE = {"run", "train", "measure", "fit", "validate", "predict", "report", "export", "eval", "finetune", "serve", "tune",
         "transfer"}  # fmt: skip


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
    """Adds the marks of the fixtures that a test asks for; tests of one radosgw go to one process of pytest-xdist."""
    for name in getattr(item, "fixturenames", ()):
        if name in FIXTURES:
            item.add_marker(FIXTURES[name])
        if name == "radosgw":
            item.add_marker(ONE_PROCESS)


def marks(item: pytest.Item) -> set[str]:
    return {name for name in MARKS if item.get_closest_marker(name) is not None}
