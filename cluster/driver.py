"""The driver of a run on a cluster: claims the number of its attempt, and uploads its log to the store.

Pods and their logs are deleted with the cluster. So the driver itself uploads its output every `UPLOAD_S` seconds and at the
end, without the values of secrets, and records its exit code, which `ofa status` shows once the cluster is gone.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from typing import TextIO

from cluster.attempts import attempt_record, claim_attempt, driver_log
from cluster.errors import InputError, StepError
from cluster.kube.rayjob import secrets
from cluster.store import Store, open_store
from cluster.texts import json_lines

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


@contextmanager
def attempt_at(store_url: str, run_id: str) -> Iterator[int]:
    """Claims and yields the number of this attempt at the run; inside, output is also uploaded to the run's `logs/`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how Ray and KubeRay stop a job
    store = open_store(store_url)
    began = {"began": now(), "host": socket.gethostname(), "submission": os.environ.get("RAY_JOB_SUBMISSION_ID", "")}
    attempt = claim_attempt(store, run_id, **began)
    # the log belongs to this attempt, so it is written even if a later attempt has begun
    log = UploadedLog(store, f"{run_id}/{driver_log(attempt)}", list(secrets(os.environ).values()))
    ended = threading.Event()
    uploader = threading.Thread(target=_upload, args=(log, ended), daemon=True)
    uploader.start()
    code = 1
    try:
        with redirect_stdout(Tee(sys.stdout, log)), redirect_stderr(Tee(sys.stderr, log)):
            yield attempt
        code = 0
    except BaseException as error:
        code = 2 if isinstance(error, InputError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        log.add(f"ofa: {'stopped' if code == 130 else str(error) or type(error).__name__}\n")
        raise
    finally:
        ended.set()
        uploader.join(timeout=30)
        log.upload()
        record = {"attempt": attempt, **began, "ended": now(), "exit": code}
        store.write(f"{run_id}/{attempt_record(attempt)}", json_lines(record).encode())


def now() -> str:
    """The time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _upload(log: UploadedLog, ended: threading.Event) -> None:
    reported = 0.0
    while not ended.wait(UPLOAD_S):
        try:
            log.upload()
        except (InputError, StepError) as error:  # the run itself fails when it needs the store
            if time.monotonic() - reported > 300:
                reported = time.monotonic()
                log.add(f"ofa: the log could not be uploaded: {error}\n")
