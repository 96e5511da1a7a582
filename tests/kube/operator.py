"""KubeRay's operator, the scheduler and the kubelet in one thread: RayJobs of the apiserver are run, or fail as tests say.

The state machine, names, labels and statuses are KubeRay 1.7's. What a cluster does is up to its backend: `Scripted` does
what a test says, `tests/kube/local_ray.py` starts real Ray nodes and runs the real entrypoint.
"""

from __future__ import annotations

import threading
import traceback
import uuid
from contextlib import suppress
from typing import Any, Protocol

from kube.apiserver import ApiServer, Refusal, now

Doc = dict[str, Any]
FINALIZER = "ray.io/rayjob-finalizer"
ENDS = ("SUCCEEDED", "FAILED", "STOPPED")


class Backend(Protocol):
    """What a cluster really is."""

    def start(self, job: Doc, cluster: str, config: dict[str, str]) -> str:
        """Starts the head of a cluster; returns the URL of its dashboard, if it has one."""

    def resize(self, cluster: str, group: str, pods: int, cpus: int) -> None:
        """As many worker nodes as that in a group."""

    def submit(self, job: Doc, cluster: str, job_id: str, entrypoint: str) -> None:
        """Runs the entrypoint on the head."""

    def status(self, cluster: str, job_id: str) -> str:
        """Ray's word on the job."""

    def log(self, cluster: str, job_id: str) -> list[str]:
        """All lines that the driver has said."""

    def stop(self, cluster: str) -> None:
        """The cluster goes, with all its processes."""


class Scripted:
    """Clusters that do what they are told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.statuses: dict[str, str] = {}
        self.lines: dict[str, list[str]] = {}
        self.say = "RUNNING"  # what Ray answers until told otherwise

    def start(self, job: Doc, cluster: str, config: dict[str, str]) -> str:
        self.started.append(cluster)
        return ""

    def resize(self, cluster: str, group: str, pods: int, cpus: int) -> None:
        """There is nothing to resize."""

    def submit(self, job: Doc, cluster: str, job_id: str, entrypoint: str) -> None:
        self.lines.setdefault(cluster, []).append(f"running {entrypoint}")

    def status(self, cluster: str, job_id: str) -> str:
        return self.statuses.get(cluster, self.say)

    def log(self, cluster: str, job_id: str) -> list[str]:
        return self.lines.get(cluster, [])

    def stop(self, cluster: str) -> None:
        self.stopped.append(cluster)


class Operator:
    """Looks at every RayJob, again and again, until it is closed."""

    def __init__(self, api: ApiServer, backend: Backend, every_s: float = 0.05) -> None:
        self.api, self.backend, self.every_s = api, backend, every_s
        self.pull_fails = False  # images cannot be pulled
        self.no_nodes = False  # pods cannot be placed
        self.invalid = ""  # what is wrong with every job, as the operator's own validation says
        self.frozen = False  # does nothing, as an operator that is down
        self.errors: list[str] = []
        self.begun: list[str] = []  # clusters
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closed.set()
        self.thread.join(timeout=30)
        for cluster in self.begun:
            self.backend.stop(cluster)

    def _work(self) -> None:
        while not self.closed.wait(self.every_s):
            for job in [] if self.frozen else self.api.list("rayjobs", None):
                try:
                    self.reconcile(job)
                except Refusal:
                    continue  # somebody else was faster: the next look sees it
                except Exception:
                    self.errors.append(traceback.format_exc())

    def reconcile(self, job: Doc) -> None:
        """One step of a RayJob."""
        metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
        deployed = status.get("jobDeploymentStatus", "")
        if "deletionTimestamp" in metadata:
            return self.finalize(job)
        if FINALIZER not in metadata.get("finalizers", []):
            metadata["finalizers"] = [FINALIZER]
            job = self.api.update(job)
        if deployed in ("", "Initializing", "Running", "Waiting") and spec.get("suspend"):
            return self.say(job, jobDeploymentStatus="Suspending")
        if deployed == "Suspending":
            self.take_down(job)
            return self.say(job, jobDeploymentStatus="Suspended", jobStatus="", rayClusterName="", jobId="")
        if deployed == "Suspended":
            return None if spec.get("suspend") else self.say(job, jobDeploymentStatus="")
        if deployed == "":
            return self.begin(job)
        if deployed == "Initializing":
            return self.start(job)
        if deployed == "Running":
            return self.look(job)
        if deployed == "Retrying":
            self.take_down(job)
            return self.say(job, jobDeploymentStatus="", jobStatus="", rayClusterName="", jobId="")
        if deployed in ("Complete", "Failed") and spec.get("shutdownAfterJobFinishes"):
            return self.expire(job)
        return None

    def begin(self, job: Doc) -> None:
        """A new cluster, with pods that are not placed yet."""
        if self.invalid:
            return self.say(job, jobDeploymentStatus="ValidationFailed", reason="ValidationFailed", message=self.invalid)
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        cluster = f"{name}-{uuid.uuid4().hex[:5]}"
        made = self.api.create({
            "apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": job["spec"]["rayClusterSpec"],
            "metadata": {"name": cluster, "namespace": namespace, "ownerReferences": [owner(job)],
                         "labels": {**job["metadata"].get("labels", {}), "ray.io/originated-from-cr-name": name}},
        })  # fmt: skip
        self.pod(made, "head", "headgroup", job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"])
        job_id = f"{name}-{uuid.uuid4().hex[:5]}"
        began = job.get("status", {}).get("startTime", now())
        self.say(job, jobDeploymentStatus="Initializing", rayClusterName=cluster, jobId=job_id, startTime=began)
        return None

    def pod(self, cluster: Doc, kind: str, group: str, template: Doc) -> Doc:
        """A pod of a cluster, in the state that the scheduler and the kubelet would leave it in."""
        name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
        labels = {**template.get("metadata", {}).get("labels", {}), "ray.io/cluster": name, "ray.io/node-type": kind,
                  "ray.io/group": group, "ray.io/is-ray-node": "yes"}  # fmt: skip
        container = template["spec"]["containers"][0]
        return self.api.create({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "status": self.pod_status(container),
            "metadata": {"name": f"{name}-{group}-{uuid.uuid4().hex[:5]}", "namespace": namespace, "labels": labels,
                         "ownerReferences": [owner(cluster)]},
        })  # fmt: skip

    def pod_status(self, container: Doc) -> Doc:
        if self.no_nodes:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                         "message": "0/3 nodes are available: 3 Insufficient cpu."}  # fmt: skip
            return {"phase": "Pending", "conditions": [condition]}
        waiting = {"reason": "ContainerCreating"}
        if self.pull_fails:
            waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
        state = {"name": container["name"], "image": container["image"], "ready": False, "state": {"waiting": waiting}}
        return {"phase": "Pending", "containerStatuses": [state]}

    def start(self, job: Doc) -> None:
        """Pods that can run do, and then the job is submitted."""
        namespace, status = job["metadata"]["namespace"], job["status"]
        cluster = self.api.get("rayclusters", namespace, status["rayClusterName"])
        [head] = self.pods(cluster, "ray.io/node-type=head")
        if self.pull_fails or self.no_nodes:
            reason = "Failed" if self.pull_fails else "FailedScheduling"
            if not any(e["reason"] == reason for e in self.api.list("events", namespace)):
                self.api.update({**head, "status": self.pod_status(head["spec"]["containers"][0])}, sub="status")
                self.api.event(head, reason, "see the pod")
            return None
        config = self.mounted(head)
        if config is None:
            return None  # a kubelet waits for it
        name = job["metadata"]["name"]
        self.begun.append(cluster["metadata"]["name"])
        dashboard = self.backend.start(job, cluster["metadata"]["name"], config)
        if dashboard:
            self.api.proxies[f"{name}-head-svc:8265"] = dashboard
        self.running(head)
        self.workers(cluster)
        self.submitter(job)
        self.backend.submit(job, cluster["metadata"]["name"], status["jobId"], job["spec"]["entrypoint"])
        return self.say(job, jobDeploymentStatus="Running", jobStatus="PENDING", dashboardURL=f"{name}-head-svc:8265")

    def mounted(self, head: Doc) -> dict[str, str] | None:
        """The files of the head's ConfigMap, or None while it is not there."""
        volume = head["spec"]["volumes"][0]["configMap"]["name"]
        config = self.api.find("configmaps", head["metadata"]["namespace"], volume)
        return None if config is None else config["data"]

    def submitter(self, job: Doc) -> None:
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        template = job["spec"]["submitterPodTemplate"]
        place = {"name": name, "namespace": namespace, "ownerReferences": [owner(job)]}
        made = self.api.create({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}, "metadata": place})
        labels = {**template.get("metadata", {}).get("labels", {}), "job-name": name, "ray.io/originated-from-cr-name": name}
        self.running(self.api.create({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "status": {"phase": "Pending"},
            "metadata": {"name": f"{name}-{uuid.uuid4().hex[:5]}", "namespace": namespace, "labels": labels,
                         "ownerReferences": [owner(made)]},
        }))  # fmt: skip

    def running(self, pod: Doc, phase: str = "Running") -> None:
        names = [container["name"] for container in pod["spec"]["containers"]]
        containers = [{"name": n, "ready": True, "state": {"running": {"startedAt": now()}}} for n in names]
        self.api.update({**pod, "status": {"phase": phase, "containerStatuses": containers}}, sub="status")

    def pods(self, cluster: Doc, labels: str) -> list[Doc]:
        metadata = cluster["metadata"]
        return self.api.list("pods", metadata["namespace"], f"ray.io/cluster={metadata['name']},{labels}")

    def workers(self, cluster: Doc) -> None:
        """As the autoscaler and the operator: at least minReplicas, at most maxReplicas; and the cluster's status."""
        total = 0
        for group in cluster["spec"]["workerGroupSpecs"]:
            pods = self.pods(cluster, f"ray.io/group={group['groupName']}")
            wanted = min(max(group["replicas"], group["minReplicas"]), group["maxReplicas"])
            for _ in range(wanted - len(pods)):
                self.running(self.pod(cluster, "worker", group["groupName"], group["template"]))
            for pod in pods[wanted:]:
                self.api.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
            self.backend.resize(cluster["metadata"]["name"], group["groupName"], wanted, cpus)
            total += wanted
        conditions = [{"type": "HeadPodReady", "status": "True", "reason": "Running", "message": "",
                       "lastTransitionTime": cluster["metadata"]["creationTimestamp"]}]  # fmt: skip
        status = {"state": "ready", "availableWorkerReplicas": total, "conditions": conditions}
        if cluster.get("status") != status:
            fresh = self.api.get("rayclusters", cluster["metadata"]["namespace"], cluster["metadata"]["name"])
            self.api.update({**fresh, "status": status}, sub="status")

    def look(self, job: Doc) -> None:
        """Asks Ray how the job is."""
        namespace, status = job["metadata"]["namespace"], job["status"]
        cluster = self.api.get("rayclusters", namespace, status["rayClusterName"])
        self.workers(cluster)
        word = self.backend.status(status["rayClusterName"], status["jobId"])
        self.copy_log(job)
        if word not in ENDS:
            if word != status.get("jobStatus"):
                self.say(job, jobStatus=word, rayClusterStatus=self.api.get(
                    "rayclusters", namespace, status["rayClusterName"]).get("status", {}))  # fmt: skip
            return None
        for pod in self.api.list("pods", namespace, f"job-name={job['metadata']['name']}"):
            self.running(pod, "Succeeded" if word == "SUCCEEDED" else "Failed")
        failed = status.get("failed", 0) + (word == "FAILED")
        if word == "FAILED" and failed <= job["spec"].get("backoffLimit", 0):
            return self.say(job, jobStatus=word, jobDeploymentStatus="Retrying", failed=failed)
        reason = {"reason": "AppFailed"} if word == "FAILED" else {}
        return self.say(job, jobStatus=word, jobDeploymentStatus="Failed" if word == "FAILED" else "Complete", failed=failed,
                        succeeded=int(word == "SUCCEEDED"), endTime=now(), **reason)  # fmt: skip

    def copy_log(self, job: Doc) -> None:
        """The submitter follows the driver's log."""
        namespace, status = job["metadata"]["namespace"], job["status"]
        for pod in self.api.list("pods", namespace, f"job-name={job['metadata']['name']}"):
            name = pod["metadata"]["name"]
            there = len(self.api.logs.get((namespace, name), []))
            for line in self.backend.log(status["rayClusterName"], status["jobId"])[there:]:
                self.api.log(namespace, name, line)

    def expire(self, job: Doc) -> None:
        """After the TTL the cluster goes; here at once if it is short."""
        status = job["status"]
        cluster = status.get("rayClusterName", "")
        if cluster and job["spec"].get("ttlSecondsAfterFinished", 0) <= 1:
            with suppress(Refusal):
                self.api.delete("rayclusters", job["metadata"]["namespace"], cluster)
                self.backend.stop(cluster)

    def take_down(self, job: Doc) -> None:
        namespace, cluster = job["metadata"]["namespace"], job.get("status", {}).get("rayClusterName", "")
        if cluster:
            self.backend.stop(cluster)
            with suppress(Refusal):
                self.api.delete("rayclusters", namespace, cluster)
        with suppress(Refusal):
            self.api.delete("jobs", namespace, job["metadata"]["name"])
        self.api.proxies.pop(f"{job['metadata']['name']}-head-svc:8265", None)

    def finalize(self, job: Doc) -> None:
        """A deleted RayJob's Ray job is stopped, then the object may go."""
        if FINALIZER in job["metadata"].get("finalizers", []):
            self.take_down(job)
            fresh = self.api.get("rayjobs", job["metadata"]["namespace"], job["metadata"]["name"])
            fresh["metadata"]["finalizers"] = []
            self.api.update(fresh)

    def say(self, job: Doc, **status: Any) -> None:
        """Writes to the job's status; empty values are taken away."""
        metadata = job["metadata"]
        fresh = self.api.get("rayjobs", metadata["namespace"], metadata["name"])
        after = {**fresh.get("status", {}), **status}
        fresh["status"] = {key: value for key, value in after.items() if value not in ("", None)}
        self.api.update(fresh, sub="status")


def owner(doc: Doc) -> Doc:
    return {"apiVersion": doc["apiVersion"], "kind": doc["kind"], "name": doc["metadata"]["name"],
            "uid": doc["metadata"]["uid"], "controller": True}  # fmt: skip
