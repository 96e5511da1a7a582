"""What is in k8s/: rendered by kustomize, validated strictly, and asked questions of.

python tests/manifests.py    # writes tests/k8s/golden/ anew, after a change of k8s/ that is meant
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import yaml

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests/k8s/golden"
KUBERNETES = ("1.32", "1.29", "1.37")  # whose schemas are used: the usual one, the oldest and the newest
CUSTOM = {  # kinds that others define, so that no core schema knows them
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    ("karpenter.sh/v1", "NodePool"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
}
RENDERED = {  # a golden file: the overlay, and the components on top of it
    "local": ("local",),
    "eks": ("eks",),
    "gke": ("gke",),
    "eks-gpu-spot-kueue": ("eks", "gpu", "spot", "kueue"),
    "gke-gpu": ("gke", "gpu"),
    "eks-history-monitoring": ("eks", "history", "monitoring"),
}

Doc = dict[str, Any]

# it reads its megabytes of schemas anew for every object
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def render(name: str, k8s: Path = ROOT / "k8s") -> str:
    """What `kubectl kustomize` makes of an overlay with its components."""
    overlay, *components = RENDERED[name]
    with tempfile.TemporaryDirectory() as folder:
        near = Path(os.path.relpath(k8s.resolve(), Path(folder).resolve()))  # kustomize takes no absolute paths
        kustomization = {
            "resources": [str(near / "overlays" / overlay)],
            "components": [str(near / "components" / component) for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a deprecation, for example
    return done.stdout


def kubectl_is_missing() -> str:
    """Why nothing can be rendered here; empty if it can."""
    return "" if shutil.which("kubectl") else "no kubectl; see https://kubernetes.io/docs/tasks/tools"


@cache
def _golden(name: str) -> tuple[Doc, ...]:
    return tuple(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()))


def golden(name: str) -> list[Doc]:
    """The objects of a golden file."""
    return list(_golden(name))


def of_kind(docs: list[Doc], kind: str) -> dict[str, Doc]:
    """The objects of a kind, by name."""
    return {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == kind}


def objections(doc: Doc, kubernetes: str = KUBERNETES[0]) -> list[str]:
    """What the strict schema of its kind says against an object: one line that says where, or none."""
    which = f"{doc['kind']} {doc['metadata']['name']}"
    if (doc["apiVersion"], doc["kind"]) in CUSTOM:
        return []
    try:
        kubernetes_validate.validate(doc, kubernetes, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{which}: no kind {doc['kind']} in {doc['apiVersion']}"]
    except kubernetes_validate.ValidationError as error:
        error = max([error, *error.context], key=lambda e: len(e.absolute_path)) if error.context else error
        return [f"{which}: {'.'.join(str(part) for part in error.absolute_path)}: {error.message}"]
    return []


def pods(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Every pod template in an object, and where it is; RayJobs have several."""
    if doc["kind"] == "Pod":
        yield "", doc
    for where, value in _walk(doc.get("spec", {}), "spec"):
        if isinstance(value, dict) and isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
            yield where, value


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _walk(inner, f"{path}.{key}")


def restricted(template: Doc) -> list[str]:
    """What Kubernetes' restricted pod security standard says against a pod, a line each."""
    spec = template["spec"]
    of_pod = spec.get("securityContext", {})
    found = [f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    volumes = [(volume["name"], set(volume) - {"name"} - allowed) for volume in spec.get("volumes", [])]
    found += [f"volume {name} is a {other.pop()}" for name, other in volumes if other]
    if of_pod.get("sysctls"):
        found.append("sysctls are set")
    for container in [*spec.get("initContainers", []), *spec.get("ephemeralContainers", []), *spec["containers"]]:
        own, name = container.get("securityContext", {}), container["name"]
        if own.get("privileged"):
            found.append(f"{name}: is privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation is not false")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            found.append(f"{name}: does not drop ALL capabilities")
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: adds capabilities")
        if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
            found.append(f"{name}: runAsNonRoot is not true")
        if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
            found.append(f"{name}: runAsUser is 0")
        profile = own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: seccompProfile is {profile}")
        if own.get("procMount", "Default") != "Default":
            found.append(f"{name}: procMount is {own['procMount']}")
        found += [
            f"{name}: port {port['hostPort']} of the host" for port in container.get("ports", []) if port.get("hostPort")
        ]
    return found


class Peer:
    """One end of a connection: a pod of a namespace, or an address outside."""

    def __init__(self, labels: Mapping[str, str] | None = None, namespace: str = "ofa", address: str = "10.244.0.9") -> None:
        self.labels, self.namespace = labels, namespace
        self.address = ipaddress.ip_address(address)


def allowed(policies: list[Doc], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether NetworkPolicies let a connection through, as Kubernetes defines them: both ends must agree."""
    return _let(policies, "Egress", source, target, port, protocol) and _let(
        policies, "Ingress", target, source, port, protocol
    )


def _let(policies: list[Doc], side: str, own: Peer, other: Peer, port: int, protocol: str) -> bool:
    about = [
        policy["spec"]
        for policy in policies
        if side in policy["spec"]["policyTypes"]
        and own.labels is not None
        and own.namespace == policy["metadata"]["namespace"]
        and selects(policy["spec"]["podSelector"], own.labels)
    ]
    if not about:
        return True  # nobody restricts this end
    key, peers = ("ingress", "from") if side == "Ingress" else ("egress", "to")
    for spec in about:
        for rule in spec.get(key, []):
            ports = rule.get("ports")
            if ports and not any(p["port"] == port and p["protocol"] == protocol for p in ports):
                continue
            if peers not in rule or any(
                _is_peer(peer, spec_of, other) for peer in rule[peers] for spec_of in [own.namespace]
            ):
                return True
    return False


def _is_peer(peer: Doc, namespace: str, other: Peer) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        inside = other.address in ipaddress.ip_network(block["cidr"])
        return inside and not any(other.address in ipaddress.ip_network(cidr) for cidr in block.get("except", []))
    if other.labels is None:
        return False
    where = (
        selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
        if "namespaceSelector" in peer
        else other.namespace == namespace
    )
    return where and selects(peer.get("podSelector", {}), other.labels)


def selects(selector: Doc, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(
        {
            "Exists": lambda e: e["key"] in labels,
            "DoesNotExist": lambda e: e["key"] not in labels,
            "In": lambda e: labels.get(e["key"]) in e["values"],
            "NotIn": lambda e: labels.get(e["key"]) not in e["values"],
        }[expression["operator"]](expression)
        for expression in selector.get("matchExpressions", [])
    )


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for rendered in RENDERED:
        (GOLDEN / f"{rendered}.yaml").write_text(render(rendered))
        print(f"wrote {(GOLDEN / rendered).relative_to(ROOT)}.yaml")
