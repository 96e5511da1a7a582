"""Runs on a cluster with KubeRay: submit, follow, scale, stop, and report what keeps them from running.

A run is one RayJob, named by its run id. KubeRay creates its RayCluster, a new one for every retry and after every pause; so
no function here keeps a cluster's name, and everything that must last is in the run's store.
"""

from __future__ import annotations

import copy
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.errors import InputError, StepError
from cluster.kube import lint
from cluster.kube.api import Api, Conflict, Lost, NotThere
from cluster.kube.outages import GIVE_UP_S, Outages
from cluster.kube.rayjob import PART_OF, RESULTS, SPEC_HASH, SUBMISSION, Rendered, job_name
from cluster.kube.state import GONE, QUEUE, State, state_of
from cluster.kube.troubles import troubles

Doc = dict[str, Any]

LOOK_S = 5.0  # between looks at pods and events
MOST_PODS = 2**31 - 1  # of a group
FIRST_S = 10.0  # for which a first answer is waited for, even if the timeout is shorter
NUMBER = re.compile(r"\d+")  # counts and times in troubles, whose change alone is no change of the run
UNSETTLED = ("Pending", "Starting", "Running", "Retrying", "Queued")  # states in which pods may be in trouble


def find(api: Api, run: str) -> Doc:
    """The RayJob of a run, by its run id or the RayJob's own name."""
    job = api.find("RayJob", job_name(run))
    if job is None:
        there = [j["metadata"]["name"] for j in jobs(api)]
        what = f"there are: {', '.join(there[:20])}" if there else "there is none at all"
        raise NotThere(f"namespace {api.namespace}: no run {run!r}; {what}. `ofa results show` has what it left")
    return job


def jobs(api: Api) -> list[Doc]:
    """All RayJobs that `ofa submit` created."""
    return api.list("RayJob", labels=",".join(f"{key}={value}" for key, value in PART_OF.items()))


# Submitting


def submit(api: Api, rendered: Rendered) -> Literal["created", "unchanged"]:
    """Lints, runs the server's dry run, then creates the RayJob and its ConfigMap; the same run again changes nothing."""
    lint.check(rendered.job)
    there = api.find("RayJob", rendered.name)
    if there is None:
        if api.find("ConfigMap", f"{rendered.name}-config") is None:  # else of a RayJob that was deleted a moment ago
            api.create(rendered.config, dry_run=True)
        api.create(rendered.job, dry_run=True)
        try:
            there = api.create(rendered.job)
        except Conflict:  # another client created it first
            there = api.get("RayJob", rendered.name)
        else:
            _create_config(api, rendered, there)
            return "created"
    mine, other = (job["metadata"].get("annotations", {}).get(SPEC_HASH) for job in (rendered.job, there))
    if "deletionTimestamp" in there["metadata"]:
        raise Conflict(f"{rendered.name} is there and being deleted; submit again in a moment")
    if mine != other:
        raise Conflict(
            f"{rendered.name} is there already, with other settings of [kube] ({state_of(there)}); "
            f"`ofa cancel {rendered.name} --now` deletes it and keeps its results, then submit again"
        )
    _create_config(api, rendered, there)
    return "unchanged"


def _create_config(api: Api, rendered: Rendered, job: Doc) -> None:
    """Creates the ConfigMap of the settings, owned by the RayJob and deleted with it; pods wait for it."""
    config = copy.deepcopy(rendered.config)
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": rendered.name, "uid": job["metadata"]["uid"]}
    config["metadata"]["ownerReferences"] = [owner]
    there = api.find("ConfigMap", config["metadata"]["name"])
    if there is not None and _uid(there) != owner["uid"]:  # of a RayJob that was deleted a moment ago
        api.delete("ConfigMap", config["metadata"]["name"])
        there = None
    if there is None:
        api.create(config)


def _uid(doc: Doc) -> str:
    return next((owner["uid"] for owner in doc["metadata"].get("ownerReferences", [])), "")


# Following


@dataclass(frozen=True, slots=True)
class Seen:
    """An observation of a run: its state, the RayJob (None once it is deleted), and what keeps it from running."""

    state: State
    job: Doc | None
    troubles: tuple[str, ...] = ()


def follow(
    api: Api, name: str, *, look_s: float = LOOK_S, timeout_s: float | None = None, outages: Outages | None = None
) -> Iterator[Seen]:
    """Yields an observation for every change of the run until it has ended or the timeout is reached.

    A change of numbers in its troubles alone is none. Goes on while the API server does not answer; raises `Lost` where it
    gives up, or at a timeout during an outage.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    follower = _Follower(api, name, look_s, outages or Outages(give_up_s=None if timeout_s is not None else GIVE_UP_S))
    try:
        yield from follower.seen(deadline)
    finally:
        follower.close()


@dataclass(frozen=True, slots=True)
class _Change:
    """A version of the RayJob."""

    job: Doc | None


@dataclass(frozen=True, slots=True)
class _Look:
    """What kept pods from running, when the run was in that state."""

    state: str
    troubles: tuple[str, ...]


class _Follower:
    """Watches a RayJob in one thread, and its pods and events in another, since either may wait for an answer."""

    def __init__(self, api: Api, name: str, look_s: float, outages: Outages) -> None:
        self.api, self.name, self.look_s, self.outages = api, name, look_s, outages
        self.news: queue.Queue[_Change | _Look | Exception] = queue.Queue()
        self.stop, self.look_now = threading.Event(), threading.Event()
        self.job: Doc | None = None  # the latest that was seen, for looks at its pods
        for work in (self._watch, self._look):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def close(self) -> None:
        self.stop.set()
        self.look_now.set()
        self.outages.close()

    def seen(self, deadline: float | None) -> Iterator[Seen]:
        job: Doc | None = None
        state, last = GONE, None
        troubled: tuple[str, ...] = ()
        begun = time.monotonic()
        while True:
            try:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                news = self.news.get(timeout=left_s)
            except queue.Empty:
                if last is None and not self.outages.failing and time.monotonic() < begun + FIRST_S:
                    deadline = time.monotonic() + 0.2
                    continue
                if last is None or self.outages.away:
                    raise self.outages.lost() from None
                return
            if isinstance(news, Exception):
                raise news
            if isinstance(news, _Look):
                if news.state != state.name:  # of a state that has changed meanwhile
                    continue
                troubled = news.troubles
            else:
                job, before = news.job, state
                state = GONE if job is None else state_of(job)
                if before.name != state.name:  # its pods have not been looked at yet
                    troubled = ()
            if (now := (state, tuple(NUMBER.sub("0", trouble) for trouble in troubled))) != last:
                last = now
                yield Seen(state, job, troubled)
            if state.ended:
                return

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised again where the run is followed
            self.news.put(error)

    def _watch(self) -> None:
        for job in self.api.watch("RayJob", self.name, self.outages):
            self.job = job
            self.news.put(_Change(job))
            self.look_now.set()
            if self.stop.is_set() or job is None or state_of(job).ended:
                return

    def _look(self) -> None:
        """Looks at pods and events after every change, and every `look_s` seconds."""
        while not self.stop.is_set():
            self.look_now.wait(self.look_s)
            self.look_now.clear()
            job = self.job
            if job is None or self.stop.is_set():
                continue
            try:
                if state_of(job).name not in UNSETTLED:
                    self.api.find("RayJob", self.name)  # only whether the server answers
                    found: tuple[str, ...] = ()
                else:
                    found = tuple(troubles(self.api, job))
                self.outages.answered()
            except Lost as error:
                if not error.answered:  # else a part of the server is busy
                    self.outages.failed(error)
                continue
            except Exception as error:  # the run is followed without them
                found = (f"its pods and events cannot be looked at: {error or type(error).__name__}",)
            self.news.put(_Look(state_of(job).name, found))
            self.stop.wait(min(self.look_s, 1.0))  # where the RayJob changes all the time


# Changing


@dataclass(frozen=True, slots=True)
class Scaled:
    """A worker group's limits before and after, and the CPUs and GPUs that all groups may have then."""

    group: str
    before: tuple[int, int]
    after: tuple[int, int]
    pods: int
    cpus: int
    gpus: int


def scale(api: Api, job: Doc, group: str, least: int | None, most: int | None) -> Scaled:
    """Changes a group of the run's RayCluster, and of its RayJob, from which a retry or `resume` makes the next cluster.

    KubeRay does not read the RayJob's groups again while a cluster lives; of a paused run only they are changed. With the
    autoscaler, `minReplicas` is the number of pods now and `maxReplicas` the upper limit; it reads both every few seconds.
    Other clients write to these objects too, so a refused change is applied again to the current version.
    """
    name, state = job["metadata"]["name"], state_of(job)
    if QUEUE in job["metadata"].get("labels", {}):
        raise InputError(f"{name}: Kueue admitted it at a fixed size; cancel it and submit it with other [kube] groups")
    if state.ended:
        raise InputError(f"{name}: is {state}, there is nothing to scale")
    cluster = (job.get("status") or {}).get("rayClusterName", "")
    there = api.find("RayCluster", cluster) if cluster else None
    now = job["spec"]["rayClusterSpec"] if there is None else there["spec"]
    before, after = _limits(name, now, group, least, most)
    for _ in range(20):
        try:
            fresh = api.get("RayJob", name)
            groups = _resized(fresh["spec"]["rayClusterSpec"], group, after)
            for chosen in groups:
                if chosen["groupName"] == group:
                    chosen["replicas"] = after[0]  # with which the next cluster starts
            version = {"resourceVersion": fresh["metadata"]["resourceVersion"]}  # the list is replaced as a whole
            api.merge("RayJob", name, {"metadata": version, "spec": {"rayClusterSpec": {"workerGroupSpecs": groups}}})
            there = api.find("RayCluster", cluster) if cluster else None
            if there is not None:
                groups = _resized(there["spec"], group, after)
                api.replace({**there, "spec": {**there["spec"], "workerGroupSpecs": groups}})
        except Conflict:
            time.sleep(0.2)
            continue
        pods = [(g, g["maxReplicas"] if g["groupName"] == group else g.get("minReplicas", 0)) for g in groups]
        cpus, gpus = (sum(of(g) * count for g, count in pods) for of in (_cpus, _gpus))
        running = api.list("Pod", labels=f"ray.io/cluster={cluster},ray.io/group={group}") if there is not None else []
        return Scaled(group, before, after, len(running), cpus, gpus)
    raise StepError(f"{name}: others keep changing its cluster {cluster}; try again")


def _limits(
    name: str, spec: Doc, group: str, least: int | None, most: int | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The limits of a group of a RayCluster's spec, and those that are asked for."""
    groups = {g["groupName"]: g for g in spec.get("workerGroupSpecs", [])}
    if group not in groups:
        raise InputError(f"{name}: no worker group {group!r}; there are {', '.join(groups)}")
    before = (groups[group].get("minReplicas", 0), groups[group].get("maxReplicas", MOST_PODS))
    after = (before[0] if least is None else least, before[1] if most is None else most)
    if least is None:
        after = (min(after), after[1])
    elif most is None:
        after = (after[0], max(after))
    if not 0 <= after[0] <= after[1] <= MOST_PODS:
        raise InputError(f"{name}: --min {after[0]} and --max {after[1]}: expected 0 <= min <= max <= {MOST_PODS}")
    return before, after


def _resized(spec: Doc, group: str, limits: tuple[int, int]) -> list[Doc]:
    """The worker groups of a RayCluster's spec, one of them with other limits."""
    groups: list[Doc] = copy.deepcopy(spec["workerGroupSpecs"])
    for chosen in groups:
        if chosen["groupName"] == group:
            chosen["minReplicas"], chosen["maxReplicas"] = limits
            now = chosen.get("replicas", 0)
            if not spec.get("enableInTreeAutoscaling"):
                chosen["replicas"] = min(max(now, limits[0]), limits[1])
            elif now < limits[0]:  # raising is allowed, and is quicker than the autoscaler's next look
                chosen["replicas"] = limits[0]
    return groups


def _resource(group: Doc, name: str, default: str) -> str:
    """The quantity of a resource of a group's pods."""
    resources = group["template"]["spec"]["containers"][0].get("resources", {})
    return str({**resources.get("requests", {}), **resources.get("limits", {})}.get(name, default))


def _gpus(group: Doc) -> int:
    return int(_resource(group, "nvidia.com/gpu", "0"))


def _cpus(group: Doc) -> int:
    text = _resource(group, "cpu", "1")
    return max(1, -(-int(text[:-1]) // 1000) if text.endswith("m") else int(float(text)))


def cancel(api: Api, job: Doc, *, now: bool = False) -> str:
    """Stops a run and returns how; its results are kept.

    Ray sends SIGTERM to the driver, and the RayJob stays for its status. That request goes through the dashboard and needs
    Ray's token; where the dashboard cannot be reached, or with `now`, the RayJob is deleted, and KubeRay sends the signal.
    """
    name, status, why = job["metadata"]["name"], job.get("status") or {}, ""
    if state_of(job).ended and not now:
        return f"{name} has ended already: {state_of(job)}"
    if _is_deleted_by_rules(job):  # no rule is for a stopped job, whose cluster would stay for ever
        now, why = True, " (its cluster goes with it: kube.delete_job_s is set)"
    if not now and status.get("jobId") and status.get("jobStatus") in ("PENDING", "RUNNING") and (token := ray_token()):
        dashboard = api.path("Service", f"{name}-head-svc:8265", "proxy")
        try:
            api.request("POST", f"{dashboard}/api/jobs/{status['jobId']}/stop", {}, token=token)
            return f"{name}: Ray was asked to stop it"
        except (InputError, StepError) as error:
            why = f" (its dashboard did not do it: {error})"
    api.delete("RayJob", name)
    return f"{name}: deleted, its results stay{why}"


def _is_deleted_by_rules(job: Doc) -> bool:
    return bool(job["spec"].get("deletionStrategy"))


def ray_token() -> str | None:
    """Ray's token of this user, from where Ray's own commands read it; None if there is none. Empty variables are unset."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def pause(api: Api, job: Doc) -> None:
    """Releases a run's cluster; work that was not uploaded is repeated after `resume`."""
    name, state = job["metadata"]["name"], state_of(job)
    if QUEUE in job["metadata"].get("labels", {}):
        raise InputError(f"{name}: Kueue decides when it runs; deactivate its Workload instead (spec.active: false)")
    if state.ended:
        raise InputError(f"{name}: is {state}, there is nothing to pause")
    if _is_deleted_by_rules(job):
        raise InputError(f"{name}: KubeRay pauses no run with kube.delete_job_s; `ofa cancel` it, and submit it again later")
    api.merge("RayJob", name, {"spec": {"suspend": True}})


def resume(api: Api, job: Doc) -> None:
    """Gives a paused run a new cluster, on which it continues from its store."""
    name, state = job["metadata"]["name"], state_of(job)
    if state.name != "Paused":
        raise InputError(f"{name}: is {state}, not paused; `ofa retry` starts an ended run again")
    api.merge("RayJob", name, {"spec": {"suspend": False}})


def retry(api: Api, job: Doc, *, timeout_s: float = 120.0) -> Doc:
    """Starts an ended run again as a new RayJob with the same settings; it continues from its store."""
    name, state = job["metadata"]["name"], state_of(job)
    if not state.ended:
        raise InputError(f"{name}: is {state}, it has not ended; cancel it first")
    config = api.find("ConfigMap", f"{name}-config")
    if config is None:
        raise InputError(f"{name}: its settings (ConfigMap {name}-config) are gone; `ofa submit` its config again")
    annotations = dict(job["metadata"].get("annotations", {}))
    annotations[SUBMISSION] = str(int(annotations.get(SUBMISSION, "1")) + 1)
    place = {"namespace": api.namespace, "annotations": annotations}
    fresh: Doc = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": job["metadata"].get("labels", {}), **place},
        "spec": {key: value for key, value in job["spec"].items() if key not in ("suspend", "jobId")},
    }
    labels = config["metadata"].get("labels", {})
    settings: Doc = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-config", "labels": labels, **place},
        "data": config["data"],
    }
    lint.check(fresh)
    stand_in = {**fresh["metadata"], "name": f"{name[:40].rstrip('-')}-retry"}  # its own name is still taken
    api.create({**fresh, "metadata": stand_in}, dry_run=True)
    api.delete("RayJob", name)
    try:
        return _replace_deleted(api, job, Rendered(fresh, settings), timeout_s)
    except Lost as error:
        raise Lost(
            f"{name}: its RayJob was deleted, and is not there again: {error}; `ofa submit` its config again"
        ) from None


def _replace_deleted(api: Api, old: Doc, new: Rendered, timeout_s: float) -> Doc:
    """Creates a RayJob once the old one, which is being deleted, is gone; goes on over an outage of the API server."""
    name, outages = new.name, Outages(give_up_s=timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            there = api.find("RayJob", name)
            if there is None:
                there = api.create(new.job)
            if there["metadata"]["uid"] != old["metadata"].get("uid"):  # also one that was created with a lost answer
                _create_config(api, new, there)
                return there
            outages.answered()
        except Lost as error:
            outages.failed(error)
            continue
        except Conflict:  # created meanwhile
            pass
        if time.monotonic() > deadline:  # KubeRay stops the old job first
            raise StepError(f"{name}: the old RayJob is not gone after {timeout_s:.0f} s; is KubeRay's operator running?")
        time.sleep(0.3)


# Results


def results_of(job: Doc) -> tuple[str, str]:
    """The store and the run id where a run's results are."""
    url = job["metadata"].get("annotations", {}).get(RESULTS, "")
    store, _, run_id = url.rpartition("/")
    if not store:
        raise InputError(f"{job['metadata']['name']}: has no annotation {RESULTS}; `ofa submit` did not make it")
    return store, run_id
