"""The connection of a command that follows a run: an outage of the API server is bridged, reported once, and limited.

A run goes on without the API server: Ray, the driver and the store do not use it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import InputError, StepError
from cluster.kube.api import Lost

GIVE_UP_S = 1800.0  # without an answer, where the command has no timeout
REFUSED_S = 60.0  # for which 401, 403 and the like are bridged, after the server had answered
REPORTED_S = 1.0  # shorter outages are not reported
SILENT_S = (
    45.0  # without an answer, where one is expected every few seconds: the server is away, though no request has failed
)
LONGEST_PAUSE_S = 5.0  # between two requests


@dataclass(frozen=True, slots=True)
class Outage:
    """The beginning of an outage that has been noticed, or its end.

    seconds: the time since the last answer.
    """

    lost: bool
    seconds: float
    message: str


class Outages:
    """Receives the failures and answers of one command's requests, from any of its threads.

    report: called at the beginning of an outage and at its end. give_up_s: seconds without an answer after which `failed`
    raises; None for a command that has a timeout of its own.
    """

    def __init__(self, report: Callable[[Outage], None] | None = None, give_up_s: float | None = GIVE_UP_S) -> None:
        self.report, self.give_up_s = report, give_up_s
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.answered_at, self.ever = time.monotonic(), False
        self.since: float | None = None  # of the first failure after the last answer
        self.refused_since: float | None = None
        self.reported = False
        self.failures = 0
        self.error: InputError | StepError | None = None

    def close(self) -> None:
        """Ends all pauses."""
        self.closed.set()

    def answered(self) -> None:
        """The server answered."""
        with self.lock:
            outage = Outage(False, self.silent_s, f"the API server answers again, after {self.silent_s:.0f} s")
            was_reported, self.reported = self.reported, False
            self.since = self.refused_since = self.error = None
            self.answered_at, self.ever, self.failures = time.monotonic(), True, 0
            if was_reported and self.report is not None:
                self.report(outage)

    def failed(self, error: InputError | StepError) -> None:
        """A request failed: waits before the next one. Raises the error if it cannot pass, or `Lost` at the limit."""
        if self.closed.is_set():
            raise Lost(str(error))
        with self.lock:
            now, known = time.monotonic(), self.ever or self.since is not None
            if isinstance(error, Lost):
                self.refused_since = None
            elif not known:
                raise error
            else:
                self.refused_since = self.refused_since or now
                if now - self.refused_since > REFUSED_S:
                    raise Lost(f"{error} (for {now - self.refused_since:.0f} s); the run may be healthy")
            self.since, self.error = self.since or now, error
            self.failures += 1
            if now - self.since >= REPORTED_S and not self.reported:
                self.reported = True
                if self.report is not None:
                    self.report(Outage(True, self.silent_s, f"{error}; {self._outlook()}"))
            if self.give_up_s is not None and now - self.since > self.give_up_s:
                raise self.lost()
            pause_s = min(LONGEST_PAUSE_S, 0.2 * 2 ** min(self.failures - 1, 10))
        self.closed.wait(pause_s)

    @property
    def silent_s(self) -> float:
        """The seconds since the last answer, or since the first request."""
        return time.monotonic() - self.answered_at

    @property
    def failing(self) -> bool:
        """Whether a request has failed since the last answer."""
        return self.since is not None

    @property
    def away(self) -> bool:
        """Whether the server does not answer now, or has never answered."""
        return self.reported or not self.ever or self.silent_s > SILENT_S

    def lost(self) -> Lost:
        """The error of a command that ends during an outage."""
        if not self.ever:
            what = self.error or "the API server does not answer"
            return Lost(f"{what}; no answer for {self.silent_s:.0f} s; the run may be healthy")
        what = self.error or "the API server does not answer"
        return Lost(f"{what}; last answer {self.silent_s:.0f} s ago; the run may be healthy")

    def _outlook(self) -> str:
        limit = "until the timeout" if self.give_up_s is None else f"for up to {self.give_up_s / 60:.0f} min"
        return f"the run may be healthy; trying again {limit}"
