"""What tests share: reference data, real servers, and the rule that in CI nothing is skipped but the GPU and kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import uses

from bench.machines import free_port, s3_settings

ROOT = Path(__file__).parent.parent
pytest_plugins = ["kube.fixtures"]  # an imitation of Kubernetes, for tests of several rooms


GUARD = uses.Guard()
MACHINE = uses.Machine()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        uses.mark(item)
        if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("horovod") is not None and not all(map(find_spec, ("horovod", "psutil"))):
            item.add_marker(pytest.mark.skip(reason="no Horovod; `make horovod` builds it"))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before a test's time starts
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not uses.marks(item) - {"server"}:
        return (yield)
    with MACHINE.shared():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    GUARD.allowed = uses.marks(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    GUARD.allowed = None  # servers of other tests may end in it
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """With OFA_NO_SKIPS a test that skips has failed, but for want of a GPU, or of kubectl, which Debian has too old."""
    report = yield
    fine = item.get_closest_marker("gpu") is not None or "no kubectl" in str(report.longrepr) or hasattr(report, "wasxfail")
    if os.environ.get("OFA_NO_SKIPS") and report.skipped and not fine:
        report.outcome = "failed"
        report.longrepr = f"skipped, which OFA_NO_SKIPS forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of measurements by others, which are never committed."""
    folder = Path(os.environ.get("OFA_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; OFA_REFERENCE_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def machine() -> uses.Machine:
    """`machine.alone()` for what is measured, or wants all cores."""
    return MACHINE


@pytest.fixture(scope="session")
def mock_s3() -> Iterator[dict[str, str]]:
    """The environment of a mocked S3 server with an empty bucket `results`; quick, and it checks no keys."""
    import boto3
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    environment = s3_settings(port)
    client(boto3, environment).create_bucket(Bucket="results")
    yield environment
    server.stop()


class Radosgw:
    """A real S3 server that can crash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = next(port for port in iter(free_port, None) if port < 50000)
        self.environment = s3_settings(self.port)

    def call(self, command: str) -> None:
        done = subprocess.run(
            [str(ROOT / "tests/radosgw.sh"), command, str(self.folder), str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Radosgw]:
    """Ceph's gateway on loopback with an empty bucket `results`."""
    import boto3

    if not all(shutil.which(name) for name in ("radosgw", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool")):
        pytest.skip("no radosgw; `make services` installs it on Debian as root")
    server = Radosgw(tmp_path_factory.mktemp("radosgw") / "ceph")
    try:
        server.call("start")
        client(boto3, server.environment).create_bucket(Bucket="results")
        yield server
    finally:
        server.call("remove")


def client(boto3: object, environment: dict[str, str]) -> object:
    return boto3.client(  # type: ignore[attr-defined]
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium; `make services` installs it on Debian as root")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of four CPUs and one logical GPU, for all tests that work on one."""
    import ray

    from cluster.runtime.session import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_gpus=1))
        with session("local", cpus=4, shared_bytes=2**28):
            patch.undo()
            yield
