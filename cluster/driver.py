"""The driver of a run on a cluster: claims the number of its attempt, keeps its deadline, and uploads its log to the store.

Pods and their logs are deleted with the cluster. So the driver itself uploads its output every `UPLOAD_S` seconds and at the
end, without the values of secrets, and records its exit code, which `ofa status` shows once the cluster is gone.
"""

from __future__ import annotations

import io
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from typing import Any, TextIO

from cluster.attempts import Lease, driver_log, exit_code, first_start
from cluster.errors import InputError, StepError
from cluster.kube.rayjob import job_name, secrets
from cluster.kube.state import DEADLINE
from cluster.progress import LOG
from cluster.store import Store, open_store

UPLOAD_S = 10.0  # seconds between uploads
LOG_CHARACTERS = 8 * 2**20  # largest size; of a longer log the end is kept


class Tee(io.TextIOBase):
    """A text stream that writes to another one and to an uploaded log."""

    def __init__(self, stream: TextIO, log: UploadedLog) -> None:
        self.stream, self.log = stream, log

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self.stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The file descriptor of the stream."""
        return self.stream.fileno()

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()

    def write(self, text: str) -> int:
        """Writes to the stream and the log; returns the number of characters."""
        self.log.add(text)
        return self.stream.write(text)


class UploadedLog:
    """A log in memory that is uploaded as one object; values of secrets are replaced by stars.

    key: the key of that object. hidden: the values of secrets.
    """

    def __init__(self, store: Store, key: str, hidden: list[str]) -> None:
        self.store, self.key, self.hidden = store, key, hidden
        self.text, self.uploaded, self.lock = "", "", threading.Lock()

    def add(self, text: str) -> None:
        """Appends text; any thread may call it."""
        with self.lock:
            self.text = (self.text + text)[-LOG_CHARACTERS:]

    def upload(self) -> None:
        """Writes the whole log to the store, if it has changed since the last upload."""
        with self.lock:
            text = self.text
        for value in self.hidden:
            text = text.replace(value, "***")
        if text != self.uploaded:
            self.store.write(self.key, text.encode())
            self.uploaded = text


class DeadlinePassed(StepError):
    """The run has had all the time that it may take, over all its clusters."""


class Deadline:
    """The end of a run's time, counted from the start of its first attempt; at it the main thread gets SIGTERM.

    seconds: that it may take; 0 is no limit. last: the key of the object that a run has only when it has finished, which may
    then take any time to find that nothing is left to do.
    """

    def __init__(self, store: Store, run_id: str, seconds: int, last: str) -> None:
        self.passed, self.timer = threading.Event(), None
        finished = f"{run_id}/{last}"
        if not seconds or (last and finished in store.keys(finished)):
            return
        began = first_start(store, run_id) or datetime.now(UTC)
        left = seconds - (datetime.now(UTC) - began).total_seconds()
        name, since = job_name(run_id), began.isoformat(timespec="seconds")
        self.message = (
            f"{DEADLINE}: the run may take {seconds} s and was first started at {since}; what it has finished is in "
            f"{store.url}/{run_id}; to continue, `ofa cancel {name} --now`, then submit it with a larger kube.deadline_s"
        )
        if left <= 0:
            self.passed.set()
        else:
            self.timer = threading.Timer(left, self._end)
            self.timer.daemon = True
            self.timer.start()

    def _end(self) -> None:
        self.passed.set()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # to that thread, whose system calls it interrupts

    def cancel(self) -> None:
        """Nothing happens at the deadline any more."""
        if self.timer is not None:
            self.timer.cancel()


@contextmanager
def attempt_at(
    store_url: str,
    run_id: str,
    *,
    deadline_s: int = 0,
    last: str = "",
    progress: Callable[[], dict[str, Any] | None] = lambda: None,
) -> Iterator[int]:
    """Claims and yields the number of this attempt at the run; inside, output is also uploaded to the run's `logs/`.

    progress: see `Lease`. deadline_s, last: see `Deadline`; at the deadline the body is interrupted as by SIGTERM, and
    `DeadlinePassed` is raised.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how Ray and KubeRay stop a job
    store = open_store(store_url)
    facts = {"host": platform.node(), "submission": os.environ.get("RAY_JOB_SUBMISSION_ID", "")}
    lease = Lease(store, run_id, dict(facts), progress=progress)
    attempt = lease.take()
    # the log belongs to this attempt, so it is written even if a later attempt has begun
    log = UploadedLog(store, f"{run_id}/{driver_log(attempt)}", list(secrets(os.environ).values()))
    ended = threading.Event()
    uploader = threading.Thread(target=_upload, args=(log, ended), daemon=True)
    uploader.start()
    deadline = Deadline(store, run_id, deadline_s, last)
    code, why = 1, {}
    try:
        try:
            if deadline.passed.is_set():
                raise DeadlinePassed(deadline.message)
            with redirect_stdout(Tee(sys.stdout, log)), redirect_stderr(Tee(sys.stderr, log)):
                yield attempt
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
                raise
            if deadline.passed.is_set():
                raise DeadlinePassed(deadline.message) from None
            raise KeyboardInterrupt from None  # Ray has a handler while it connects that exits with SIGTERM
        finally:
            deadline.cancel()
        code = 0
    except BaseException as error:
        code = exit_code(error)
        why = {"reason": "DeadlineExceeded", "message": str(error)} if isinstance(error, DeadlinePassed) else {}
        log.add(LOG.error("stopped" if code == 130 else str(error) or type(error).__name__) + "\n")
        raise
    finally:
        ended.set()
        uploader.join(timeout=30)
        log.upload()
        lease.end(code, **why)


def _upload(log: UploadedLog, ended: threading.Event) -> None:
    reported = 0.0
    while not ended.wait(UPLOAD_S):
        try:
            log.upload()
        except (InputError, StepError) as error:  # the run itself fails when it needs the store
            if time.monotonic() - reported > 300:
                reported = time.monotonic()
                log.add(LOG.error(f"the log could not be uploaded: {error}") + "\n")
