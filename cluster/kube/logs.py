"""The logs of a run's pods: as they are now, or followed until the run has ended.

A run has many pods over time: a Kubernetes Job starts a second and a third submitter, KubeRay recreates a head, and every
retry and every pause uses a new cluster. Each of them is read to its end.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster.errors import InputError, StepError
from cluster.kube.api import Api, NotThere, Refused
from cluster.kube.outages import Outages
from cluster.kube.rayjob import job_name
from cluster.kube.state import GONE, State, state_of
from cluster.kube.troubles import Role, pods

Doc = dict[str, Any]

CONTAINERS = {"submitter": "ray-job-submitter", "head": "ray-head", "worker": "ray-worker"}
LOOK_S = 2.0  # between looks for new pods
IDLE_LOOKS = 5  # without a pod to read, after which this is noted
OVERLAP_S = 10.0  # for which a pod is read alone while a later one of its role exists already
REFUSED_S = 10.0  # for which it is bridged that reading logs is not allowed
MOST_FAILURES = 5  # in a row, to read the log of a pod that has ended
QUIET_S = 10.0  # without a line, after the run has ended: pods that stay (heads, until the cluster is deleted) are left
PREAMBLE = 40  # most lines that a submitter prints before the driver's log
FAREWELL = 100  # most lines that a submitter prints when it loses the driver's log
LOST_CONNECTION = ("RuntimeError: WebSocket", "Traceback (most recent call last)")
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def logs(api: Api, job: Doc, role: Role, *, tail: int = 0) -> Iterator[str]:
    """Yields the log lines of a run's pods of that role; with several pods each line names its pod. Nothing without pods."""
    there = started(pods(api, job, role))
    for pod in there:
        name = pod["metadata"]["name"]
        for line in PodLog(api, pod, role, tail).lines():
            yield line if len(there) == 1 else f"{name}: {line}"


def started(found: list[Doc]) -> list[Doc]:
    """The pods that have a log, in the order of their creation."""
    there = [pod for pod in found if (pod.get("status") or {}).get("phase") not in (None, "", "Pending")]
    return sorted(there, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


@dataclass
class PodLog:
    """The log of one pod, from where it was read last.

    whole: whether it was read to its end. It is not if the pod was deleted before.
    """

    api: Api
    pod: Doc
    role: Role
    tail: int = 0
    whole: bool = False
    since: str = ""  # the last timestamp
    repeated: int = 0  # lines with that timestamp

    def lines(self) -> Iterator[str]:
        """Yields the lines that there are now, or the rest of them after an earlier call; none of a deleted pod."""
        with suppress(NotThere):
            yield from self._read(follow=False)

    def followed(self, stop: threading.Event) -> Iterator[str]:
        """Yields the lines until the pod has ended; a broken connection is resumed where it broke.

        Raises `Refused` if reading logs is not allowed; other failures are those of a server or a node that is away for a
        while, or of a container that has not started.
        """
        pause_s, failures, refused_since = 0.2, 0, 0.0
        while not stop.is_set():
            error: InputError | StepError | None = None
            try:
                for line in self._read(follow=True):
                    pause_s, failures, refused_since = 0.2, 0, 0.0
                    yield line
                if self._ended():  # what came between the end of the response and the end of the pod
                    yield from self._read(follow=False)
                    self.whole = True
                    return
            except NotThere:
                return
            except (InputError, StepError) as caught:
                error, failures = caught, failures + 1
            if isinstance(error, Refused):
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > REFUSED_S:
                    raise error
            stop.wait(pause_s)
            pause_s = min(5.0, pause_s * 2)
            try:
                ended = self._ended()
            except (InputError, StepError):
                failures = 0  # of the server, not of this log
                continue
            if ended is None or (ended and failures > MOST_FAILURES):
                return

    def _read(self, *, follow: bool) -> Iterator[str]:
        part = {"sinceTime": self.since} if self.since else {"tailLines": str(self.tail)} if self.tail else {}
        path = self.api.path("Pod", self.pod["metadata"]["name"], "log")
        skip, since = self.repeated, self.since
        query = {**part, "container": CONTAINERS[self.role], "timestamps": "true", "follow": str(follow).lower()}
        for line in self.api.lines(path, query):
            stamp, _, text = line.decode(errors="replace").partition(" ")
            if not STAMP.fullmatch(stamp):  # a remark of the kubelet
                yield line.decode(errors="replace")
                continue
            if since and instant(stamp) < instant(since):  # sinceTime counts in whole seconds
                continue
            if stamp == since and skip:
                skip -= 1
                continue
            self.repeated, self.since = (self.repeated + 1 if stamp == self.since else 1), stamp
            yield text

    def _ended(self) -> bool | None:
        """Whether the pod has ended; None if it was deleted, perhaps in favour of another one with its name."""
        there = self.api.find("Pod", self.pod["metadata"]["name"])
        if there is None or there["metadata"].get("uid") != self.pod["metadata"].get("uid"):
            return None
        return (there.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def instant(stamp: str) -> tuple[str, str]:
    """A timestamp of a log in a form that sorts by time."""
    found = STAMP.fullmatch(stamp)
    assert found is not None
    return found[1], (found[2] or "").ljust(9, "0")


class Replay:
    """Drops what a submitter repeats of the log that the one before it has shown.

    A second submitter of the same Ray job prints the driver's log from its beginning. Its lines are held back as long as
    they equal those shown before; they are dropped where all of those have been repeated, and are new lines otherwise.
    """

    def __init__(self, before: Sequence[str]) -> None:
        self.before = before
        self.held: list[str] = []
        self.start: int | None = None  # the line of `before` from which lines are equal
        self.over = not before

    def feed(self, line: str) -> list[str]:
        """The lines to show, now that `line` has come."""
        if self.over:
            return [line]
        shown: list[str] = []
        if self.start is not None and self.before[self.start + len(self.held)] != line:
            shown = self.end()
            if not shown:  # all was repeated
                return [line]
            self.over, self.start = False, None
        if self.start is None:
            starts = range(min(len(self.before), PREAMBLE))
            self.start = next((place for place in starts if self.before[place] == line), None)
        if self.start is None:
            return [*shown, line]
        self.held.append(line)
        if self.start + len(self.held) == len(self.before):
            self.held, self.over = [], True
        return shown

    def end(self) -> list[str]:
        """The lines to show where the log ends or stops to repeat; none if only the submitter's own end is left."""
        left = self.before[(self.start or 0) + len(self.held) :]
        repeated = self.held and len(left) <= FAREWELL and any(text.startswith(LOST_CONNECTION) for text in left)
        shown, self.held, self.over = ([] if repeated else self.held), [], True
        return shown


def rest_of(log: Sequence[str], shown: Sequence[str]) -> list[str]:
    """The lines of a log after those that were shown: after its last line that ends the longest part of `shown`."""
    for end in range(len(shown), max(0, len(shown) - 200), -1):
        lengths = {}
        for place in (place for place, line in enumerate(log) if line == shown[end - 1]):
            length = 1
            while length <= min(place, end - 1) and log[place - length] == shown[end - 1 - length]:
                length += 1
            lengths[place] = length
        if lengths:
            return list(log[max(lengths, key=lambda place: (lengths[place], place)) + 1 :])
    return list(log)


@dataclass
class _Reader:
    """A pod that is being read in a thread of its own, or waits to be."""

    log: PodLog
    driver: str
    seen_at: float
    read: bool = False
    ended: bool = False
    shown: list[str] = field(default_factory=list)  # all lines of it, with those that it repeated
    replay: Replay = field(default_factory=lambda: Replay(()))


class Following:
    """Follows the log of a run's pods of one role until the run has ended.

    note: called with a line about the run, such as its state while there is nothing to read.

    After `lines`, `job` is the latest RayJob that was seen (None if there never was one), `state` the run's state, `whole`
    whether the last pod's log was read to its end, and `shown` the lines of that pod.
    """

    look_s = LOOK_S

    def __init__(self, api: Api, run: str, role: Role, *, tail: int, outages: Outages, note: Callable[[str], None]) -> None:
        self.api, self.name, self.role, self.tail = api, job_name(run), role, tail
        self.outages, self.note = outages, note
        self.news: queue.Queue[Any] = queue.Queue()
        self.stop = threading.Event()
        self.readers: dict[str, _Reader] = {}  # by the pod's uid
        self.job: Doc | None = None
        self.state: State = GONE
        self.ended_at: float | None = None
        self.line_at = time.monotonic()
        self.noted = ""
        self.looks = self.idle = 0  # how often it looked for pods, and how often in a row there was nothing to read

    @property
    def whole(self) -> bool:
        """Whether the last pod's log was read to its end."""
        last = next(reversed(self.readers.values()), None)
        return last is not None and last.log.whole

    @property
    def shown(self) -> list[str]:
        """The lines of the last pod that had any."""
        return next((reader.shown for reader in reversed(self.readers.values()) if reader.shown), [])

    def lines(self) -> Iterator[str]:
        """Yields the lines; raises `NotThere` if there is no such run, and `Lost` where the outages end it."""
        self._start(self._look)
        try:
            while True:
                news = self.news.get()
                if isinstance(news, Exception):
                    raise news
                if isinstance(news, list):
                    if self._looked(*news):
                        return
                    continue
                reader, line = news
                self.line_at = time.monotonic()
                if line is None:
                    reader.ended = True
                    shown = reader.replay.end()
                    self._next()
                else:
                    reader.shown.append(line)
                    shown = reader.replay.feed(line)
                several = self.role == "worker" and len(self.readers) > 1
                name = reader.log.pod["metadata"]["name"]
                yield from (f"{name}: {text}" if several else text for text in shown)
        finally:
            self.stop.set()
            self.outages.close()

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:  # raised again in `lines`
                self.news.put(error)

        threading.Thread(target=run, daemon=True).start()

    def _look(self) -> None:
        """Looks for the run's state and its pods, until stopped."""
        while not self.stop.is_set():
            try:
                job = self.api.find("RayJob", self.name)
                found = [] if job is None else started(pods(self.api, job, self.role))
                new = any(uid(pod) not in self.readers for pod in found)
                driver = self._driver(job) if job is not None and new else ""
                self.outages.answered()
                self.news.put([job, found, driver])
                self.stop.wait(self.look_s)
            except (InputError, StepError) as error:
                self.outages.failed(error)

    def _driver(self, job: Doc) -> str:
        """What tells the driver from another one, whose log begins anew: its Ray job, and the head that it runs on."""
        heads = pods(self.api, job, "head") if self.role == "submitter" else []
        alive = [head for head in heads if (head.get("status") or {}).get("phase") == "Running"]
        there = sorted(uid(head) for head in alive if "deletionTimestamp" not in head["metadata"])
        return " ".join([(job.get("status") or {}).get("jobId", ""), *there]) if there else ""

    def _looked(self, job: Doc | None, found: list[Doc], driver: str) -> bool:
        """Starts to read new pods; whether all is read."""
        if job is None and self.job is None:
            raise NotThere(f"namespace {self.api.namespace}: no run {self.name!r}")
        self.job = job or self.job
        self.state = GONE if job is None else state_of(job)
        now, first = time.monotonic(), not self.looks
        self.looks += 1
        new = [pod for pod in found if uid(pod) not in self.readers]
        if first and self.tail and self.role != "worker":
            new = new[-1:]
        for pod in new:
            log = PodLog(self.api, pod, self.role, self.tail if first else 0)
            self.readers[uid(pod)] = _Reader(log, driver, now)
        self._next()
        if not self.state.ended:
            self.ended_at = None
            self.idle = self.idle + 1 if all(reader.ended for reader in self.readers.values()) else 0
            if self.idle > IDLE_LOOKS or (self.idle and not self.readers):
                self._say(f"{self.name} is {self.state}; there is no {self.role} with a log to follow at the moment")
            return False
        if self.ended_at is None:
            self.ended_at = now
        left = [reader for reader in self.readers.values() if not reader.ended]
        return not left or now - max(self.ended_at, self.line_at) > QUIET_S

    def _next(self) -> None:
        """Starts to read the pods whose turn it is: workers at once, others one after another."""
        now = time.monotonic()
        before: _Reader | None = None
        for reader in self.readers.values():
            turn = self.role == "worker" or before is None or before.ended or now - reader.seen_at > OVERLAP_S
            if not reader.read and turn:
                reader.read, self.noted = True, ""
                if before is not None and before.driver == reader.driver != "":
                    reader.replay = Replay(tuple(before.shown))
                self._start(partial(self._read, reader))
            before = reader

    def _read(self, reader: _Reader) -> None:
        for line in reader.log.followed(self.stop):
            self.news.put((reader, line))
        self.news.put((reader, None))

    def _say(self, text: str) -> None:
        if text != self.noted:
            self.noted = text
            self.note(text)


def uid(pod: Doc) -> str:
    """What tells a pod from a later one with its name."""
    return str(pod["metadata"].get("uid") or pod["metadata"]["name"])
