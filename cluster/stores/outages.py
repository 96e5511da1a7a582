"""How long a store that does not answer is waited for: repeated requests, with random pauses and one deadline for all."""

from __future__ import annotations

import random
import time

OUTAGE_S = 75.0  # an outage of a minute is survived, with the time that a server needs to start again
LONGEST_S = 5.0  # longest pause
_jitter = random.SystemRandom()  # many workers lose a server at once; they must not all return at once


class Outage:
    """The pauses between repetitions of one request; the time counts from when it was first sent."""

    def __init__(self, seconds: float | None = None) -> None:
        self.began = time.monotonic()
        self.until = self.began + (OUTAGE_S if seconds is None else seconds)
        self.longest = 0.25

    def wait(self) -> bool:
        """Sleeps before the next repetition; False, at once, when the time is over."""
        left = self.until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, _jitter.uniform(self.longest / 4, self.longest)))
        self.longest = min(2 * self.longest, LONGEST_S)
        return True

    @property
    def waited_s(self) -> float:
        """Seconds since the request was first sent."""
        return time.monotonic() - self.began
