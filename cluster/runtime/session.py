"""A Ray cluster to work on: one of our own on this machine, or one that we are told to join."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import ray

from cluster.errors import InputError

LOCAL = "local"


@contextmanager
def session(address: str, cpus: int, shared_bytes: int, *, grows: bool = False) -> Iterator[None]:
    """Connects to Ray at `address`, where `cpus` must be there, and leaves it in the end.

    shared_bytes: of arrays that go into the object store; one that is started here has room for them.
    grows: what is not there now, an autoscaler will bring.

    `local` starts a cluster that lives and dies with this process; anything else is joined as it is (`auto`,
    host:port). RAY_ADDRESS, which `ray job submit` sets, overrides `local`.
    """
    if address == LOCAL:
        address = os.environ.get("RAY_ADDRESS", LOCAL)
    # A controller that looks every half second instead of every two makes a short training twice as fast.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise workers' lines come twice
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of later versions; unset, Ray warns
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # on a busy machine a process starts in 5 to 20 s
    init = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if address == LOCAL:
            # As many CPUs as asked for even on a smaller machine: everything then runs, only slower.
            count = max(cpus, os.cpu_count() or 1)
            room = 512 * 2**20 + 2 * shared_bytes  # training and evaluators each put them there
            init(address=LOCAL, num_cpus=count, include_dashboard=False, object_store_memory=room)
        else:
            _knock(address)
            init(address=address)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"ray.address is {address!r}: cannot connect: {reason}; start that cluster, or use 'local'"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own prints a stack; ours ends as Ctrl-C does
    try:
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < cpus and not grows:
            raise InputError(f"ray.address is {address!r}: the cluster has {there} CPUs, this run needs {cpus}; lower "
                             "train.workers and ray.evaluators, or add nodes")  # fmt: skip
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """OSError if nobody listens at host:port, at once; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
