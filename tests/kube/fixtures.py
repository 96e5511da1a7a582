"""A cluster that is not there: an apiserver, KubeRay's operator, and a kubeconfig for both of our clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube.apiserver import ApiServer
from kube.operator import Operator, Scripted

from cluster.kube.api import Api


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """An empty cluster, to which KUBECONFIG leads."""
    there = ApiServer()
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(there.kubeconfig()))
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield there
    there.close()


@pytest.fixture
def api(server: ApiServer) -> Api:
    return Api.connect("ofa")


@pytest.fixture
def operator(server: ApiServer) -> Iterator[Operator]:
    """KubeRay with clusters that do what a test says: `operator.backend`."""
    there = Operator(server, Scripted())
    yield there
    there.close()
    assert not there.errors, there.errors[0]
