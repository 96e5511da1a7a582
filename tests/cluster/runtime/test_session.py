"""Which Ray cluster a session connects to, with Ray imitated; and who can connect to a local one."""

import os
import signal
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import ray
import torch

from cluster.errors import InputError, StepError
from cluster.runtime import session as sessions
from cluster.runtime.machine import TOKENS, ModulePaths, ensure_token, ray_directory
from cluster.runtime.session import RAY_SETTINGS, session


@pytest.fixture
def addresses(monkeypatch):
    """The addresses that Ray was to connect to."""
    seen = []
    monkeypatch.setattr(ray, "init", lambda address, **_: seen.append(address))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4, "GPU": 1})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(sessions, "watched", lambda on_lost: nullcontext())
    for name in ("RAY_ADDRESS", "GLOO_SOCKET_IFNAME", *RAY_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield seen
    signal.signal(signal.SIGTERM, handler)
    for name in RAY_SETTINGS:
        os.environ.pop(name, None)


@pytest.mark.parametrize(("variable", "expected"), [(None, "local"), ("", "local"), ("auto", "auto")])
def test_an_empty_ray_address_is_no_address(addresses, monkeypatch, variable, expected):
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == [expected]


def test_a_cluster_that_does_not_answer_is_named_with_the_setting_that_names_it(addresses, monkeypatch):
    says = r"ray\.address is '127\.0\.0\.1:9': cannot connect: .*; start that cluster, or use 'local'"
    with pytest.raises(InputError, match=says), session("127.0.0.1:9", cpus=2, shared_bytes=0):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    says = r"RAY_ADDRESS is '127\.0\.0\.1:9': cannot connect: .*; start that cluster, or unset RAY_ADDRESS"
    with pytest.raises(InputError, match=says), session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == []


def test_settings_of_ray_that_are_empty_are_set_and_others_are_kept(addresses, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PRINT_PATCH", "1")
    with session("local", cpus=2, shared_bytes=0):
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
        assert os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] == "1"


def test_gpus_that_are_not_there_are_an_error_before_anything_waits_for_them(addresses, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    says = r"this run needs 2 GPUs \(.*\); this machine has 0 \(CUDA_VISIBLE_DEVICES is ''\).*set the devices to 'cpu'"
    with pytest.raises(InputError, match=says), session("local", cpus=2, shared_bytes=0, gpus=2):
        pass
    assert addresses == []
    says = r"ray\.address is 'auto': the cluster has 1 GPUs, this run needs 2 .*set the devices to 'cpu'"
    with pytest.raises(InputError, match=says), session("auto", cpus=2, shared_bytes=0, gpus=2):
        pass
    with session("auto", cpus=2, shared_bytes=0, gpus=1):
        pass


def test_gpus_of_an_autoscaler_are_waited_for_but_not_for_ever(addresses, monkeypatch):
    waited = []
    group = SimpleNamespace(wait=lambda seconds: bool(waited.append(seconds)))
    monkeypatch.setattr(sessions, "placement_group", lambda bundles: group)
    monkeypatch.setattr(sessions, "remove_placement_group", lambda group: waited.append("removed"))
    with (
        pytest.raises(StepError, match=r"has 1 GPUs, .* needs 3 .*none were added in 60 s: check the groups"),
        session("auto", cpus=2, shared_bytes=0, gpus=3, grows=True, wait_s=60),
    ):
        pass
    assert waited == [60, "removed"]


def test_far_more_processes_than_cpus_are_an_error(addresses):
    says = r"this run needs 9999 processes .*; this machine has \d+ CPUs"
    with pytest.raises(InputError, match=says), session("local", cpus=9999, shared_bytes=0):
        pass
    assert addresses == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TMPDIR", "/nowhere/at/all", "TMPDIR is '/nowhere/at/all': .* cannot write there: No such file"),
        ("TMPDIR", "/etc/hostname", "TMPDIR is '.*': .* cannot write there: Not a directory"),
        ("RAY_TMPDIR", "/proc", "RAY_TMPDIR is '/proc': .* cannot write there: .*; set RAY_TMPDIR to"),
        ("TMPDIR", "/tmp/" + "x" * 60, "TMPDIR is '/tmp/x*': too long for the sockets .* at most 39 bytes"),
    ],
)
def test_a_directory_for_temporary_files_that_cannot_be_used_is_named_with_its_variable(
    addresses, monkeypatch, name, value, says
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=says), session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == []
    with session("auto", cpus=2, shared_bytes=0):  # a joined cluster has its own
        pass


def test_an_empty_tmpdir_is_unset_and_a_relative_one_is_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "")
    assert ray_directory() == "/tmp/ray"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.chdir(folder)
        os.mkdir("t")
        monkeypatch.setenv("TMPDIR", "t")
        assert ray_directory() == f"{folder}/t/ray"


class TestTheToken:
    @pytest.fixture
    def home(self, monkeypatch, tmp_path):
        for name in TOKENS:
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    def test_it_is_in_a_file_that_only_this_user_may_read(self, home):
        ensure_token()
        file = home / ".ray" / "auth_token"
        assert len(token := file.read_text()) == 64
        assert file.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
        assert not any(name in os.environ for name in TOKENS)  # an empty RAY_AUTH_MODE would turn tokens off
        ensure_token()
        assert file.read_text() == token

    def test_one_that_others_may_read_is_kept_and_made_private(self, home):
        (home / ".ray").mkdir()
        file = home / ".ray" / "auth_token"
        file.write_text("x" * 64)
        file.chmod(0o644)
        ensure_token()
        assert (file.read_text(), file.stat().st_mode & 0o777) == ("x" * 64, 0o600)

    @pytest.mark.parametrize("content", [None, ""])
    def test_without_a_file_to_read_it_is_in_the_environment(self, home, monkeypatch, content):
        if content is None:
            monkeypatch.setenv("HOME", "/proc")
        else:
            (home / ".ray").mkdir()
            (home / ".ray" / "auth_token").write_text(content)
        ensure_token()
        assert len(token := os.environ["RAY_AUTH_TOKEN"]) == 64
        ensure_token()
        assert os.environ["RAY_AUTH_TOKEN"] == token

    @pytest.mark.parametrize(
        ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "t" * 32), ("RAY_AUTH_TOKEN_PATH", "/t")]
    )
    def test_one_of_the_user_is_used_instead(self, home, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        ensure_token()
        assert os.environ[name] == value
        assert not (home / ".ray").exists()


# 127.0.0.1, ::1 and ::ffff:127.0.0.1 as in /proc/net
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def children():
    """The names of this process and of those below it, by process id."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            start, _, rest = path.read_text().rpartition(")")
            names[int(path.parent.name)], parents[int(path.parent.name)] = start.partition("(")[2], int(rest.split()[1])
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {pid: names[pid] for pid in mine}


def listening():
    """The addresses of TCP sockets that wait for connections, by inode."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[9]: row[1].rpartition(":")[0] for row in rows if row[3] == "0A"}


def sockets(pid):
    """The inodes of a process's sockets."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    return found


class TestALocalCluster:
    def test_it_refuses_clients_without_its_token(self, ray_cluster):
        assert os.environ["RAY_AUTH_MODE"] == "token"
        address = ray.get_runtime_context().gcs_address
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED

    def test_its_processes_listen_on_the_loopback_interface_alone(self, ray_cluster):
        ray.get(ray.remote(num_cpus=0)(lambda: None).remote())  # a worker as well
        there = listening()
        found = {(name, there[inode]) for pid, name in children().items() for inode in sockets(pid) & set(there)}
        assert {"gcs_server", "raylet"} <= {name for name, _ in found}
        assert [(name, address) for name, address in found if address not in LOOPBACK] == []

    def test_no_command_line_has_the_token(self, ray_cluster):
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        token = os.environ.get("RAY_AUTH_TOKEN") or path.read_text().strip()
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in children()]
        assert any("raylet" in command for command in commands)
        assert not any(token in command for command in commands)


def test_workers_get_no_modules_of_the_working_directory():
    paths = ModulePaths()
    paths.extend(["/somewhere"])
    assert list(paths) == [str(Path(sessions.__file__).parents[2])]


@pytest.mark.parametrize(
    "address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265", "10.0.0.1", "host:port", "a b:1", "host:99999", ":6379", " "]
)
def test_what_is_no_address_is_refused_with_the_variable_that_holds_it(addresses, monkeypatch, address):
    says = rf"ray\.address is {address!r}; expected auto, or host:port .*, or local"
    with pytest.raises(InputError, match=says), session(address, cpus=2, shared_bytes=0):
        pass
    monkeypatch.setenv("RAY_ADDRESS", address)
    says = rf"RAY_ADDRESS is {address!r}; expected auto, or host:port .*, or unset it"
    with pytest.raises(InputError, match=says), session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == []
