"""Two finished runs of the tiny config, each made once, and the command line in this process."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from helpers import TINY, ExitsRun, TinyRun, ofa, run_id
from pictures import spoil, write_digits


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Undisturbed, seed 1, in a directory."""
    store = tmp_path_factory.mktemp("tiny")
    done = ofa("run", TINY, "--store", store)
    assert done.returncode == 0, done.stderr
    return TinyRun(store, run_id())


@pytest.fixture(scope="session")
def exits_run(tmp_path_factory: pytest.TempPathFactory) -> ExitsRun:
    """On a space with exits, adapted to its search, for three objectives with a limit.

    Its test images are files that are no images, except while `train` checks them and `predict` reads them.
    """
    store, images = tmp_path_factory.mktemp("exits"), tmp_path_factory.mktemp("images") / "digits"
    write_digits(images)
    settings = (*ExitsRun.settings, f"data.source={images}")
    words = [str(TINY), "--store", str(store), *(word for setting in settings for word in ("--set", setting))]
    test, kept = images / "test", images.parent / "test"
    shutil.copytree(test, kept)
    for command, last in (("train", None), ("run", "validate"), ("predict", None), ("run", "report")):
        if command == "predict":
            shutil.copytree(kept, test, dirs_exist_ok=True)
        until = ("--until", last) if last else ()
        done = ofa(command, *words, *until, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        spoil(test)
    return ExitsRun(store, run_id(*settings), words)


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
