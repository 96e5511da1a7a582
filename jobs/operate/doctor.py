"""Check what is missing for runs on a cluster, and print how to get it.

    ofa doctor --store s3://bucket/prefix

Only reads, except for one small object that it writes to the store and deletes. What it may not look at is unknown, not ok.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.errors import InputError, StepError
from cluster.kube.api import Api, NotThere
from cluster.kube.troubles import moment
from cluster.store import exists, open_output, open_store

RAY = (2, 60)  # the version of the images and manifests
NEEDS = {  # what the command line does to each resource: the role ofa-user
    ("ray.io", "rayjobs", ""): ("create", "get", "list", "watch", "patch", "delete"),
    ("ray.io", "rayclusters", ""): ("get", "update"),
    ("", "configmaps", ""): ("create", "get", "delete"),
    ("", "pods", ""): ("list", "get"),
    ("", "pods", "log"): ("get",),
    ("", "events", ""): ("list",),
    ("", "resourcequotas", ""): ("list",),
    ("", "services", "proxy"): ("create",),
}
ACCOUNTS = ("ofa-head", "ofa-worker", "ofa-submitter")
PRIORITIES = ("ofa-head", "ofa-worker")
OPERATOR = "kuberay-operator"  # the usual name of its Deployment, by which the role ofa-doctor may read it
OPERATOR_IN = ("ray-system", "kuberay-operator", "kuberay", "default")  # usual namespaces
OPERATOR_LABELS = "app.kubernetes.io/name in (kuberay, kuberay-operator)"
ANSWERS_S = 60.0  # in which an operator that runs gives a new RayJob a status
RECENT_S = 3600.0  # age of a status that shows that an operator runs
SETUP = "kubectl apply -k k8s/overlays/local, eks or gke"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed (None: it could not be looked at), what was found, and what to do then."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def checks(namespace: str, context: str | None, store: str | None) -> Iterator[Check]:
    """All checks, from this machine to the bucket; a check whose precondition failed is left out."""
    yield from local()
    try:
        api = Api.connect(namespace, context)
        answer = api.request("GET", "version")
    except (InputError, StepError) as error:
        yield Check("cluster", False, str(error), "set KUBECONFIG, or give --context")
    else:
        yield Check("cluster", True, f"{api.server}, Kubernetes {answer.get('gitVersion', 'of unknown version')}")
        yield kuberay(api)
        yield operator(api)
        yield from permissions(api)
        yield namespace_of(api)
        yield from accounts(api)
        yield from priorities(api)
    if store is not None:
        yield bucket(store)


def local() -> Iterator[Check]:
    """Checks versions on this machine."""
    python = sys.version_info[:2]
    found = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", (3, 11) <= python <= (3, 12), found, "use Python 3.11 or 3.12")
    for package in ("ray", "kubernetes"):
        try:
            number = version(package)
        except PackageNotFoundError:
            yield Check(package, False, "not installed", f"pip install {package}")
            continue
        right = package != "ray" or tuple(int(part) for part in number.split(".")[:2]) == RAY
        yield Check(package, right, number, f"the images have Ray {RAY[0]}.{RAY[1]}: pip install 'ray=={RAY[0]}.{RAY[1]}.*'")


def unknown(name: str, error: InputError | StepError, advice: str) -> Check:
    """A check of something that may not be looked at, or about which the server gives no answer."""
    return Check(name, None, f"cannot be looked at ({error})", advice)


def kuberay(api: Api) -> Check:
    """Checks that KubeRay is installed in a version that supports the submitted fields."""
    path, advice = "apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayjobs.ray.io", "install KubeRay 1.6 or later"
    try:
        crd = api.request("GET", path)
    except NotThere:
        return Check("KubeRay", False, "no CRD rayjobs.ray.io", advice)
    except (InputError, StepError) as error:
        return unknown("KubeRay", error, "the server's dry run in `ofa submit` shows it")
    versions = {v["name"]: v for v in crd["spec"]["versions"] if v.get("served")}
    fields = (versions.get("v1", {}).get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})).get(
        "properties", {}
    )
    new = "preRunningDeadlineSeconds" in fields
    found = f"CRD rayjobs.ray.io {', '.join(versions)}, {'1.6 or later' if new else 'before 1.6'}"
    return Check("KubeRay", new, found, f"{advice}; its CRDs with kubectl replace or apply --server-side")


def operator(api: Api) -> Check:
    """Checks that KubeRay's operator runs: by its Deployment in any namespace, or by the statuses that it has written."""
    name, advice = (
        "operator",
        f"install KubeRay's operator, or see why it does not run: kubectl get pods -A | grep {OPERATOR}",
    )
    try:
        jobs, why_jobs = api.list("RayJob"), None
    except (InputError, StepError) as error:  # without the CRD, or without the right to list
        jobs, why_jobs = [], error
    ignored = [job["metadata"] for job in jobs if not job.get("status") and _age_s(_created(job)) > ANSWERS_S]
    latest = max((time for job in jobs for time in _status_times(job)), default=None)
    try:
        deployments, why = _deployments(api), None
    except (InputError, StepError) as error:
        deployments, why = [], error
    if ignored:
        words = f"RayJob {ignored[0]['name']} of {ignored[0]['creationTimestamp']} has no status"
        return Check(name, False, f"{words}: no operator has looked at it", advice)
    ready = [d for d in deployments if (d.get("status") or {}).get("availableReplicas", 0) > 0]
    for deployment in ready or deployments:
        where = f"Deployment {deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
        return Check(name, bool(ready), f"{where} has {'an' if ready else 'no'} available pod", advice)
    if latest is not None and _age_s(latest) <= RECENT_S:
        return Check(name, True, f"the latest status of a RayJob is {_age_s(latest) / 60:.0f} min old")
    if why is None:
        words = f"no Deployment {OPERATOR} in any namespace, and no RayJob with a status of the last hour"
        return Check(name, False, words, advice)
    found = f"its Deployment cannot be looked at ({why}), and no RayJob has a status of the last hour"
    return Check(name, None, f"{found}{f' ({why_jobs})' if why_jobs else ''}", advice)


def _deployments(api: Api) -> list[dict[str, Any]]:
    """The operator's Deployments in all namespaces; those of the usual name where only these may be read."""
    try:
        return api.request("GET", "apis/apps/v1/deployments", labelSelector=OPERATOR_LABELS).get("items") or []
    except InputError as error:
        found = []
        for namespace in OPERATOR_IN:
            try:
                found.append(api.request("GET", f"apis/apps/v1/namespaces/{namespace}/deployments/{OPERATOR}"))
            except NotThere:
                continue
            except InputError:
                raise error from None
        if not found:
            raise InputError(f"none called {OPERATOR} in {', '.join(OPERATOR_IN)}; others: {error}") from None
        return found


def _created(job: dict[str, Any]) -> datetime:
    return moment(job["metadata"].get("creationTimestamp")) or datetime.now(UTC)


def _status_times(job: dict[str, Any]) -> Iterator[datetime]:
    """The times at which a RayJob's status was written, as far as the object has them."""
    status, managed = job.get("status") or {}, job["metadata"].get("managedFields") or []
    written = [entry.get("time") for entry in managed if entry.get("subresource") == "status"]
    for text in (status.get("startTime"), status.get("endTime"), *written):
        if (time := moment(text)) is not None:
            yield time


def _age_s(time: datetime) -> float:
    return (datetime.now(UTC) - time) / timedelta(seconds=1)


def permissions(api: Api) -> Iterator[Check]:
    """Asks the server for every permission that a command needs."""
    for (group, resource, sub), verbs in NEEDS.items():
        name, missing = f"{resource}/{sub}" if sub else resource, []
        advice = f"bind the role ofa-user in namespace {api.namespace}"
        try:
            for verb in verbs:
                asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
                review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                          "spec": {"resourceAttributes": asked}}  # fmt: skip
                answer = api.request("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
                if not (answer.get("status") or {}).get("allowed"):
                    missing.append(verb)
        except (InputError, StepError) as error:
            yield unknown(f"right to {name}", error, advice)
            continue
        found = f"may not {', '.join(missing)}" if missing else f"may {', '.join(verbs)}"
        yield Check(f"right to {name}", not missing, found, advice)


def namespace_of(api: Api) -> Check:
    """Checks the namespace, by reading it, or where that is not allowed by the dry run of an object in it."""
    name = f"namespace {api.namespace}"
    try:
        phase = (api.request("GET", f"api/v1/namespaces/{api.namespace}").get("status") or {}).get("phase", "Active")
        return Check(name, phase == "Active", "there" if phase == "Active" else f"is {phase}", SETUP)
    except NotThere:
        return Check(name, False, "not there", SETUP)
    except (InputError, StepError) as first:
        probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"ofa-doctor-{uuid.uuid4().hex[:8]}"}}
        try:
            api.create(probe, dry_run=True)
        except NotThere:
            return Check(name, False, "not there", SETUP)
        except (InputError, StepError):
            return unknown(name, first, SETUP)
        return Check(name, True, "there: the server would create an object in it")


def accounts(api: Api) -> Iterator[Check]:
    """Checks the service accounts of the pods; Secrets are not read."""
    for name in ACCOUNTS:
        try:
            there = api.find("ServiceAccount", name) is not None
        except (InputError, StepError) as error:
            yield unknown(f"account {name}", error, SETUP)
            continue
        yield Check(f"account {name}", there, "there" if there else f"not in namespace {api.namespace}", SETUP)


def priorities(api: Api) -> Iterator[Check]:
    """Checks the PriorityClasses of the pods; without them no pod is created."""
    for name in PRIORITIES:
        try:
            value = api.request("GET", f"apis/scheduling.k8s.io/v1/priorityclasses/{name}").get("value", 0)
        except NotThere:
            yield Check(f"priority {name}", False, "no such PriorityClass", SETUP)
        except (InputError, StepError) as error:
            yield unknown(f"priority {name}", error, SETUP)
        else:
            yield Check(f"priority {name}", True, f"a PriorityClass of value {value}")


def bucket(store: str) -> Check:
    """Writes, reads and deletes an object with the credentials of this machine; pods have their own."""
    key, data = f"doctor-{uuid.uuid4().hex}", b"ofa doctor"
    try:
        if not exists(store):
            return Check("store", True, f"{open_output(store).url}: not there yet, a run can make it")
        opened = open_store(store)
        created, again = opened.create(key, data), opened.create(key, data)
        read = opened.read(key)
        opened.delete(key)
    except (InputError, StepError) as error:
        return Check("store", False, str(error), "see the line itself")
    if not created or again or read != data:
        words = "does not keep what is written, or does not refuse to write it twice (If-None-Match)"
        return Check("store", False, f"{store} {words}", "use a store that can: AWS S3, GCS, MinIO, Ceph")
    return Check("store", True, f"{opened.url}: written, read and removed")
