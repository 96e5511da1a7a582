"""What a run needs of the machine it starts on: GPUs, a directory for Ray's files, a token, modules that are its own."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cluster.errors import InputError

SOCKET_PATH = 107  # longest path of a Unix socket
SOCKETS = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # what Ray adds to its directory
PROBE_BYTES = 2**20
GPU_SETTINGS = "train.workers if train.device is 'cuda', ray.evaluator_gpus if measure.device is, ray.scorer_gpus"
TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
CODE = Path(__file__).resolve().parents[2]  # the directory of the packages


def check_environment() -> None:
    """Raises an `InputError` for a working directory that is gone, and for variables with which nothing starts."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the working directory no longer exists; change to one that does") from None
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads and not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", threads):
        raise InputError(f"OMP_NUM_THREADS is {threads!r}; expected a number of threads, or unset it")
    if "error" in (warnings := os.environ.get("PYTHONWARNINGS", "")):
        raise InputError(f"PYTHONWARNINGS is {warnings!r}, with which Ray's own processes do not start; unset it")


def check_address(setting: str, address: str) -> None:
    """Raises an `InputError` for what is no address of a Ray cluster."""
    host, _, port = address.rpartition(":")
    if address not in ("local", "auto") and not (
        host and "://" not in address and port.isdecimal() and 0 < int(port) < 2**16 and not re.search(r"\s", address)
    ):
        raise InputError(
            f"{setting} is {address!r}; expected auto, or host:port of the head of a Ray cluster, such as 10.0.0.1:6379"
            + (", or unset it" if setting == "RAY_ADDRESS" else ", or local")
        )


def gpus_of(actors: int, share: float) -> int:
    """The number of GPUs on which these actors fit, with `share` of a GPU each, or so many GPUs each from 1 on."""
    return -(-actors // actors_on(1, share)) if 0 < share < 1 else actors * int(share)


def actors_on(gpus: int, share: float) -> int:
    """The number of actors that fit on these GPUs; a share below 1 is of one GPU. share: as in `gpus_of`, not 0."""
    return gpus * int(1 / share + 1e-9) if share < 1 else gpus // int(share)


def require_local_gpus(wanted: int) -> None:
    """Raises an `InputError` if this machine has fewer than `wanted` GPUs that PyTorch can use."""
    if not wanted:
        return
    import torch  # takes seconds

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there >= wanted:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    build = "" if torch.version.cuda else "; this build of PyTorch has no CUDA"
    lower = ", lower these numbers" if there else ""
    raise InputError(
        f"this run needs {wanted} GPUs ({GPU_SETTINGS}); this machine has {there}{hidden}{build}: set the devices to 'cpu'"
        f"{lower}, or set ray.address to a cluster with GPUs"
    )


def require_local_cpus(wanted: int) -> None:
    """Raises an `InputError` for many more processes than this machine can run."""
    cores = os.cpu_count() or 1
    if wanted > (most := max(64, 16 * cores)):
        raise InputError(
            f"this run needs {wanted} processes (train.workers, data.readers, ray.evaluators, ray.scorers); this machine "
            f"has {cores} CPUs, on which at most {most} are started: lower them, or set ray.address to a cluster"
        )


def ray_directory() -> str:
    """The directory of a local cluster's files, in RAY_TMPDIR, TMPDIR or /tmp; an `InputError` if it cannot be used."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    parent = os.path.abspath(os.environ[name]) if name else "/tmp"
    where = f"{name} is {os.environ[name]!r}" if name else "TMPDIR is not set, and /tmp is used"
    if len(os.fsencode(parent)) + SOCKETS > SOCKET_PATH:
        raise InputError(
            f"{where}: too long for the sockets of a local Ray cluster; set RAY_TMPDIR or TMPDIR to a directory of at most "
            f"{SOCKET_PATH - SOCKETS} bytes"
        )
    try:
        with tempfile.TemporaryFile(dir=parent) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise InputError(
            f"{where}: a local Ray cluster cannot write there: {error.strerror}; set {name or 'TMPDIR'} to a directory that "
            "exists, can be written and has room"
        ) from None
    return os.path.join(parent, "ray")


def ensure_token() -> None:
    """Gives a local cluster a token, which its clients must send, unless RAY_AUTH_MODE turns this off.

    The token is in ~/.ray/auth_token, which only this user may read; where HOME cannot be written, in the environment of
    this process. Variables that are empty count as unset.
    """
    for name in TOKENS:
        if name in os.environ and not os.environ[name]:
            del os.environ[name]
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(name in os.environ for name in TOKENS[1:]):
        return
    token = secrets.token_hex(32)
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, exist_ok=True)
        _create_private(folder / "auth_token", token)
    except (OSError, RuntimeError):  # no home at all
        os.environ["RAY_AUTH_TOKEN"] = token


def _create_private(path: Path, text: str) -> None:
    """Creates a file that only this user may read; of one that is there, the rights of others are removed."""
    with suppress(FileExistsError):
        handle, name = tempfile.mkstemp(dir=path.parent)  # whole or absent, also for a process that begins at the same time
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
            os.link(name, path)
        finally:
            os.unlink(name)
    status = path.stat()
    if status.st_uid == os.getuid() and status.st_mode & 0o077:  # Ray itself lets others read it
        path.chmod(0o600)
    if not os.access(path, os.R_OK) or not status.st_size:
        raise PermissionError(path)


class ModulePaths(list[str]):
    """The directories of modules that Ray's workers get: that of a checkout of the code, and none that Ray adds.

    Ray adds the driver's working directory in front of all others, where a file such as search.py would hide a package.
    """

    def __init__(self) -> None:
        super().__init__([] if "site-packages" in CODE.parts else [str(CODE)])

    def extend(self, paths: Iterable[str]) -> None:
        """Adds nothing."""
