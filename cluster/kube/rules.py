"""What an API server or a kubelet refuses of objects that the schemas allow: names, labels, images, quantities, pod specs.

KubeRay's schemas only have the types of these fields: a RayJob whose pods can never be created is accepted, and fails later.
Rules are those of Kubernetes 1.29 (pkg/apis/core/validation). Every function yields lines that begin with the path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

Doc = Mapping[str, Any]

LABEL = 63  # characters of a DNS-1123 label, a label's value and the name part of a label's key
SUBDOMAIN = 253
ANNOTATIONS = 256 * 2**10  # bytes of all annotations of an object
CONFIG_MAP = 2**20  # bytes of all values of a ConfigMap

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?", re.ASCII)
_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
          **{unit: Decimal(1000) ** (n + 1) for n, unit in enumerate("kMGTPE")},
          **{f"{unit}i": Decimal(1024) ** (n + 1) for n, unit in enumerate("KMGTPE")}}  # fmt: skip
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::\d+)?/)?{_PATH}(?:/{_PATH})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?", re.ASCII
)


# Single texts: what is wrong with them, or None


def dns_label(text: str) -> str | None:
    """What keeps a text from being a DNS-1123 label, such as the name of a namespace."""
    if len(text) <= LABEL and _DNS_LABEL.fullmatch(text):
        return None
    return f"expected small letters, digits and dashes, no dash at the ends, at most {LABEL} characters"


def dns_subdomain(text: str) -> str | None:
    """What keeps a text from being a DNS-1123 subdomain, such as the name of a Secret."""
    if len(text) <= SUBDOMAIN and _DNS_SUBDOMAIN.fullmatch(text):
        return None
    return f"expected small letters, digits, dashes and dots, a letter or digit at the ends, at most {SUBDOMAIN} characters"


def qualified(text: str) -> str | None:
    """What keeps a text from being the key of a label, an annotation, a taint or a resource."""
    prefix, slash, name = text.rpartition("/")
    if len(name) <= LABEL and _NAME.fullmatch(name) and (not slash or dns_subdomain(prefix) is None):
        return None
    return f"expected name or domain/name, the name of letters, digits, '-', '_' and '.', at most {LABEL} characters"


def label_value(text: str) -> str | None:
    """What keeps a text from being the value of a label."""
    if text == "" or (len(text) <= LABEL and _NAME.fullmatch(text)):
        return None
    return f"expected letters, digits, '-', '_' and '.', a letter or digit at the ends, at most {LABEL} characters"


def image(text: str) -> str | None:
    """What keeps a text from being the reference of an image."""
    host, slash, _ = text.partition("/")
    named = re.split(r"@|:(?=[^/]*$)", text)[0]
    if len(named) <= 255 and _IMAGE.fullmatch(text):
        if slash and host != host.lower() and "." not in host and ":" not in host:
            return "expected small letters in the image's name"
        return None
    return "expected [registry[:port]/]name[:tag][@sha256:64 hexadecimal digits], the name in small letters, no spaces"


def queue_name(text: str) -> str | None:
    """What keeps a text from being the name of a Kueue LocalQueue, which is the value of a label."""
    return dns_subdomain(text) if len(text) <= LABEL else f"expected at most {LABEL} characters"


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: 500m is 0.5, 2Gi is 2147483648; a `ValueError` for anything else."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity; expected a number with a unit, such as 500m, 2 or 8Gi")
    number, unit = found.groups()
    if unit and unit[0] in "eE" and len(unit) > 1 and unit != "Ei":
        return float(f"{number}{unit}")
    return float(Decimal(number) * _UNITS.get(unit or "", Decimal(1)))


# Objects


def metadata_mistakes(metadata: Doc, where: str, *, namespace: bool = True) -> Iterator[str]:
    """The mistakes of an object's metadata, apart from its name, whose rules its kind decides."""
    if namespace and "namespace" in metadata:
        yield from _wrong(f"{where}.namespace", metadata["namespace"], dns_label)
    for key, value in (metadata.get("labels") or {}).items():
        yield from _wrong(f"{where}.labels", key, qualified)
        yield from _wrong(f"{where}.labels.{key}", value, label_value)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _wrong(f"{where}.annotations", key, lambda text: qualified(text.lower()))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > ANNOTATIONS:
        yield f"{where}.annotations: have {size} bytes; an object may have {ANNOTATIONS}"


def config_map_mistakes(doc: Doc) -> Iterator[str]:
    """The mistakes of a ConfigMap."""
    yield from _wrong("metadata.name", doc.get("metadata", {}).get("name", ""), dns_subdomain)
    yield from metadata_mistakes(doc.get("metadata", {}), "metadata")
    data = doc.get("data") or {}
    for key in data:
        if len(key) > SUBDOMAIN or not _KEY.fullmatch(key) or key in (".", ".."):
            yield f"data: {key!r} is no key; expected letters, digits, '-', '_' and '.'"
    size = sum(len(value.encode()) for value in data.values())
    if size > CONFIG_MAP:
        yield f"data: has {size} bytes; a ConfigMap may have {CONFIG_MAP}: shorten the config"


def template_mistakes(template: Doc, where: str) -> Iterator[str]:
    """The mistakes of a pod template."""
    yield from metadata_mistakes(template.get("metadata") or {}, f"{where}.metadata", namespace=False)
    spec, here = template.get("spec") or {}, f"{where}.spec"
    containers = [(f"{here}.{kind}[{i}]", container) for kind in ("initContainers", "containers")
                  for i, container in enumerate(spec.get(kind) or [])]  # fmt: skip
    if not spec.get("containers"):
        yield f"{here}.containers: is empty; a pod has at least one container"
    yield from _twice(f"{here}.containers", [container.get("name", "") for _, container in containers])
    volumes = {volume.get("name", "") for volume in spec.get("volumes") or []}
    for place, container in containers:
        yield from _container_mistakes(container, place, volumes)
    yield from _volume_mistakes(spec, here)
    for name in ("serviceAccountName", "priorityClassName", "runtimeClassName"):
        if spec.get(name):
            yield from _wrong(f"{here}.{name}", spec[name], dns_subdomain)
    for i, secret in enumerate(spec.get("imagePullSecrets") or []):
        yield from _wrong(f"{here}.imagePullSecrets[{i}].name", secret.get("name", ""), dns_subdomain)
    yield from _one_of(spec, f"{here}.restartPolicy", ("Always", "OnFailure", "Never"))
    yield from _at_least(spec, f"{here}.terminationGracePeriodSeconds", 0)
    yield from _at_least(spec, f"{here}.activeDeadlineSeconds", 1)
    yield from _user_mistakes(spec.get("securityContext") or {}, f"{here}.securityContext")
    yield from _placement_mistakes(spec, here)


def image_mistakes(text: Any, where: str) -> Iterator[str]:
    """The mistakes of the name of a container image."""
    yield from _wrong(where, text, image)


def _container_mistakes(container: Doc, where: str, volumes: set[str]) -> Iterator[str]:
    yield from _wrong(f"{where}.name", container.get("name", ""), dns_label)
    yield from _wrong(f"{where}.image", container.get("image", ""), image)
    yield from _one_of(container, f"{where}.imagePullPolicy", ("Always", "IfNotPresent", "Never"))
    yield from _one_of(container, f"{where}.terminationMessagePolicy", ("File", "FallbackToLogsOnError"))
    for i, variable in enumerate(container.get("env") or []):
        name = variable.get("name", "")
        if not _VARIABLE.fullmatch(name) or name == "." or name.startswith(".."):
            yield f"{where}.env[{i}].name: {name!r} is no variable; expected letters, digits, '_', '-', '.'"
        if variable.get("value") and variable.get("valueFrom"):
            yield f"{where}.env[{i}]: expected one of value and valueFrom"
    for i, source in enumerate(container.get("envFrom") or []):
        for kind in ("secretRef", "configMapRef"):
            if kind in source:
                yield from _wrong(f"{where}.envFrom[{i}].{kind}.name", source[kind].get("name", ""), dns_subdomain)
    for i, port in enumerate(container.get("ports") or []):
        if not 1 <= port.get("containerPort", 0) <= 65535:
            yield f"{where}.ports[{i}].containerPort: {port.get('containerPort')} is no port; expected 1 to 65535"
    yield from _twice(f"{where}.ports", [port["name"] for port in container.get("ports") or [] if port.get("name")])
    for i, mount in enumerate(container.get("volumeMounts") or []):
        if mount.get("name") not in volumes:
            yield f"{where}.volumeMounts[{i}].name: the pod has no volume {mount.get('name')!r}"
        if not mount.get("mountPath") or ":" in mount["mountPath"]:
            yield f"{where}.volumeMounts[{i}].mountPath: {mount.get('mountPath')!r} is no path without a colon"
    yield from _twice(f"{where}.volumeMounts", [mount.get("mountPath", "") for mount in container.get("volumeMounts") or []])
    yield from _user_mistakes(container.get("securityContext") or {}, f"{where}.securityContext")
    yield from resource_mistakes(container.get("resources") or {}, f"{where}.resources")


def resource_mistakes(resources: Doc, where: str) -> Iterator[str]:
    """The mistakes of requests and limits: quantities that are none or negative, and requests beyond their limit."""
    numbers: dict[str, dict[str, float]] = {"requests": {}, "limits": {}}
    for kind, found in numbers.items():
        for name, text in (resources.get(kind) or {}).items():
            here = f"{where}.{kind}.{name}"
            yield from _wrong(f"{where}.{kind}", name, qualified)
            try:
                number = quantity(text)
            except ValueError as error:
                yield f"{here}: {error}"
                continue
            if number < 0:
                yield f"{here}: {text!r} is negative"
            elif number >= 2**63:
                yield f"{here}: {text!r} is more than 2^63"
            elif name == "cpu" and number * 1000 != int(number * 1000):
                yield f"{here}: {text!r} is finer than 1m"
            elif "/" in name and number != int(number):
                yield f"{here}: {text!r} is no whole number"
            found[name] = number
    for name, asked in numbers["requests"].items():
        limit = numbers["limits"].get(name)
        if limit is not None and asked > limit:
            yield f"{where}.requests.{name}: {resources['requests'][name]!r} is more than its limit"
        if "/" in name and asked != (limit if limit is not None else asked + 1):
            yield f"{where}.requests.{name}: needs a limit of the same number"


def _volume_mistakes(spec: Doc, where: str) -> Iterator[str]:
    volumes = spec.get("volumes") or []
    for i, volume in enumerate(volumes):
        here = f"{where}.volumes[{i}]"
        yield from _wrong(f"{here}.name", volume.get("name", ""), dns_label)
        sources = [kind for kind in volume if kind != "name"]
        if len(sources) > 1:
            yield f"{here}: expected one source, found {', '.join(sources)}"
        for kind, name in (("configMap", "name"), ("secret", "secretName"), ("persistentVolumeClaim", "claimName")):
            if kind in volume:
                yield from _wrong(f"{here}.{kind}.{name}", volume[kind].get(name, ""), dns_subdomain)
        if (size := (volume.get("emptyDir") or {}).get("sizeLimit")) is not None:
            yield from resource_mistakes({"limits": {"sizeLimit": size}}, f"{here}.emptyDir")
    yield from _twice(f"{where}.volumes", [volume.get("name", "") for volume in volumes])


def _user_mistakes(context: Doc, where: str) -> Iterator[str]:
    for name in ("runAsUser", "runAsGroup", "fsGroup"):
        if not 0 <= context.get(name, 0) < 2**31:
            yield f"{where}.{name}: {context[name]} is no id; expected 0 to 2147483647"
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield f"{where}.runAsUser: is 0 with runAsNonRoot: true"


# Where pods are placed


def _placement_mistakes(spec: Doc, where: str) -> Iterator[str]:
    for key, value in (spec.get("nodeSelector") or {}).items():
        yield from _wrong(f"{where}.nodeSelector", key, qualified)
        yield from _wrong(f"{where}.nodeSelector.{key}", value, label_value)
    for i, toleration in enumerate(spec.get("tolerations") or []):
        yield from _toleration_mistakes(toleration, f"{where}.tolerations[{i}]")
    affinity = spec.get("affinity") or {}
    nodes, here = affinity.get("nodeAffinity") or {}, f"{where}.affinity.nodeAffinity"
    required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
    terms = [(f"{here}.{required}.nodeSelectorTerms[{i}]", term)
             for i, term in enumerate((nodes.get(required) or {}).get("nodeSelectorTerms") or [])]  # fmt: skip
    for i, weighted in enumerate(nodes.get(preferred) or []):
        yield from _weight(weighted, f"{here}.{preferred}[{i}]")
        terms.append((f"{here}.{preferred}[{i}].preference", weighted.get("preference") or {}))
    for place, term in terms:
        yield from _expression_mistakes(term, place, ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    for kind in ("podAffinity", "podAntiAffinity"):
        pods, here = affinity.get(kind) or {}, f"{where}.affinity.{kind}"
        near = [(f"{here}.{required}[{i}]", term) for i, term in enumerate(pods.get(required) or [])]
        for i, weighted in enumerate(pods.get(preferred) or []):
            yield from _weight(weighted, f"{here}.{preferred}[{i}]")
            near.append((f"{here}.{preferred}[{i}].podAffinityTerm", weighted.get("podAffinityTerm") or {}))
        for place, term in near:
            yield from _wrong(f"{place}.topologyKey", term.get("topologyKey", ""), qualified)
            yield from _selector_mistakes(term.get("labelSelector") or {}, f"{place}.labelSelector")
    spreads = spec.get("topologySpreadConstraints") or []
    for i, spread in enumerate(spreads):
        here = f"{where}.topologySpreadConstraints[{i}]"
        yield from _at_least(spread, f"{here}.maxSkew", 1)
        yield from _wrong(f"{here}.topologyKey", spread.get("topologyKey", ""), qualified)
        yield from _one_of(spread, f"{here}.whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"))
        yield from _selector_mistakes(spread.get("labelSelector") or {}, f"{here}.labelSelector")
    yield from _twice(f"{where}.topologySpreadConstraints",
                      [f"{s.get('topologyKey')} {s.get('whenUnsatisfiable')}" for s in spreads])  # fmt: skip


def _toleration_mistakes(toleration: Doc, where: str) -> Iterator[str]:
    key, value, operator = toleration.get("key", ""), toleration.get("value", ""), toleration.get("operator") or "Equal"
    if key:
        yield from _wrong(f"{where}.key", key, qualified)
    elif operator != "Exists":
        yield f"{where}.operator: an empty key needs Exists"
    yield from _one_of({"operator": operator}, f"{where}.operator", ("Exists", "Equal"))
    if operator == "Exists" and value:
        yield f"{where}.value: is {value!r}; Exists has none"
    elif value:
        yield from _wrong(f"{where}.value", value, label_value)
    if toleration.get("effect"):
        yield from _one_of(toleration, f"{where}.effect", ("NoSchedule", "PreferNoSchedule", "NoExecute"))
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        yield f"{where}.tolerationSeconds: needs the effect NoExecute"


def _expression_mistakes(term: Doc, where: str, operators: Sequence[str]) -> Iterator[str]:
    for i, expression in enumerate(term.get("matchExpressions") or []):
        here, operator = f"{where}.matchExpressions[{i}]", expression.get("operator", "")
        values = expression.get("values") or []
        yield from _wrong(f"{here}.key", expression.get("key", ""), qualified)
        yield from _one_of({"operator": operator}, f"{here}.operator", operators)
        if (operator in ("In", "NotIn")) != bool(values) and operator not in ("Gt", "Lt"):
            yield f"{here}.values: {operator} has {'at least one' if operator in ('In', 'NotIn') else 'none'}"
        if operator in ("Gt", "Lt") and not (len(values) == 1 and re.fullmatch(r"-?\d+", str(values[0]))):
            yield f"{here}.values: {operator} has one whole number"
        for value in values:
            yield from _wrong(f"{here}.values", value, label_value)


def _selector_mistakes(selector: Doc, where: str) -> Iterator[str]:
    for key, value in (selector.get("matchLabels") or {}).items():
        yield from _wrong(f"{where}.matchLabels", key, qualified)
        yield from _wrong(f"{where}.matchLabels.{key}", value, label_value)
    yield from _expression_mistakes(selector, where, ("In", "NotIn", "Exists", "DoesNotExist"))


# Rules of one field


def _wrong(where: str, text: Any, rule: Any) -> Iterator[str]:
    expected = rule(str(text))
    if expected is not None:
        shown = repr(text) if len(repr(text)) <= 80 else f"{repr(text)[:60]}... ({len(str(text))} characters)"
        yield f"{where}: {shown} is refused by Kubernetes; {expected}"


def _weight(weighted: Doc, where: str) -> Iterator[str]:
    if not 1 <= weighted.get("weight", 0) <= 100:
        yield f"{where}.weight: is {weighted.get('weight')}; expected 1 to 100"


def _one_of(doc: Doc, where: str, allowed: Sequence[str]) -> Iterator[str]:
    name = where.rpartition(".")[2]
    if name in doc and doc[name] not in allowed:
        yield f"{where}: is {doc[name]!r}; expected one of {', '.join(allowed)}"


def _at_least(doc: Doc, where: str, least: int) -> Iterator[str]:
    name = where.rpartition(".")[2]
    if name in doc and doc[name] < least:
        yield f"{where}: is {doc[name]}; expected at least {least}"


def _twice(where: str, names: Sequence[str]) -> Iterator[str]:
    for name, number in Counter(names).items():
        if number > 1:
            yield f"{where}: {name!r} is given {number} times"
