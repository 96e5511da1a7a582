"""Check what is missing for runs on a cluster, and print how to get it.

    ofa doctor --store s3://bucket/prefix

Only reads, except for one small object that it writes to the store and deletes.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cluster.errors import InputError, StepError
from cluster.kube.api import Api, NotThere
from cluster.store import open_store

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
SETUP = "kubectl apply -k k8s/overlays/local, eks or gke"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, what was found, and what to do if it failed."""

    name: str
    ok: bool
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
        yield from kuberay(api)
        yield from permissions(api)
        yield from namespaced(api)
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


def kuberay(api: Api) -> Iterator[Check]:
    """Checks that KubeRay is installed in a version that supports the submitted fields."""
    path, advice = "apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayjobs.ray.io", "install KubeRay 1.6 or later"
    try:
        crd = api.request("GET", path)
    except NotThere:
        yield Check("KubeRay", False, "no CRD rayjobs.ray.io", advice)
        return
    except InputError as error:
        yield Check("KubeRay", True, f"not allowed to look at its CRD ({error}); the server's dry run will tell")
        return
    versions = {v["name"]: v for v in crd["spec"]["versions"] if v.get("served")}
    fields = (versions.get("v1", {}).get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})).get(
        "properties", {}
    )
    new = "preRunningDeadlineSeconds" in fields
    found = f"CRD rayjobs.ray.io {', '.join(versions)}, {'1.6 or later' if new else 'before 1.6'}"
    yield Check("KubeRay", new, found, f"{advice}; its CRDs with kubectl replace or apply --server-side")


def permissions(api: Api) -> Iterator[Check]:
    """Asks the server for every permission that a command needs."""
    for (group, resource, sub), verbs in NEEDS.items():
        name, missing = f"{resource}/{sub}" if sub else resource, []
        for verb in verbs:
            asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                      "spec": {"resourceAttributes": asked}}  # fmt: skip
            answer = api.request("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            if not (answer.get("status") or {}).get("allowed"):
                missing.append(verb)
        found = f"may not {', '.join(missing)}" if missing else f"may {', '.join(verbs)}"
        yield Check(f"right to {name}", not missing, found, f"bind the role ofa-user in namespace {api.namespace}")


def namespaced(api: Api) -> Iterator[Check]:
    """Checks the service accounts of the pods; Secrets are not read."""
    for name in ACCOUNTS:
        try:
            there = api.find("ServiceAccount", name) is not None
        except InputError as error:
            yield Check(f"account {name}", True, f"not allowed to look ({error})")
            continue
        found = "there" if there else f"not in namespace {api.namespace}"
        yield Check(f"account {name}", there, found, SETUP)


def bucket(store: str) -> Check:
    """Writes, reads and deletes an object with the credentials of this machine; pods have their own."""
    key, data = f"doctor-{uuid.uuid4().hex}", b"ofa doctor"
    try:
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
