"""Progress messages: one live line on a terminal, plain timed lines otherwise, or JSON lines.

With `LOG.format` "json", which `ofa --log-format json` sets, lines on stderr are JSON objects with the keys time (ISO 8601,
UTC), level (info, warning or error), run, step and message, and the numbers of a progress line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.texts import json_text

OBSERVE_S = 1.0  # least seconds between two observations of a tracker's progress
Style = Literal["live", "plain", "json", "log"]
Level = Literal["info", "warning", "error"]


@dataclass
class Log:
    """How lines are written to stderr, and the run and the step that they belong to; "" before there is one."""

    format: Literal["text", "json"] = "text"
    run: str = ""
    step: str = ""

    def line(self, message: str, level: Level = "info", **facts: object) -> str:
        """A line of the log: the message, in the format json an object."""
        if self.format == "text":
            return message
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "run": self.run}
        return json_text({**head, "step": self.step, "message": message, **facts}, default=str)

    def error(self, message: str) -> str:
        """The line of an error that ends a command."""
        return self.line(f"ofa: {message}" if self.format == "text" else message, "error")


LOG = Log()  # of this process


class Reporter:
    """Writes messages and progress: live, plain and log (JSON) to stderr, or in the style json events to stdout.

    every_s: seconds between progress lines, except in the live style.
    """

    def __init__(self, style: Style | None = None, every_s: float = 10.0) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        usual: Style = "log" if LOG.format == "json" else "live" if self.console.is_terminal else "plain"
        self.style: Style = style or usual
        self.every_s = every_s
        self.started = time.monotonic()
        self.tracker: Tracker | None = None  # the last one whose progress changed
        self.observe: Callable[[Tracker], None] | None = None  # gets a tracker whose progress changed, at most once a second

    def say(self, text: str, level: Level = "info", **facts: object) -> None:
        """Writes one line; in the JSON styles with `facts`."""
        if self.style == "json":
            self.event(facts.pop("event", "message"), text=text, **facts)
        elif self.style == "log":
            facts.pop("event", None)
            self._log(text, level, **{name: value for name, value in facts.items() if name not in ("run", "step")})
        else:
            self.console.print(f"{self._clock()}  {text}", markup=False)

    def event(self, event: object, **facts: object) -> None:
        """Writes one JSON line; in the other styles nothing."""
        if self.style == "json":
            sys.stdout.write(json_text({"event": event, **facts}, default=str) + "\n")
            sys.stdout.flush()

    def _log(self, text: str, level: Level = "info", **facts: object) -> None:
        sys.stderr.write(LOG.line(text, level, **facts) + "\n")
        sys.stderr.flush()

    def progress(self) -> dict[str, Any] | None:
        """The progress that changed last: the run's step, title, done, total (0: unknown), unit and note; or None."""
        seen = self.tracker
        if seen is None:
            return None
        return {
            "step": seen.of_step,
            "title": seen.step,
            "done": seen.done,
            "total": seen.total,
            "unit": seen.unit,
            "note": seen.note,
        }

    @contextmanager
    def track(self, step: str, total: int, unit: str, images: int = 0) -> Iterator[Tracker]:
        """Yields a tracker of `total` units of work (0: unknown), which shows the rate, the time left and a note.

        images: that a unit trains on, for observers.
        """
        tracker = Tracker(self, step, total, unit, images)
        if self.style != "live":
            yield tracker
            return
        with Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=tracker.line):
            yield tracker

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"


class Tracker:
    """Progress of one step."""

    def __init__(self, reporter: Reporter, step: str, total: int, unit: str, images: int = 0) -> None:
        self.reporter = reporter
        self.step, self.total, self.unit, self.images = step, total, unit, images
        self.done, self.of_step = 0, ""
        self.note = ""
        self.start = self.shown = time.monotonic()
        self.observed = 0.0
        self.before = 0  # completed by an earlier process: not part of this one's rate

    def resumed(self, done: int) -> None:
        """Sets the number of units that an earlier process completed; the rate is measured from now on."""
        self.done = self.before = done
        self.start = self.shown = time.monotonic()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Adds completed units; `note`, such as the best value so far, replaces the previous one."""
        self.at(self.done + units, note)

    def at(self, done: int, note: str | None = None) -> None:
        """Sets the number of completed units."""
        self.done = done
        self.note = self.note if note is None else note
        self.reporter.tracker, self.of_step = self, LOG.step
        now = time.monotonic()
        if self.reporter.observe is not None and (now - self.observed >= OBSERVE_S or done == self.total):
            self.observed = now
            self.reporter.observe(self)
        if self.reporter.style == "live" or (now - self.shown < self.reporter.every_s and done != self.total):
            return
        self.shown = now
        if self.reporter.style == "json":
            facts = {"step": self.step, "done": done, "total": self.total, "unit": self.unit, "note": self.note}
            self.reporter.event("progress", **facts, per_s=self.per_s, eta_s=self.eta_s)
        elif self.reporter.style == "log":
            numbers: dict[str, Any] = {"done": self.done, "total": self.total, "unit": self.unit, "note": self.note}
            self.reporter.say(str(self.line()), **numbers, per_s=self.per_s, eta_s=self.eta_s)
        else:
            self.reporter.say(str(self.line()))

    @property
    def per_s(self) -> float | None:
        """Units per second in this process; None before the first."""
        elapsed = time.monotonic() - self.start
        return round((self.done - self.before) / elapsed, 3) if self.done > self.before and elapsed > 0 else None

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds left at this rate; None if it or the total is unknown."""
        return round((self.total - self.done) / self.per_s, 1) if self.per_s and self.total else None

    def line(self) -> Text:
        """The step, completed units, rate, time left and note in one line."""
        rate = f"{self.per_s:.3g} {self.unit}/s" if self.per_s else "starting"
        left = "" if self.eta_s is None or self.done >= self.total else f", {self.eta_s:.0f} s left"
        of_all = f"/{self.total}" if self.total else ""  # 0: unknown
        return Text(f"{self.step}: {self.done}{of_all} {self.unit}, {rate}{left}{', ' if self.note else ''}{self.note}")
