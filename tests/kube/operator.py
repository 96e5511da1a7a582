"""KubeRay's operator, the Job controller, the scheduler and the kubelet: RayJobs are run, or fail as tests say.

The state machine, names, labels, events and statuses are those of KubeRay 1.7 with Ray 2.60, as they were seen on a real
apiserver; times that are long there are attributes here. What a cluster really is, is up to its backend: `Scripted` does
what a test says, `tests/kube/local_ray.py` starts real Ray nodes and runs the real entrypoint.
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from kube.apiserver import ApiServer, Refusal, now

Doc = dict[str, Any]
FINALIZER = "ray.io/rayjob-finalizer"
KUBELET = "tests/kubelet"  # keeps pods that are being deleted until their processes have ended
ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
MESSAGES = {  # Ray's own
    "PENDING": "Job has not started yet. It may be waiting for resources (CPUs, GPUs, memory, custom resources) to "
    "become available.",
    "RUNNING": "Job is currently running.",
    "SUCCEEDED": "Job finished successfully.",
    "STOPPED": "Job was intentionally stopped.",
    "FAILED": "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nits end",
}
SUBMITTERS = 3  # pods of the submitter's Job: its backoffLimit is 2


class Backend(Protocol):
    """What a cluster really is."""

    def start(self, cluster: str, config: dict[str, str]) -> str:
        """Starts the head of a cluster, or starts it again; returns the URL of its dashboard, if it has one."""

    def ended(self, cluster: str) -> int | None:
        """The exit code of the head, None while it runs."""

    def resize(self, cluster: str, group: str, pods: int, cpus: int) -> None:
        """As many worker nodes as that in a group."""

    def submit(self, cluster: str, job_id: str, entrypoint: str) -> None:
        """Runs the entrypoint on the head, unless it has a job with that id."""

    def status(self, cluster: str, job_id: str) -> str:
        """Ray's status of the job; empty where there is no answer."""

    def log(self, cluster: str, job_id: str) -> list[str]:
        """All lines of the driver."""

    def stop(self, cluster: str) -> None:
        """The cluster goes, with all its processes."""


class Scripted:
    """Clusters that do what they are told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.submitted: list[tuple[str, str]] = []  # (cluster, job id), once for each driver
        self.statuses: dict[str, str] = {}
        self.lines: dict[str, list[str]] = {}
        self.say = "RUNNING"  # what Ray answers until told otherwise; empty: the head cannot be reached
        self.crash: int | None = None  # heads exit with this at once
        self.codes: dict[str, int] = {}  # exit codes of heads that have ended
        self.drivers: set[tuple[str, str]] = set()  # of heads that run

    def start(self, cluster: str, config: dict[str, str]) -> str:
        self.started.append(cluster)
        self.codes.pop(cluster, None)
        self.drivers = {driver for driver in self.drivers if driver[0] != cluster}
        self.lines.pop(cluster, None)
        if self.crash is not None:
            self.codes[cluster] = self.crash
        return ""

    def ended(self, cluster: str) -> int | None:
        return self.codes.get(cluster)

    def lose(self, cluster: str) -> None:
        """The head is killed."""
        self.codes[cluster] = 137

    def resize(self, cluster: str, group: str, pods: int, cpus: int) -> None:
        """There is nothing to resize."""

    def submit(self, cluster: str, job_id: str, entrypoint: str) -> None:
        if (cluster, job_id) not in self.drivers:
            self.drivers.add((cluster, job_id))
            self.submitted.append((cluster, job_id))
            self.lines.setdefault(cluster, []).append(f"running {entrypoint}")

    def status(self, cluster: str, job_id: str) -> str:
        if cluster in self.codes or (cluster, job_id) not in self.drivers:
            return ""
        return self.statuses.get(cluster, self.say)

    def log(self, cluster: str, job_id: str) -> list[str]:
        return self.lines.get(cluster, [])

    def stop(self, cluster: str) -> None:
        self.stopped.append(cluster)


class Operator:
    """Looks at every RayJob, RayCluster, Job and pod, again and again, until it is closed."""

    def __init__(self, api: ApiServer, backend: Backend, every_s: float = 0.05) -> None:
        self.api, self.backend, self.every_s = api, backend, every_s
        self.pull_fails = False  # images cannot be pulled
        self.no_nodes = False  # pods cannot be placed
        self.not_ready = False  # the head runs and does not become ready
        self.autoscaler_exits: int | None = None  # the autoscaler's container exits with this in heads that start
        self.last_words = "the head's last line"  # in the log of a head that has ended
        self.invalid = ""  # what is wrong with every job, as the operator's own validation says
        self.frozen = False  # the operator does nothing; the Job controller, the kubelet and Ray do
        self.submitter_grace_s = 30.0  # the submitter has ended, and Ray's status was not read: failed after that
        self.check_timeout_s = 300.0  # RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS
        self.grace_s = 0.0  # pods that are deleted need that to end
        self.errors: list[str] = []
        self.begun: list[str] = []  # clusters
        self.starting: dict[str, Future[str]] = {}  # heads by the uid of their pod
        self.lives: dict[str, int] = {}  # how often the head of a cluster was started
        self.attached: dict[str, int] = {}  # submitters by uid: the life of the head that they follow
        self.since: dict[tuple[str, str], float] = {}  # monotonic times by uid and what happened
        self.pool = ThreadPoolExecutor(4)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closed.set()
        self.thread.join(timeout=30)
        self.pool.shutdown(cancel_futures=True)
        for cluster in dict.fromkeys(self.begun):
            self.backend.stop(cluster)

    def _work(self) -> None:
        steps = (("rayjobs", self.reconcile, True), ("rayclusters", self.cluster, True), ("jobs", self.job, False),
                 ("pods", self.kubelet, False))  # fmt: skip
        while not self.closed.wait(self.every_s):
            for plural, step, by_operator in steps:
                for doc in [] if by_operator and self.frozen else self.api.list(plural, None):
                    try:
                        step(doc)
                    except Refusal:
                        continue  # somebody else was faster: the next look sees it
                    except Exception:
                        self.errors.append(traceback.format_exc())

    # RayJobs

    def reconcile(self, job: Doc) -> None:
        """One step of a RayJob."""
        metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
        deployed = status.get("jobDeploymentStatus", "")
        if "deletionTimestamp" in metadata:
            return self.finalize(job)
        if FINALIZER not in metadata.get("finalizers", []):
            metadata["finalizers"] = [FINALIZER]
            job = self.api.update(job)
        if self.invalid and deployed not in ("Complete", "Failed"):  # whatever runs is left as it is
            invalid = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": self.invalid}
            return None if deployed == "ValidationFailed" else self.say(job, **invalid)
        if deployed in ("Initializing", "Running"):
            if spec.get("suspend"):
                return self.say(job, jobDeploymentStatus="Suspending")
            if self.late(job, "start", spec.get("activeDeadlineSeconds")):
                return self.fail(job, "DeadlineExceeded", retried=False)
        if deployed == "Suspending":
            self.take_down(job)
            return self.say(job, jobDeploymentStatus="Suspended", **NOTHING)
        if deployed in ("", "Suspended"):
            return self.begin(job) if not spec.get("suspend") else self.suspended(job)
        if deployed == "Initializing":
            return self.initializing(job)
        if deployed == "Running":
            return self.look(job)
        if deployed == "Retrying":
            self.take_down(job)
            return self.say(job, jobDeploymentStatus="", **NOTHING)
        if deployed in ("Complete", "Failed") and spec.get("shutdownAfterJobFinishes"):
            return self.expire(job)
        return None

    def late(self, job: Doc, what: str, seconds: float | None) -> bool:
        """Whether more seconds have passed since something happened to the job."""
        return bool(seconds) and time.monotonic() - self.since[job["metadata"]["uid"], what] > seconds

    def suspended(self, job: Doc) -> None:
        if job.get("status", {}).get("jobDeploymentStatus") != "Suspended":
            self.say(job, jobDeploymentStatus="Suspended")

    def begin(self, job: Doc) -> None:
        """Names of a new cluster and a new Ray job."""
        name = job["metadata"]["name"]
        self.since[job["metadata"]["uid"], "start"] = time.monotonic()
        self.say(job, jobDeploymentStatus="Initializing", rayClusterName=f"{name}-{uuid.uuid4().hex[:5]}", startTime=now(),
                 jobId=f"{name}-{uuid.uuid4().hex[:5]}", failed=job.get("status", {}).get("failed", 0),
                 succeeded=job.get("status", {}).get("succeeded", 0))  # fmt: skip

    def initializing(self, job: Doc) -> None:
        """Creates the cluster, of the groups in the job's spec, and submits once its pods are ready."""
        name, namespace, status = job["metadata"]["name"], job["metadata"]["namespace"], job["status"]
        cluster = self.api.find("rayclusters", namespace, status["rayClusterName"])
        if cluster is None:
            self.api.create({
                "apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": job["spec"]["rayClusterSpec"],
                "metadata": {"name": status["rayClusterName"], "namespace": namespace, "ownerReferences": [owner(job)],
                             "labels": {**job["metadata"].get("labels", {}), "ray.io/originated-from-cr-name": name}},
            })  # fmt: skip
            self.event(job, "CreatedRayCluster", f"Created RayCluster {namespace}/{status['rayClusterName']}", "Normal")
            return None
        if self.late(job, "start", job["spec"].get("preRunningDeadlineSeconds")):
            return self.fail(job, "PreRunningDeadlineExceeded")
        if cluster.get("status", {}).get("state") != "ready":
            return self.say(job, rayClusterStatus=cluster.get("status", {}))
        self.service(job, f"{name}-head-svc")
        template, place = job["spec"]["submitterPodTemplate"], {"namespace": namespace, "ownerReferences": [owner(job)]}
        labels = {**template.get("metadata", {}).get("labels", {}), "job-name": name, "ray.io/originated-from-cr-name": name}
        template = {**template, "metadata": {"labels": labels}}
        self.api.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **place},
                         "spec": {"backoffLimit": SUBMITTERS - 1, "template": template}})  # fmt: skip
        return self.say(job, jobDeploymentStatus="Running", rayClusterStatus=cluster["status"],
                        dashboardURL=f"{status['rayClusterName']}-head-svc.{namespace}.svc.cluster.local:8265")  # fmt: skip

    def look(self, job: Doc) -> None:
        """Looks at the submitter's Job, then asks Ray for the status of the job."""
        name, namespace, status = job["metadata"]["name"], job["metadata"]["namespace"], job["status"]
        cluster = self.api.find("rayclusters", namespace, status["rayClusterName"])
        submitter = self.api.find("jobs", namespace, name)
        self.dashboard(f"{name}-head-svc", status["rayClusterName"])
        if condition(submitter, "Failed"):
            return self.fail(job, "SubmissionFailed", message="Job submission has failed. Reason: BackoffLimitExceeded. "
                             "Message: Job has reached the specified backoff limit")  # fmt: skip
        if submitter and condition(submitter, "Complete"):
            ended = self.since[submitter["metadata"]["uid"], "complete"]
            if time.monotonic() - ended > self.submitter_grace_s:
                message = "The RayJob submitter finished but the ray job did not finish."
                return self.fail(job, "AppFailed", message=message, jobStatus="FAILED")
        word = self.backend.status(status["rayClusterName"], status["jobId"])
        key = (job["metadata"]["uid"], "no answer")
        if not word:
            began = self.since.setdefault(key, time.monotonic())
            if "jobStatusCheckFailureStartTime" not in status:
                return self.say(job, jobStatusCheckFailureStartTime=now())
            if time.monotonic() - began > self.check_timeout_s:
                message = f"Job status check timeout exceeded: no answer from the dashboard for {self.check_timeout_s:g}s"
                return self.fail(job, "JobStatusCheckTimeoutExceeded", message=message, retried=False)
            return None
        self.since.pop(key, None)
        told = {"jobStatus": word, "message": MESSAGES[word], "jobStatusCheckFailureStartTime": None,
                "rayClusterStatus": (cluster or {}).get("status", {})}  # fmt: skip
        if word not in ENDS:
            return self.say(job, **told)
        if word == "FAILED":
            return self.fail(job, "AppFailed", **told)
        return self.say(job, **told, jobDeploymentStatus="Complete", succeeded=status.get("succeeded", 0)
                        + (word == "SUCCEEDED"), endTime=now())  # fmt: skip

    def fail(self, job: Doc, reason: str, *, retried: bool = True, **status: Any) -> None:
        """The attempt has failed: another one, if there may be one."""
        failed = job["status"].get("failed", 0) + 1
        status.setdefault("message", f"The RayJob has passed its deadline: {reason}")
        if retried and failed <= job["spec"].get("backoffLimit", 0):
            return self.say(job, jobDeploymentStatus="Retrying", failed=failed, reason=reason, **status)
        return self.say(job, jobDeploymentStatus="Failed", failed=failed, reason=reason, endTime=now(), **status)

    def expire(self, job: Doc) -> None:
        """After the TTL the cluster goes; here at once if it is short."""
        cluster = job["status"].get("rayClusterName", "")
        if cluster and job["spec"].get("ttlSecondsAfterFinished", 0) <= 1:
            self.remove(job["metadata"]["namespace"], cluster)

    def take_down(self, job: Doc) -> None:
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        self.remove(namespace, job.get("status", {}).get("rayClusterName", ""))
        with suppress(Refusal):
            self.api.delete("jobs", namespace, name)
        self.api.proxies.pop(f"{name}-head-svc:8265", None)

    def remove(self, namespace: str, cluster: str) -> None:
        """Deletes a RayCluster; its pods end when their grace period has."""
        with suppress(Refusal):
            self.api.delete("rayclusters", namespace, cluster)
            self.api.proxies.pop(f"{cluster}-head-svc:8265", None)
            if not self.grace_s:
                self.backend.stop(cluster)

    def finalize(self, job: Doc) -> None:
        """A deleted RayJob's Ray job is stopped, then the object may go."""
        if FINALIZER in job["metadata"].get("finalizers", []):
            self.take_down(job)
            fresh = self.api.get("rayjobs", job["metadata"]["namespace"], job["metadata"]["name"])
            fresh["metadata"]["finalizers"] = []
            self.api.update(fresh)

    # RayClusters

    def cluster(self, cluster: Doc) -> None:
        """One step of a RayCluster: its service, its head, which is recreated at once, its workers, and its status."""
        namespace, name, spec = cluster["metadata"]["namespace"], cluster["metadata"]["name"], cluster["spec"]
        self.service(cluster, f"{name}-head-svc")
        heads = self.pods(cluster, "ray.io/node-type=head")
        for head in heads:
            if phase(head) in ("Failed", "Succeeded"):
                self.api.delete("pods", namespace, head["metadata"]["name"])
                last = head["status"]["containerStatuses"][0]["state"]["terminated"]
                go = f"&ContainerStateTerminated{{ExitCode:{last['exitCode']},Signal:0,Reason:{last['reason']},"
                go += f"Message:{last.get('message', '')},StartedAt:2026-01-01 00:00:00 +0000 UTC,ContainerID:,}}"
                words = f"Pod status: {phase(head)}; Pod restart policy: Never; Ray container terminated status: {go}"
                message = f"Deleted head Pod {namespace}/{head['metadata']['name']}; {words}"
                self.event(cluster, "DeletedHeadPod", message, "Normal")
                return
        if not heads:
            self.pod(cluster, "head", "headgroup", spec["headGroupSpec"]["template"])
        total = ready = 0
        for group in spec["workerGroupSpecs"]:  # at least minReplicas, at most maxReplicas, as the autoscaler asks for
            there = self.pods(cluster, f"ray.io/group={group['groupName']}")
            wanted = min(max(group["replicas"], group["minReplicas"]), group["maxReplicas"])
            for _ in range(wanted - len(there)):
                self.pod(cluster, "worker", group["groupName"], group["template"])
            for pod in there[wanted:]:
                self.api.delete("pods", namespace, pod["metadata"]["name"])
            total, ready = total + wanted, ready + sum(is_ready(pod) for pod in there[:wanted])
        head_ready = any(is_ready(head) for head in heads)
        before = cluster.get("status", {})
        conditions = [{"type": "HeadPodReady", "status": str(head_ready), "message": "",
                       "reason": "HeadPodRunningAndReady" if head_ready else "HeadPodNotFound",
                       "lastTransitionTime": cluster["metadata"]["creationTimestamp"]}]  # fmt: skip
        status = {"availableWorkerReplicas": ready, "desiredWorkerReplicas": total, "conditions": conditions}
        if (head_ready and ready == total) or before.get("state") == "ready":  # which it stays
            status["state"] = "ready"
        if before != status:
            fresh = self.api.get("rayclusters", namespace, name)
            self.api.update({**fresh, "status": status}, sub="status")

    def pod(self, cluster: Doc, kind: str, group: str, template: Doc) -> None:
        """A pod of a cluster, with the containers that the operator adds."""
        name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
        labels = {**template.get("metadata", {}).get("labels", {}), "ray.io/cluster": name, "ray.io/node-type": kind,
                  "ray.io/group": group, "ray.io/is-ray-node": "yes"}  # fmt: skip
        spec = dict(template["spec"])
        image = spec["containers"][0]["image"]
        if kind == "worker":
            spec["initContainers"] = [{"name": "wait-gcs-ready", "image": image}]
        elif cluster["spec"].get("enableInTreeAutoscaling"):
            spec["containers"] = [*spec["containers"], {"name": "autoscaler", "image": image}]
        made = f"{name}-head-{uuid.uuid4().hex[:5]}" if kind == "head" else f"{name}-{group}-worker-{uuid.uuid4().hex[:5]}"
        self.new_pod(made, namespace, labels, spec, cluster)
        self.event(cluster, f"Created{kind.capitalize()}Pod", f"Created {kind} Pod {namespace}/{made}", "Normal")

    def new_pod(self, name: str, namespace: str, labels: Doc, spec: Doc, of: Doc) -> None:
        kept = {"finalizers": [KUBELET]} if self.grace_s else {}
        self.api.create({"apiVersion": "v1", "kind": "Pod", "spec": spec, "status": {"phase": "Pending"},
                         "metadata": {"name": name, "namespace": namespace, "labels": labels, **kept,
                                      "ownerReferences": [owner(of)]}})  # fmt: skip

    def pods(self, cluster: Doc, labels: str) -> list[Doc]:
        metadata = cluster["metadata"]
        found = self.api.list("pods", metadata["namespace"], f"ray.io/cluster={metadata['name']},{labels}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def service(self, of: Doc, name: str) -> None:
        with suppress(Refusal):  # it is there
            self.api.create({"apiVersion": "v1", "kind": "Service", "spec": {}, "metadata": {
                "name": name, "namespace": of["metadata"]["namespace"], "ownerReferences": [owner(of)]}})  # fmt: skip

    def dashboard(self, service: str, cluster: str) -> None:
        """The service of a run leads to the head of its latest cluster."""
        if url := self.api.proxies.get(f"{cluster}-head-svc:8265"):
            self.api.proxies[f"{service}:8265"] = url
        else:
            self.api.proxies.pop(f"{service}:8265", None)

    # The Job controller

    def job(self, job: Doc) -> None:
        """Up to three pods, one after the other, until one of them has ended well."""
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        if condition(job, "Complete") or condition(job, "Failed"):
            return
        there = [phase(pod) for pod in self.api.list("pods", namespace, f"job-name={name}")]
        failed, conditions = there.count("Failed"), []
        if "Succeeded" in there:
            conditions = [{"type": "Complete", "status": "True"}]
            self.since[job["metadata"]["uid"], "complete"] = time.monotonic()
        elif failed >= SUBMITTERS:
            conditions = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
        elif failed == len(there):
            template = job["spec"]["template"]
            made = f"{name}-{uuid.uuid4().hex[:5]}"
            self.new_pod(made, namespace, template["metadata"]["labels"], template["spec"], job)
        status = {"failed": failed, "conditions": conditions}
        if job.get("status") != status:
            self.api.update({**job, "status": status}, sub="status")

    # The scheduler and the kubelet

    def kubelet(self, pod: Doc) -> None:
        """One step of a pod: it is placed, its containers start and end."""
        metadata, labels = pod["metadata"], pod["metadata"].get("labels", {})
        uid, cluster = metadata["uid"], labels.get("ray.io/cluster", "")
        if "deletionTimestamp" in metadata:
            began = self.since.setdefault((uid, "deleted"), time.monotonic())
            if time.monotonic() - began > self.grace_s:
                if labels.get("ray.io/node-type") == "head":
                    self.backend.stop(cluster)
                self.api.update({**pod, "metadata": {**metadata, "finalizers": []}})
            return None
        if phase(pod) == "Pending" and (self.no_nodes or self.pull_fails):
            return self.stuck(pod)
        if "job-name" in labels:
            return self.submitter(pod)
        if labels.get("ray.io/node-type") == "head":
            return self.head(pod, cluster)
        if labels.get("ray.io/node-type") == "worker":
            return self.worker(pod, cluster)
        return None

    def stuck(self, pod: Doc) -> None:
        """Not placed, or without its image."""
        container = pod["spec"]["containers"][0]
        if self.no_nodes:
            why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                   "message": "0/3 nodes are available: 3 Insufficient cpu."}  # fmt: skip
            status, reason = {"phase": "Pending", "conditions": [why]}, "FailedScheduling"
        else:
            waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
            states = [state_of_container(container, {"waiting": waiting})]
            status, reason = {"phase": "Pending", "containerStatuses": states}, "Failed"
        if pod["status"] != status:
            self.api.update({**pod, "status": status}, sub="status")
            self.event(pod, reason, "see the pod")

    def head(self, pod: Doc, cluster: str) -> None:
        uid = pod["metadata"]["uid"]
        config = self.mounted(pod)
        if phase(pod) in ("Failed", "Succeeded") or config is None:
            return None  # a kubelet waits for the ConfigMap
        if uid not in self.starting:
            self.begun.append(cluster)
            self.starting[uid] = self.pool.submit(self.backend.start, cluster, config)
            self.states(pod, ready=False)
            return None
        if not self.starting[uid].done():
            return None
        dashboard = self.starting[uid].result()
        code = self.backend.ended(cluster)
        if code is not None:
            self.api.proxies.pop(f"{cluster}-head-svc:8265", None)
            return self.end(pod, code, self.last_words)
        if phase(pod) == "Running" and not is_ready(pod) and not self.not_ready and (uid, "up") not in self.since:
            self.since[uid, "up"] = time.monotonic()
            self.lives[cluster] = self.lives.get(cluster, 0) + 1
            if dashboard:
                self.api.proxies[f"{cluster}-head-svc:8265"] = dashboard
            self.states(pod, ready=True)
        if (uid, "up") in self.since:
            self.resize(cluster, pod)
        return None

    def resize(self, cluster: str, head: Doc) -> None:
        made = self.api.find("rayclusters", head["metadata"]["namespace"], cluster)
        for group in made["spec"]["workerGroupSpecs"] if made else []:
            running = sum(is_ready(pod) for pod in self.pods(made, f"ray.io/group={group['groupName']}"))
            cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
            self.backend.resize(cluster, group["groupName"], running, cpus)

    def mounted(self, head: Doc) -> dict[str, str] | None:
        """The files of the head's ConfigMap, or None while it is not there."""
        volume = head["spec"]["volumes"][0]["configMap"]["name"]
        config = self.api.find("configmaps", head["metadata"]["namespace"], volume)
        return None if config is None else config["data"]

    def worker(self, pod: Doc, cluster: str) -> None:
        """Waits for the head in its init container, then runs."""
        if phase(pod) != "Pending":
            return None
        heads = self.api.list("pods", pod["metadata"]["namespace"], f"ray.io/cluster={cluster},ray.io/node-type=head")
        if any(is_ready(head) for head in heads):
            return self.states(pod, ready=True)
        runs, waits = {"running": {"startedAt": now()}}, {"waiting": {"reason": "PodInitializing"}}
        first = [state_of_container(container, runs) for container in pod["spec"]["initContainers"]]
        later = [state_of_container(container, waits) for container in pod["spec"]["containers"]]
        if "initContainerStatuses" not in pod["status"]:
            status = {"phase": "Pending", "initContainerStatuses": first, "containerStatuses": later}
            self.api.update({**pod, "status": status}, sub="status")
        return None

    def submitter(self, pod: Doc) -> None:
        """Submits the job under its id, or finds it there, and follows its log; ends with 0 whatever Ray's end is."""
        namespace, name, uid = pod["metadata"]["namespace"], pod["metadata"]["name"], pod["metadata"]["uid"]
        job = self.api.find("rayjobs", namespace, pod["metadata"]["labels"]["job-name"])
        if job is None or not job.get("status", {}).get("jobId") or phase(pod) in ("Succeeded", "Failed"):
            return None
        cluster, job_id = job["status"]["rayClusterName"], job["status"]["jobId"]
        heads = self.api.list("pods", namespace, f"ray.io/cluster={cluster},ray.io/node-type=head")
        up = self.backend.ended(cluster) is None and any(is_ready(head) for head in heads)
        if phase(pod) == "Pending":
            if up:
                self.states(pod, ready=True)
                self.attached[uid] = self.lives[cluster]
                self.backend.submit(cluster, job_id, job["spec"]["entrypoint"])
            return None
        if not up or self.attached[uid] != self.lives[cluster]:
            return self.end(pod, 1, "RuntimeError: WebSocket connection closed unexpectedly with close code 1006")
        word = self.backend.status(cluster, job_id)
        there = len(self.api.logs.get((namespace, name), []))
        for line in self.backend.log(cluster, job_id)[there:]:
            self.api.log(namespace, name, line)
        return self.end(pod, 0) if word in ENDS else None

    def states(self, pod: Doc, *, ready: bool) -> None:
        """All containers run."""
        containers = []
        for container in pod["spec"]["containers"]:
            state = {"running": {"startedAt": now()}}
            if container["name"] == "autoscaler" and self.autoscaler_exits is not None:
                state = ended(self.autoscaler_exits)
                if ready:
                    self.api.log(pod["metadata"]["namespace"], pod["metadata"]["name"], "ValueError: the autoscaler's end")
            containers.append(state_of_container(container, state, ready=ready and "running" in state))
        first = [state_of_container(c, ended(0)) for c in pod["spec"].get("initContainers", [])]
        status = {"phase": "Running", "containerStatuses": containers, **({"initContainerStatuses": first} if first else {})}
        self.api.update({**pod, "status": status}, sub="status")

    def end(self, pod: Doc, code: int, last: str = "") -> None:
        """All containers have ended, and are not started again."""
        if last:
            self.api.log(pod["metadata"]["namespace"], pod["metadata"]["name"], last)
        containers = []
        for container in pod["spec"]["containers"]:
            on_error = container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
            words = {"message": f"{last}\n"} if last and code and on_error else {}
            containers.append(state_of_container(container, ended(code, **words)))
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": containers}
        self.api.update({**pod, "status": status}, sub="status")

    # What they write

    def event(self, about: Doc, reason: str, message: str, kind: str = "Warning") -> None:
        """An event of the newer API: `eventTime` in microseconds, and no other time."""
        metadata = about["metadata"]
        involved = {key: metadata[key] for key in ("name", "namespace", "uid")}
        self.api.create({"apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message,
                         "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
                         "involvedObject": {"kind": about["kind"], **involved}, "firstTimestamp": None,
                         "lastTimestamp": None, "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                         "reportingComponent": "rayjob-controller"})  # fmt: skip

    def say(self, job: Doc, **status: Any) -> None:
        """Writes to the job's status; empty values are taken away."""
        metadata = job["metadata"]
        fresh = self.api.get("rayjobs", metadata["namespace"], metadata["name"])
        after = {**fresh.get("status", {}), **status}
        fresh["status"] = {key: value for key, value in after.items() if value not in ("", None, {})}
        self.api.update(fresh, sub="status")


NOTHING = dict.fromkeys(("jobStatus", "rayClusterName", "jobId", "dashboardURL", "message", "reason", "rayClusterStatus",
                         "jobStatusCheckFailureStartTime"), "")  # fmt: skip


def phase(pod: Doc) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def is_ready(pod: Doc) -> bool:
    """Whether the first container is: a real pod is ready when all are, and KubeRay looks at Ray's alone."""
    states = pod.get("status", {}).get("containerStatuses", [])
    return phase(pod) == "Running" and bool(states) and bool(states[0]["ready"])


def condition(job: Doc | None, kind: str) -> bool:
    return any(c["type"] == kind for c in ((job or {}).get("status") or {}).get("conditions", []))


def ended(code: int, **more: str) -> Doc:
    reason = "Completed" if code == 0 else "Error"
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now(), **more}}


def state_of_container(container: Doc, state: Doc, *, ready: bool = False) -> Doc:
    return {"name": container["name"], "image": container["image"], "ready": ready, "restartCount": 0, "state": state,
            "lastState": {}}  # fmt: skip


def owner(doc: Doc) -> Doc:
    return {"apiVersion": doc["apiVersion"], "kind": doc["kind"], "name": doc["metadata"]["name"],
            "uid": doc["metadata"]["uid"], "controller": True}  # fmt: skip
