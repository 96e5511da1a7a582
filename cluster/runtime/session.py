"""Connects to Ray: starts a cluster on this machine, or joins an existing one."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import ray
import ray._private.worker
from ray._private import ray_constants
from ray.job_config import JobConfig
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.errors import InputError, StepError
from cluster.runtime.machine import (
    GPU_SETTINGS,
    ModulePaths,
    check_address,
    ensure_token,
    ray_directory,
    require_local_cpus,
    require_local_gpus,
)
from cluster.runtime.watch import RayLost, ending_reported, watched

LOCAL = "local"
RAY_SETTINGS = {  # environment variables of Ray that are set unless the user sets them; empty counts as unset
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the default, 2, makes a short training twice as long
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise workers' lines are printed twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that tells workers of their node's end; ours do not ask it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default of later versions; unset, Ray warns
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine a process starts in 5 to 20 s
}


@contextmanager
def session(
    address: str, cpus: int, shared_bytes: int, *, gpus: int = 0, grows: bool = False, wait_s: float | None = None,
    on_lost: Callable[[RayLost], None] = lambda error: print(error, file=sys.stderr),
) -> Iterator[None]:  # fmt: skip
    """Connects to Ray at `address`, and disconnects at the end; an `InputError` if it cannot, or has fewer than `cpus` CPUs.

    shared_bytes: size of the arrays that go into the object store; a cluster started here has room for them.
    gpus: the same for GPUs. grows: an autoscaler adds nodes, so fewer CPUs are accepted now, and GPUs are waited for: at
    most `wait_s` seconds (None: without a limit), after which there is a `StepError`.

    A cluster that is started here and dies is a `RayLost`; on_lost: see `watched`.

    `local` starts a cluster that ends with this process, listens on the loopback interface alone, and wants a token from
    its clients (`ensure_token`); any other address is joined (`auto`, host:port). RAY_ADDRESS,
    which `ray job submit` sets, overrides `local`; empty, it counts as unset, as in Ray itself.
    """
    setting = "ray.address"
    if address == LOCAL and os.environ.get("RAY_ADDRESS"):
        address, setting = os.environ["RAY_ADDRESS"], "RAY_ADDRESS"
    for name, value in RAY_SETTINGS.items():
        os.environ[name] = os.environ.get(name) or value
    check_address(setting, address)
    config = JobConfig()
    config._py_driver_sys_path = ModulePaths()
    init = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR, job_config=config)
    if address == LOCAL:
        require_local_cpus(cpus)
        require_local_gpus(gpus)
        directory = ray_directory()
        ensure_token()
    try:
        if address == LOCAL:
            # as many CPUs as required even on a smaller machine, where everything then runs slower
            count = max(cpus, os.cpu_count() or 1)
            room = 512 * 2**20 + 2 * shared_bytes  # training and evaluators store one copy each
            with ending_reported(on_lost), _on_loopback():
                init(address=LOCAL, num_cpus=count, include_dashboard=False, object_store_memory=room,
                     _temp_dir=directory)  # fmt: skip
        else:
            _check_reachable(address)
            init(address=address)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "start that cluster, or use 'local'"
        if isinstance(error, ConnectionError) and address == LOCAL:  # a process of the cluster has died
            raise RayLost(_not_started(reason)) from None
        if setting == "RAY_ADDRESS":
            advice = "start that cluster, or unset RAY_ADDRESS"
        elif address == LOCAL:
            advice = f"check that HOME and {directory} can be written and have room"
        raise InputError(f"{setting} is {address!r}: cannot connect: {reason}; {advice}") from None
    except Exception as error:  # Ray raises it where a process of the cluster does not start in time
        if type(error) is not Exception:
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise RayLost(_not_started(reason)) from None
    ray._private.worker._worker_logs_enabled = False  # Ray prints its own errors to stdout, which is for results
    if threading.current_thread() is threading.main_thread():
        # Ray's handler prints a stack trace; this one ends the process like Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < cpus and not grows:
            raise InputError(f"{setting} is {address!r}: the cluster has {there} CPUs, this run needs {cpus}; lower "
                             "train.workers and ray.evaluators, or add nodes")  # fmt: skip
        _require_gpus(f"{setting} is {address!r}", gpus, grows, wait_s)
        if address == LOCAL and threading.current_thread() is threading.main_thread():
            with watched(on_lost):
                yield
        else:
            yield
    except RayLost:
        raise
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets a cluster that is started here use 127.0.0.1, as Ray does by itself on macOS; gloo in its workers does too."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME") or "lo"
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _not_started(reason: str) -> str:
    return f"Ray did not start: {reason}; run the same command again, which continues from here"


def _require_gpus(where: str, gpus: int, grows: bool, wait_s: float | None) -> None:
    """Raises an `InputError`, which begins with `where`, for fewer GPUs; those of an autoscaler are waited for."""
    there = int(ray.cluster_resources().get("GPU", 0))
    if there >= gpus:
        return
    found = f"{where}: the cluster has {there} GPUs, this run needs {gpus} ({GPU_SETTINGS})"
    if not grows:
        raise InputError(f"{found}; lower them, set the devices to 'cpu', or add nodes with GPUs")
    group = placement_group([{"GPU": 1.0}] * gpus)
    try:
        if not group.wait(wait_s or 10**9):
            raise StepError(
                f"{found}; none were added in {wait_s:g} s: check the groups of the cluster (kube.train.gpus, "
                "kube.search.gpus), or set the devices to 'cpu'"
            )
    finally:
        remove_placement_group(group)


def _check_reachable(address: str) -> None:
    """Raises an OSError if no process listens at host:port; Ray itself retries for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
