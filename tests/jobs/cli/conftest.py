"""The command line in this process."""

import sys

import pytest

from jobs.cli.main import main


@pytest.fixture
def ofa(monkeypatch, capsys):
    """Runs a command: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ofa", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call
