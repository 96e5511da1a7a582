"""Watches the raylet of a local Ray cluster; once it has died, calls of Ray wait for ever or end the process."""

from __future__ import annotations

import _thread
import atexit
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray._private.worker

from cluster.errors import StepError

LOOK_S = 0.3  # seconds between looks at the raylet
UNWIND_S = 4.0  # seconds for the main thread to end after it was interrupted: a call of Ray may not notice
LOST = (
    "Ray was lost: its raylet, a process on this machine, has died (it was killed, or memory ran out); "
    "the same command continues from the last checkpoint"
)


ENDED = (
    "ended while Ray started: its raylet, a process on this machine, has died, or this process was killed; "
    "the same command continues from the last checkpoint"
)


class RayLost(StepError):
    """The Ray cluster on this machine has died."""


@contextmanager
def ending_reported(on_lost: Callable[[RayLost], None]) -> Iterator[None]:
    """Reports the end of this process meanwhile: code of Ray ends it without a line if the raylet dies while it connects.

    A child process waits for that; on_lost: called there with the error. The exit code is the one that Ray gives, 1.
    """
    _flush()  # or the child writes it too
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child only reads and prints
        child = os.fork()
    if child == 0:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            os.close(writing)
            if not os.read(reading, 1):
                on_lost(RayLost(ENDED))
        finally:
            _exit()
    os.close(reading)
    try:
        yield
    finally:
        os.write(writing, b"x")
        os.close(writing)
        os.waitpid(child, 0)


@contextmanager
def watched(on_lost: Callable[[RayLost], None]) -> Iterator[None]:
    """Raises a `RayLost` in place of whatever follows the death of the local raylet, also where the main thread waits.

    After that Ray is not shut down properly, since its calls would end this process. on_lost: reports the error where the
    main thread cannot be interrupted; then the process ends with exit code 1. Use it in the main thread, after `ray.init`.
    """
    watch = _Watch(_raylet(), on_lost)
    watch.thread.start()
    previous, threading.excepthook = threading.excepthook, watch.on_thread_error
    try:
        yield
    except BaseException as error:
        watch.end()
        # Ray may report the death before the next look at the process
        if not isinstance(error, RayLost) and watch.died():
            raise RayLost(LOST) from None
        raise
    finally:
        watch.end()
        threading.excepthook = previous
        if watch.lost:
            _forget_ray()


def _raylet() -> Any:
    """The raylet's process, with `poll()`."""
    return _node().all_processes["raylet"][0].process


def _node() -> Any:
    """Ray's record of the processes that it started on this machine."""
    return ray._private.worker._global_node


class _Watch:
    """A thread that interrupts the main thread once the raylet has died."""

    def __init__(self, raylet: Any, on_lost: Callable[[RayLost], None]) -> None:
        self.raylet, self.on_lost, self.lost, self.ended = raylet, on_lost, False, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def end(self) -> None:
        """Ends the thread."""
        self.ended.set()

    def died(self) -> bool:
        """Whether the raylet has died; from then on nothing of Ray reaches stderr."""
        if not self.lost and self.raylet.poll() is not None:
            self.lost = True
            _silence_ray()
        return self.lost

    def on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Leaves out what threads of Ray raise once it is lost."""
        if not self.died():
            threading.__excepthook__(error)

    def _run(self) -> None:
        while not self.ended.wait(LOOK_S):
            if self.died():
                _thread.interrupt_main()
                if not self.ended.wait(UNWIND_S):
                    self.on_lost(RayLost(LOST))
                    _forget_ray()
                    _exit()
                return


def _silence_ray() -> None:
    """Keeps the logs of Ray's C++ code and of its Python threads from stderr, which this process's own lines still reach."""
    logging.getLogger("ray").setLevel(logging.CRITICAL + 1)
    try:
        if sys.stderr.fileno() != 2:
            return
    except (OSError, io.UnsupportedOperation, AttributeError):
        return
    sys.stderr.flush()
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = open(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors)  # noqa: SIM115
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def _forget_ray() -> None:
    """Ends the other processes of the lost cluster, and this one at its end, without a call of Ray."""
    atexit.unregister(ray._private.worker.shutdown)
    _node().kill_all_processes(check_alive=False, allow_graceful=False)
    atexit.register(_exit)  # Ray's threads would crash while Python ends


def _exit() -> None:
    _flush()
    os._exit(1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
