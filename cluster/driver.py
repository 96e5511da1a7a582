"""The driver of a run on a cluster: which attempt it is, and its words kept in the store.

Pods and their logs vanish with the cluster. So the driver itself uploads what it says, every some seconds and in the
end, without the values of secrets; and it notes how it ended, which is what `ofa status` has once the cluster is gone.
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

UPLOAD_S = 10.0
MOST = 8 * 2**20  # characters that are kept: of a longer log the end


class Tee(io.TextIOBase):
    """Writes to a stream and keeps a copy, in which values of secrets are stars."""

    def __init__(self, stream: TextIO, kept: Kept) -> None:
        self.stream, self.kept = stream, kept

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def flush(self) -> None:
        self.stream.flush()

    def write(self, text: str) -> int:
        self.kept.add(text)
        return self.stream.write(text)


class Kept:
    """A log in memory that goes to the store."""

    def __init__(self, store: Store, key: str, hidden: list[str]) -> None:
        self.store, self.key, self.hidden = store, key, hidden
        self.text, self.uploaded, self.lock = "", "", threading.Lock()

    def add(self, text: str) -> None:
        with self.lock:
            self.text = (self.text + text)[-MOST:]

    def upload(self) -> None:
        """What came since the last time goes to the store, as one object of everything."""
        with self.lock:
            text = self.text
        for value in self.hidden:
            text = text.replace(value, "***")
        if text != self.uploaded:
            self.store.write(self.key, text.encode())
            self.uploaded = text


@contextmanager
def attempt_at(store_url: str, run_id: str) -> Iterator[int]:
    """The number of this attempt at the run; inside, what is printed also goes to the run's `logs/`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how Ray and KubeRay stop a job
    store = open_store(store_url)
    began = {"began": now(), "host": socket.gethostname(), "submission": os.environ.get("RAY_JOB_SUBMISSION_ID", "")}
    attempt = claim_attempt(store, run_id, **began)
    # this log is the attempt's own: also one that was superseded may say so
    kept = Kept(store, f"{run_id}/{driver_log(attempt)}", list(secrets(os.environ).values()))
    ended = threading.Event()
    uploader = threading.Thread(target=_upload, args=(kept, ended), daemon=True)
    uploader.start()
    code = 1
    try:
        with redirect_stdout(Tee(sys.stdout, kept)), redirect_stderr(Tee(sys.stderr, kept)):
            yield attempt
        code = 0
    except BaseException as error:
        code = 2 if isinstance(error, InputError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        kept.add(f"ofa: {'stopped' if code == 130 else str(error) or type(error).__name__}\n")
        raise
    finally:
        ended.set()
        uploader.join(timeout=30)
        kept.upload()
        record = {"attempt": attempt, **began, "ended": now(), "exit": code}
        store.write(f"{run_id}/{attempt_record(attempt)}", json_lines(record).encode())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _upload(kept: Kept, ended: threading.Event) -> None:
    said = 0.0
    while not ended.wait(UPLOAD_S):
        try:
            kept.upload()
        except (InputError, StepError) as error:  # the store is away; the run itself says so when it needs it
            if time.monotonic() - said > 300:
                said = time.monotonic()
                kept.add(f"ofa: the log could not be uploaded: {error}\n")
