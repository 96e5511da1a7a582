"""Finds what a cluster would refuse, or accept and execute wrongly, before anything is submitted.

Four kinds of rules: the strict schema of KubeRay's CRDs (unknown fields, types, ranges), what only KubeRay's operator
checks (its utils/validation.go, and its webhook's name rules), what Kubernetes refuses of the pods (`rules.py`), and what
nothing checks: K8sJobMode pastes the entrypoint unquoted into a line of bash. Every message is one line that starts with the
path of the field.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError
from cluster.kube import rules

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Doc = Mapping[str, Any]

JOB_NAME = 47  # KubeRay appends to a job's name; Kubernetes allows 63 characters
CLUSTER_NAME = 53
MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")  # words that a shell takes as they are (shlex.quote's own rule)

_DNS_1035 = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


class LintError(InputError):
    """A manifest that must not be submitted."""


def check(doc: Doc) -> None:
    """Raises a `LintError` with the first mistake of `doc`, a RayJob, a RayCluster or a ConfigMap."""
    found = next(mistakes(doc), None)
    if found is not None:
        raise LintError(f"{doc.get('kind', 'manifest')}: {found}")


def mistakes(doc: Doc) -> Iterator[str]:
    """All mistakes, one line each: those of the schema, or if there are none, those that the operator would report."""
    kind = doc.get("kind")
    if kind == "ConfigMap":
        yield from rules.config_map_mistakes(doc)
        return
    if kind not in ("RayJob", "RayCluster") or doc.get("apiVersion") != "ray.io/v1":
        yield f"kind: {doc.get('apiVersion')} {kind} is neither a RayJob nor a RayCluster of ray.io/v1, nor a ConfigMap"
        return
    by_schema = list(schema_mistakes(doc))
    yield from by_schema or _operator_mistakes(doc)


def schema_mistakes(doc: Doc) -> Iterator[str]:
    """The mistakes that an API server refuses with fieldValidation=Strict."""
    errors = sorted(
        _validator(doc["kind"]).iter_errors(_without_nulls(doc)), key=lambda e: [str(p) for p in e.absolute_path]
    )
    for error in errors:
        yield from _said(error)


@cache
def schema(kind: str) -> dict[str, Any]:
    """The strict schema of a RayJob or RayCluster."""
    packed = (files("cluster.kube") / "schemas" / f"{kind.lower()}-v1.json.gz").read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(packed))
    return found


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(Draft202012Validator, {"x-kubernetes-list-type": _duplicates})(schema(kind))


def _duplicates(validator: Any, list_type: str, items: Any, here: Doc) -> Iterator[ValidationError]:
    """Lists of type map must have distinct keys, those of type set distinct items."""
    if not isinstance(items, list) or list_type not in ("map", "set"):
        return
    properties, names = here.get("items", {}).get("properties", {}), here.get("x-kubernetes-list-map-keys", [])
    from jsonschema.exceptions import ValidationError

    seen = set()
    for item in items:
        keys = [item.get(n, properties.get(n, {}).get("default")) for n in names] if isinstance(item, dict) else item
        key = json.dumps(keys, sort_keys=True)
        if key in seen:
            yield ValidationError(f"{key} stands twice")
        seen.add(key)


def _said(error: ValidationError) -> Iterator[str]:
    where = path_of(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        allowed = error.schema.get("properties", {})
        for name in error.instance:
            if name not in allowed:
                like = _nearest(name, allowed)
                yield f"{_join(where, name)}: no such field{f'; did you mean {like}?' if like else ''}"
    elif error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        yield f"{_join(where, missing[0])}: is missing"
    elif error.validator == "type":
        wanted = error.validator_value
        wanted = " or ".join(wanted) if isinstance(wanted, list) else wanted
        yield f"{where}: {json.dumps(error.instance)[:60]} is no {wanted}"
    elif error.validator == "enum":
        yield f"{where}: is {error.instance!r}; expected one of {', '.join(map(str, error.validator_value))}"
    elif error.validator in ("minimum", "maximum"):
        rule = "less than the least" if error.validator == "minimum" else "more than the most"
        yield f"{where}: {error.instance} is {rule} that is allowed, {error.validator_value}"
    else:
        yield f"{where}: {error.message[:160]}"


def _nearest(name: str, allowed: Mapping[str, Any]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, allowed, 1)
    return near[0] if near else None


def path_of(parts: Sequence[Any]) -> str:
    """The path of a field as text, such as `spec.workerGroupSpecs[0].maxReplicas`."""
    path = ""
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, str(part))
    return path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _without_nulls(doc: Any) -> Any:
    """`doc` as the API server reads it: a null is an absent field."""
    if isinstance(doc, Mapping):
        return {key: _without_nulls(value) for key, value in doc.items() if value is not None}
    return [_without_nulls(item) for item in doc] if isinstance(doc, list) else doc


def _operator_mistakes(doc: Doc) -> Iterator[str]:
    yield from rules.metadata_mistakes(doc.get("metadata", {}), "metadata")
    if doc["kind"] == "RayCluster":
        yield from _name_mistakes(doc, CLUSTER_NAME)
        yield from _cluster_mistakes(doc.get("spec", {}), "spec", of_job=False)
    else:
        yield from _name_mistakes(doc, JOB_NAME)
        yield from _job_mistakes(doc.get("spec", {}))


def _name_mistakes(doc: Doc, most: int) -> Iterator[str]:
    name = doc.get("metadata", {}).get("name", "")
    if not name and doc.get("metadata", {}).get("generateName"):
        return
    if len(name) > most:
        yield f"metadata.name: {name!r} has {len(name)} characters; a {doc['kind']} may have {most}"
    if not _DNS_1035.fullmatch(name):
        yield f"metadata.name: {name!r} is no DNS-1035 name; use small letters, digits and dashes, a letter first"


def _job_mistakes(spec: Doc) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        yield f"spec.submissionMode: is {mode!r}; expected one of {', '.join(MODES)}"
    interactive, selector = mode == "InteractiveMode", bool(spec.get("clusterSelector"))
    retries, ends = spec.get("backoffLimit", 0), bool(spec.get("shutdownAfterJobFinishes"))
    if not spec.get("entrypoint") and not interactive:
        yield "spec.entrypoint: is missing"
    if mode in ("K8sJobMode", "SidecarMode"):
        yield from entrypoint_mistakes(spec.get("entrypoint", ""))
    if bool(spec.get("rayClusterSpec")) == selector:
        yield "spec: expected one of rayClusterSpec and clusterSelector"
    if retries < 0:
        yield f"spec.backoffLimit: {retries} is negative"
    if retries and (interactive or selector):
        yield f"spec.backoffLimit: is {retries}; {'InteractiveMode' if interactive else 'a clusterSelector'} forbids retries"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if name in spec and spec[name] <= 0:
            yield f"spec.{name}: {spec[name]} is not positive; leave it out for no deadline"
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0:
        yield f"spec.ttlSecondsAfterFinished: {ttl} is negative"
    if ttl and not ends:
        yield f"spec.ttlSecondsAfterFinished: is {ttl} without shutdownAfterJobFinishes: true; nothing would be cleaned up"
    if spec.get("suspend") and not ends:
        yield "spec.suspend: needs shutdownAfterJobFinishes: true"
    if spec.get("suspend") and selector:
        yield "spec.suspend: a clusterSelector forbids it"
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if name in spec:
                yield f"spec.{name}: SidecarMode forbids it"
    elif "submitterPodTemplate" in spec:
        yield from rules.template_mistakes(spec["submitterPodTemplate"], "spec.submitterPodTemplate")
    yield from _deletion_mistakes(spec, ends, selector)
    import yaml

    try:
        runtime = yaml.safe_load(spec.get("runtimeEnvYAML", ""))
        if runtime is not None and not isinstance(runtime, dict):
            yield "spec.runtimeEnvYAML: is no YAML mapping"
    except yaml.YAMLError:
        yield "spec.runtimeEnvYAML: is not YAML"
    if mode in ("K8sJobMode", "SidecarMode") and re.search(r"[$`\"\\]", spec.get("runtimeEnvYAML", "")):
        yield "spec.runtimeEnvYAML: stands in double quotes in the submitter's shell; leave out $, `, \" and \\"
    if "rayClusterSpec" in spec:
        yield from _cluster_mistakes(spec["rayClusterSpec"], "spec.rayClusterSpec", of_job=True)
        head = spec["rayClusterSpec"].get("headGroupSpec", {}).get("template", {}).get("spec", {})
        if mode == "SidecarMode" and head.get("restartPolicy", "Never") != "Never":
            yield "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy: SidecarMode needs Never"


def entrypoint_mistakes(entrypoint: str) -> Iterator[str]:
    """The entrypoint is pasted unquoted into bash: only plain words are allowed, the first of them a program."""
    for word in entrypoint.split(" "):
        if not SAFE.fullmatch(word):
            odd = next((c for c in word if not SAFE.fullmatch(c)), " ")
            found = "two spaces" if not word else repr(odd)
            yield (
                f"spec.entrypoint: {found} in {entrypoint[:80]!r} would be read by the submitter's shell; "
                "use plain words with single spaces, and put parameters in the mounted config"
            )
            return
    if "=" in entrypoint.split(" ")[0]:
        yield f"spec.entrypoint: {entrypoint.split(' ')[0]!r} sets a variable of the submitter; begin with a program"


def _deletion_mistakes(spec: Doc, ends: bool, selector: bool) -> Iterator[str]:
    rules = (spec.get("deletionStrategy") or {}).get("deletionRules")
    if not rules:
        return
    where = "spec.deletionStrategy.deletionRules"
    if ends or spec.get("ttlSecondsAfterFinished"):
        yield f"{where}: exclude shutdownAfterJobFinishes and ttlSecondsAfterFinished"
    seen = Counter((rule["policy"], json.dumps(_condition(rule), sort_keys=True)) for rule in rules)
    if max(seen.values()) > 1:
        yield f"{where}: two rules have the same policy and condition"
    autoscaled = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling")
    for i, rule in enumerate(rules):
        if rule["policy"] == "DeleteWorkers" and autoscaled:
            yield f"{where}[{i}].policy: DeleteWorkers does not go with the autoscaler"
        if rule["policy"] in ("DeleteWorkers", "DeleteCluster") and selector:
            yield f"{where}[{i}].policy: a clusterSelector forbids {rule['policy']}"
        if rule["condition"].get("ttlSeconds", 0) < 0:
            yield f"{where}[{i}].condition.ttlSeconds: is negative"
        if ("jobStatus" in rule["condition"]) == ("jobDeploymentStatus" in rule["condition"]):
            yield f"{where}[{i}].condition: expected one of jobStatus and jobDeploymentStatus"
    order = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
    for condition in {json.dumps(_condition(rule), sort_keys=True) for rule in rules}:
        same = [rule for rule in rules if json.dumps(_condition(rule), sort_keys=True) == condition]
        seconds = [rule["condition"].get("ttlSeconds", 0) for name in order for rule in same if rule["policy"] == name]
        if seconds != sorted(seconds):
            yield f"{where}: ttlSeconds must not fall from DeleteWorkers to DeleteCluster to DeleteSelf"


def _condition(rule: Doc) -> dict[str, Any]:
    return {key: value for key, value in rule["condition"].items() if key != "ttlSeconds"}


def _cluster_mistakes(spec: Doc, where: str, *, of_job: bool) -> Iterator[str]:
    head, groups = spec.get("headGroupSpec", {}), spec.get("workerGroupSpecs", [])
    autoscaled, options = bool(spec.get("enableInTreeAutoscaling")), spec.get("autoscalerOptions") or {}
    version = options.get("version")
    yield from rules.resource_mistakes(options.get("resources") or {}, f"{where}.autoscalerOptions.resources")
    yield from _group_mistakes(head, f"{where}.headGroupSpec", autoscaled and version == "v2")
    names = Counter(group.get("groupName", "") for group in groups)
    for i, group in enumerate(groups):
        here, name = f"{where}.workerGroupSpecs[{i}]", group.get("groupName", "")
        if rules.dns_label(name):
            yield f"{here}.groupName: {name!r} is no DNS-1123 name; use small letters, digits and dashes, at most 63"
        if names[name] > 1:
            yield f"{here}.groupName: {name!r} stands twice"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        for field in ("minReplicas", "maxReplicas", "replicas"):
            if group.get(field, 0) < 0:
                yield f"{here}.{field}: {group[field]} is negative"
        if least > most:
            yield f"{here}: minReplicas is {least}, more than maxReplicas ({most})"
        if "idleTimeoutSeconds" in group and version != "v2":
            yield f"{here}.idleTimeoutSeconds: needs autoscalerOptions.version: v2"
        if "priority" in group and (version != "v2" or _version(spec) < (2, 56)):
            yield f"{here}.priority: needs autoscalerOptions.version: v2 and rayVersion 2.56 or later"
        yield from _group_mistakes(group, here, autoscaled and version == "v2")
    auth = spec.get("authOptions") or {}
    if auth.get("mode") == "token" and _version(spec) < (2, 52):
        yield f"{where}.rayVersion: is {spec.get('rayVersion', 'missing')!r}; token authentication needs 2.52 or later"
    if auth.get("enableK8sTokenAuth") and of_job:
        yield f"{where}.authOptions.enableK8sTokenAuth: is not for RayJobs"
    collector = (spec.get("historyServerOptions") or {}).get("collectorOptions")
    if collector is not None:
        yield from _collector_mistakes(collector, f"{where}.historyServerOptions.collectorOptions")
        if _version(spec) < (2, 58):
            yield f"{where}.rayVersion: is {spec.get('rayVersion', 'missing')!r}; historyServerOptions need 2.58 or later"
    variables = {v.get("name"): v.get("value") for c in _containers(head) for v in c.get("env", [])}
    if "RAY_enable_autoscaler_v2" in variables and (version or not autoscaled):
        yield f"{where}.headGroupSpec: RAY_enable_autoscaler_v2 in env; set autoscalerOptions.version instead"
    for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
        if name in variables:
            yield f"{where}.headGroupSpec: {name} in env; use gcsFaultToleranceOptions"


_OF_KUBERAY = (
    "POD_IP", "FQ_RAY_IP", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_ROLE", "OWNER_KIND", "OWNER_NAME",
    "EVENTS_PORT",
)  # fmt: skip
_BACKENDS = {"S3": "S3_REGION", "GCS": "GCS_BUCKET"}  # of a collector, with the variable that each needs


def _collector_mistakes(collector: Doc, where: str) -> Iterator[str]:
    """The mistakes of the History Server's collector that KubeRay's operator reports."""
    if not collector.get("image"):
        yield f"{where}.image: is missing"
    else:
        yield from rules.image_mistakes(collector["image"], f"{where}.image")
    yield from rules.resource_mistakes(collector.get("resources") or {}, f"{where}.resources")
    given = {v["name"]: v for v in collector.get("env") or []}
    for name in _OF_KUBERAY:
        if name in given:
            yield f"{where}.env: {name} is set by KubeRay; leave it out"
    backend = str(given.get("STORAGE_BACKEND", {}).get("value", ""))
    needed = _BACKENDS.get(backend.upper(), "")
    if not backend:
        yield f"{where}.env: STORAGE_BACKEND is missing; give it a value"
    elif needed and not (given.get(needed, {}).get("value") or given.get(needed, {}).get("valueFrom")):
        yield f"{where}.env: {needed} is missing; STORAGE_BACKEND {backend} needs it"


def _version(spec: Doc) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", spec.get("rayVersion", "0"))[:2])


def _containers(group: Doc) -> list[Doc]:
    found: list[Doc] = group.get("template", {}).get("spec", {}).get("containers", [])
    return found


def _group_mistakes(group: Doc, where: str, autoscaler_v2: bool) -> Iterator[str]:
    params = group.get("rayStartParams") or {}
    if group.get("resources"):
        for name in ("num-cpus", "num-gpus", "memory", "resources"):
            if name in params:
                yield f"{where}.rayStartParams.{name}: does not go with resources of the group"
    if "labels" in params:
        yield f"{where}.rayStartParams.labels: use labels of the group"
    yield from rules.template_mistakes(group.get("template", {}), f"{where}.template")
    policy = group.get("template", {}).get("spec", {}).get("restartPolicy")
    if autoscaler_v2 and policy not in (None, "Never"):
        yield f"{where}.template.spec.restartPolicy: is {policy!r}; the autoscaler v2 needs Never"
