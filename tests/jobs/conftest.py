"""A finished run of the tiny config, made once."""

from __future__ import annotations

import pytest
from helpers import TINY, TinyRun, ofa, run_id


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Undisturbed, seed 1, in a directory."""
    store = tmp_path_factory.mktemp("tiny")
    done = ofa("run", TINY, "--store", store)
    assert done.returncode == 0, done.stderr
    return TinyRun(store, run_id())
