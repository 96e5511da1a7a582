"""Renders a run for KubeRay: a RayJob, and a ConfigMap with its settings.

The entrypoint is one simple argv and all parameters are in the mounted file. Credentials come from the pods' identity or
from Secrets that are named here and never read. Pods satisfy the restricted pod security standard. KubeRay itself adds
probes, /dev/shm, the init container that waits for the head, `ray start` and the autoscaler container.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from cluster.config import STRICT, ConfigError, Count, NotNegative, NotNegativeInt, follows
from cluster.kube import rules
from cluster.kube.lint import JOB_NAME, SAFE, LintError
from cluster.kube.state import QUEUE
from cluster.store import SCHEMES
from cluster.texts import json_text

Doc = dict[str, Any]

PART_OF = {"app.kubernetes.io/part-of": "ofa-cluster"}
RUN_LABEL = "ofa-cluster.io/run"
SPEC_HASH = "ofa-cluster.io/spec-sha256"
RESULTS = "ofa-cluster.io/results"
SUBMISSION = "ofa-cluster.io/submission"  # 1, and one more after every `ofa retry`
MOUNT = "/etc/ofa"
CONFIG_KEY = "run.toml"
TOKEN_SECRET = "ofa-ray-token"
STORE_SECRET = "ofa-store"

SUBMITTER_CPUS = AUTOSCALER_CPUS = 0.5
COLLECTOR_CPUS, COLLECTOR_GIB = 0.1, 0.25  # of the History Server's collector, in every pod of Ray
WAITING_CPUS = 0.2  # of the init container in which each worker waits for the head
SPOT_LABELS = {  # labels of spot nodes, by cloud
    "ofa-cluster.io/spot": "true",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
}


def _if_given(rule: Callable[[str], str | None]) -> Callable[[str], str | None]:
    return lambda text: rule(text) if text else None


@dataclass(frozen=True)
class Head:
    """The pod of the driver and of Ray's own processes; tasks and actors are not scheduled on it."""

    __pydantic_config__: ClassVar[Any] = STRICT
    cpus: Count = 2
    memory_gib: Count = 8
    disk_gib: Count = 20


@dataclass(frozen=True)
class Group:
    """A group of equal worker pods, between `min` and `max` of them."""

    __pydantic_config__: ClassVar[Any] = STRICT
    min: NotNegativeInt = 0
    max: Count = 4
    cpus: Count = 2
    memory_gib: Count = 8
    disk_gib: Count = 20
    gpus: NotNegativeInt = 0


@dataclass(frozen=True)
class Kube:
    """How `ofa submit` places a run on Kubernetes; this section is not part of the run's id."""

    __pydantic_config__: ClassVar[Any] = STRICT
    namespace: Annotated[str, follows(rules.dns_label)] = "ofa"
    image: Annotated[str, follows(_if_given(rules.image))] = (
        ""  # ofa-cluster:<version> if not given; in production with its digest
    )
    attempts: Count = 4  # most clusters that KubeRay may use without `ofa retry`; each continues from the store
    deadline_s: NotNegativeInt = 0  # most seconds of the whole run since its first start, pauses included; 0 is no limit
    starting_s: NotNegativeInt = 3600  # most seconds for a cluster to start (image pulls, quota, nodes); 0 is no limit
    most_gpu_hours: NotNegative = 0.0  # refuses runs that may use more GPU hours; 0 is no limit
    ttl_s: Count = 600  # seconds after which the cluster of a run that has ended is deleted
    delete_job_s: NotNegativeInt = 0  # seconds after which the RayJob of an ended run is deleted as well; 0 keeps it
    idle_s: Count = 60  # seconds after which the autoscaler removes an idle worker
    queue: Annotated[str, follows(_if_given(rules.queue_name))] = (
        ""  # a Kueue LocalQueue; with a queue there is no autoscaler, and every group has `max` pods
    )
    history: Annotated[str, follows(_if_given(rules.image))] = (
        ""  # image of the collector of KubeRay's History Server, beside every head and worker; none if not given
    )
    history_backend: Literal["s3", "gcs"] = "s3"  # how that collector reaches the bucket
    log_format: Literal["text", "json"] = "text"  # of the driver's log, as of `ofa --log-format`
    spot: bool = False  # search workers may run on spot nodes
    head: Head = field(default_factory=Head)
    train: Group = field(default_factory=lambda: Group(min=1, max=1))
    search: Group = field(default_factory=Group)

    @property
    def groups(self) -> dict[str, Group]:
        """The worker groups by name."""
        return {"train": self.train, "search": self.search}

    @property
    def longest_h(self) -> float | None:
        """The most hours for which pods of the run exist, without those of `ofa retry`; None without `deadline_s`."""
        return (self.deadline_s + self.ttl_s) / 3600 if self.deadline_s else None

    def least(self, group: Group) -> int:
        """The number of pods of a group that always exist."""
        return group.max if self.queue else group.min


@dataclass(frozen=True)
class Rendered:
    """The objects that `ofa submit` creates."""

    job: Doc
    config: Doc

    @property
    def name(self) -> str:
        """The RayJob's name, which is the run's."""
        name: str = self.job["metadata"]["name"]
        return name

    @property
    def docs(self) -> list[Doc]:
        """The objects in the order of their creation."""
        return [self.config, self.job]


def job_name(run_id: str) -> str:
    """The RayJob's name for a run id: a valid DNS-1035 name; an id that is one already is kept."""
    name = re.sub(r"[^a-z0-9-]+", "-", run_id.lower()).strip("-")
    name = name if name[:1].isalpha() else f"run-{name}"
    if len(name) > JOB_NAME:  # the hash at the end distinguishes runs
        start, _, end = name.rpartition("-")
        end = end if 0 < len(end) <= 16 else hashlib.sha256(run_id.encode()).hexdigest()[:8]
        name = f"{start[: JOB_NAME - 1 - len(end)].rstrip('-')}-{end}"
    return name


def render(
    run_id: str, config_toml: str, store_url: str, kube: Kube, *, version: str, ray_version: str, code_url: str = ""
) -> Rendered:
    """The objects of a run. code_url: an archive of the code in the store, instead of that in the image.

    The same arguments give the same objects; their hash is stored in an annotation.
    """
    _check_store(store_url)
    name, image = job_name(run_id), kube.image or f"ofa-cluster:{version}"
    labels = {**PART_OF, RUN_LABEL: name}
    entrypoint = f"{'python -m jobs' if code_url else 'ofa'} run {MOUNT}/{CONFIG_KEY} --store {store_url} --in-cluster"
    spec: Doc = {
        "entrypoint": entrypoint,
        "submissionMode": "K8sJobMode",
        "backoffLimit": kube.attempts - 1,
        **_deletion(kube),
        **({"activeDeadlineSeconds": kube.deadline_s} if kube.deadline_s else {}),
        **({"preRunningDeadlineSeconds": kube.starting_s} if kube.starting_s else {}),
        **({"runtimeEnvYAML": f"working_dir: {code_url}\n"} if code_url else {}),
        "submitterPodTemplate": _submitter(image, labels),
        "rayClusterSpec": {**_cluster(name, image, kube, ray_version, labels), **_history(kube, store_url)},
    }
    data = {CONFIG_KEY: config_toml}
    digest = hashlib.sha256(json_text([spec, data], sort_keys=True).encode()).hexdigest()
    annotations = {SPEC_HASH: digest, RESULTS: f"{store_url.rstrip('/')}/{run_id}", SUBMISSION: "1"}
    queue = {QUEUE: kube.queue} if kube.queue else {}
    place = {"namespace": kube.namespace, "annotations": annotations}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {**labels, **queue}, **place},
        "spec": spec,
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-config", "labels": labels, **place},
        "data": data,
    }
    return Rendered(job, config)


def refuse_secrets(rendered: Rendered, environment: Mapping[str, str]) -> None:
    """Raises a `LintError` if the value of a secret of this environment occurs in the rendered objects."""
    for name, value in secrets(environment).items():
        for doc in rendered.docs:
            if (path := _find(doc, value)) is not None:
                raise LintError(f"{doc['kind']}: {path}: holds the value of {name}; credentials belong in a Secret "
                                f"({STORE_SECRET}) or an identity of the pods")  # fmt: skip


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables whose values must not be shown."""
    secret = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(ACCESS|API)_?KEY(?!_ID)", re.I)
    return {
        name: value
        for name, value in environment.items()
        if secret.search(name) and len(value) >= 8 and not name.endswith(("_FILE", "_PATH", "_URI"))
    }


def _find(doc: Any, text: str, path: str = "") -> str | None:
    if isinstance(doc, dict):
        parts = [(f"{path}.{key}".lstrip("."), value) for key, value in doc.items()]
    elif isinstance(doc, list):
        parts = [(f"{path}[{i}]", value) for i, value in enumerate(doc)]
    else:
        return path if text in str(doc) else None
    return next((found for where, value in parts if (found := _find(value, text, where)) is not None), None)


def _check_store(url: str) -> None:
    parts = urlsplit(url)
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None or not scheme.shared or not parts.netloc:
        raise ConfigError(f"--store {url}: pods cannot reach it; give s3://bucket/prefix")
    if "@" in parts.netloc or parts.query:
        raise ConfigError("--store: credentials do not belong in the URL; give s3://bucket/prefix")
    scheme.url(url)  # a bucket that no server can have is refused here
    if not SAFE.fullmatch(url):
        raise ConfigError(f"--store {url}: a shell would read it otherwise; use letters, digits, dots, dashes and slashes")


def _deletion(kube: Kube) -> Doc:
    """When KubeRay deletes the cluster of an ended run: after `ttl_s`, and with `delete_job_s` by rules the RayJob later.

    With rules KubeRay allows neither a pause nor a queue.
    """
    if not kube.delete_job_s:
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": kube.ttl_s}
    ends: tuple[Doc, ...] = ({"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"})
    times = {"DeleteCluster": kube.ttl_s, "DeleteSelf": max(kube.ttl_s, kube.delete_job_s)}
    rules = [{"policy": policy, "condition": {**end, "ttlSeconds": ttl}} for policy, ttl in times.items() for end in ends]
    return {"deletionStrategy": {"deletionRules": rules}}


def _history(kube: Kube, store_url: str) -> Doc:
    """The collector, which KubeRay adds to each pod; its credentials are those of the pods."""
    if not kube.history:
        return {}
    bucket = urlsplit(store_url).netloc
    env: list[Doc] = [{"name": "STORAGE_BACKEND", "value": kube.history_backend},
                      {"name": "STORAGE_ROOT_DIR", "value": "ray-history"}]  # fmt: skip
    if kube.history_backend == "gcs":
        env.append({"name": "GCS_BUCKET", "value": bucket})
    else:
        env += [{"name": "S3_BUCKET", "value": bucket}, {"name": "S3FORCE_PATH_STYLE", "value": "true"}]
        for name, key in _OF_STORE.items():
            reference = {"name": STORE_SECRET, "key": key, "optional": True}
            env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    amount = {"cpu": f"{COLLECTOR_CPUS * 1000:.0f}m", "memory": f"{COLLECTOR_GIB * 1024:.0f}Mi"}
    return {
        "historyServerOptions": {
            "collectorOptions": {
                "image": kube.history,
                "env": env,
                "resources": {"requests": amount, "limits": dict(amount)},
            }
        }
    }


_OF_STORE = {  # variables of the collector, and their keys in the Secret of the store
    "S3_REGION": "AWS_REGION",
    "S3_ENDPOINT": "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
}


def _submitter(image: str, labels: Doc) -> Doc:
    resources = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
    container = {"name": "ray-job-submitter", "image": image, **_LAST_LINES, "resources": resources,
                 "securityContext": _CONTAINER}  # fmt: skip
    return {
        "metadata": {"labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "ofa-submitter",
            "automountServiceAccountToken": False,
            "securityContext": _POD,
            "containers": [container],
        },
    }


# the end of the log of a container that fails is in its status, also for roles that may not read logs
_LAST_LINES = {"terminationMessagePolicy": "FallbackToLogsOnError"}
_POD = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 100,
    "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _cluster(name: str, image: str, kube: Kube, ray_version: str, labels: Doc) -> Doc:
    scaling: Doc = {"enableInTreeAutoscaling": False}
    if not kube.queue:
        resources = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}
        scaling = {
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {
                "version": "v2",
                "idleTimeoutSeconds": kube.idle_s,
                "upscalingMode": "Default",
                "resources": resources,
                "securityContext": _CONTAINER,
            },
        }
    return {
        "rayVersion": ray_version,
        **scaling,
        "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0"},
            "template": _head(name, image, kube, labels),
        },
        "workerGroupSpecs": [_workers(group, size, image, kube, labels) for group, size in kube.groups.items()],
    }


def _head(name: str, image: str, kube: Kube, labels: Doc) -> Doc:
    head = kube.head
    container = _container("ray-head", image, head.cpus, head.memory_gib, head.disk_gib, 0)
    container["env"] = [{"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "45"}]  # seconds from SIGTERM to SIGKILL
    if kube.log_format != "text":
        container["env"].append({"name": "OFA_LOG_FORMAT", "value": kube.log_format})
    container["volumeMounts"] = [{"name": "config", "mountPath": MOUNT, "readOnly": True}]
    keep = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    steady = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in SPOT_LABELS.items()]
    return {
        "metadata": {"labels": labels, "annotations": keep},
        "spec": {
            **_pod("ofa-head", automount=True),
            "priorityClassName": "ofa-head",
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": steady}]}
                }
            },
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": f"{name}-config"}}],
        },
    }


def _workers(group: str, size: Group, image: str, kube: Kube, labels: Doc) -> Doc:
    least = kube.least(size)
    container = _container("ray-worker", image, size.cpus, size.memory_gib, size.disk_gib, size.gpus)
    pod = {**_pod("ofa-worker", automount=False), "priorityClassName": "ofa-worker", "containers": [container]}
    mine = {"matchLabels": {RUN_LABEL: labels[RUN_LABEL], "ofa-cluster.io/group": group}}
    if group == "train":  # its workers exchange gradients in every step
        near = {"labelSelector": mine, "topologyKey": "topology.kubernetes.io/zone"}
        pod["affinity"] = {
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": near}]}
        }
    else:
        spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                  "labelSelector": mine}  # fmt: skip
        pod["topologySpreadConstraints"] = [spread]
    if size.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if kube.spot and group == "search":
        prefer = [
            {"weight": 100, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}}
            for key, value in SPOT_LABELS.items()
        ]
        pod["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": prefer}}
        pod["tolerations"] = [
            *pod.get("tolerations", []),
            *({"key": key, "operator": "Exists"} for key in ("ofa-cluster.io/spot", "cloud.google.com/gke-spot")),
        ]
    return {
        "groupName": group,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": size.max,
        "rayStartParams": {},
        "template": {"metadata": {"labels": {**labels, "ofa-cluster.io/group": group}}, "spec": pod},
    }


def _pod(account: str, *, automount: bool) -> Doc:
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": automount,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "securityContext": _POD,
    }


def _container(name: str, image: str, cpus: int, memory_gib: int, disk_gib: int, gpus: int) -> Doc:
    wanted: Doc = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", "ephemeral-storage": f"{disk_gib}Gi"}
    return {
        "name": name,
        "image": image,
        **_LAST_LINES,
        "resources": {"requests": wanted, "limits": {**wanted, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}},
        "securityContext": _CONTAINER,
        "envFrom": [{"secretRef": {"name": STORE_SECRET, "optional": True}}],
    }
