"""A finished run of the tiny config, made once, and the command line in this process."""

from __future__ import annotations

import sys

import pytest
from helpers import TINY, TinyRun, ofa, run_id


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Undisturbed, seed 1, in a directory."""
    store = tmp_path_factory.mktemp("tiny")
    done = ofa("run", TINY, "--store", store)
    assert done.returncode == 0, done.stderr
    return TinyRun(store, run_id())


@pytest.fixture(name="ofa")
def ofa_here(monkeypatch, capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""
    from jobs.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ofa", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call
