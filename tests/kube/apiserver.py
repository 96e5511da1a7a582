"""A Kubernetes apiserver in one process: the REST conventions that clients rely on, over HTTP, with nothing behind it.

Discovery, create/read/update/patch/delete with resourceVersions, generations, status subresources, finalizers, garbage
collection by owner, dry runs, strict field validation and defaults of KubeRay's CRDs, selectors, watches with bookmarks and
410, pages of lists, logs of pods, a proxy to services, access reviews, and bearer tokens. As a real one it refuses
everything with 403 for a moment after its start, refuses what exceeds a quota with 403, and remarks on rules that it did
not check. Tests also reach into it: `objects`, and the faults below.
"""

from __future__ import annotations

import base64
import copy
import ipaddress
import json
import re
import ssl
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cluster.kube import lint

Doc = dict[str, Any]

RESOURCES = {  # (group/version, plural): (kind, subresources)
    ("v1", "pods"): ("Pod", ("status", "log")),
    ("v1", "configmaps"): ("ConfigMap", ()),
    ("v1", "secrets"): ("Secret", ()),
    ("v1", "events"): ("Event", ()),
    ("v1", "services"): ("Service", ("proxy",)),
    ("v1", "serviceaccounts"): ("ServiceAccount", ()),
    ("v1", "resourcequotas"): ("ResourceQuota", ("status",)),
    ("v1", "namespaces"): ("Namespace", ("status",)),
    ("scheduling.k8s.io/v1", "priorityclasses"): ("PriorityClass", ()),
    ("apps/v1", "deployments"): ("Deployment", ("status",)),
    ("batch/v1", "jobs"): ("Job", ("status",)),
    ("ray.io/v1", "rayjobs"): ("RayJob", ("status",)),
    ("ray.io/v1", "rayclusters"): ("RayCluster", ("status",)),
}
PLURALS = {kind: plural for (_, plural), (kind, _) in RESOURCES.items()}
GROUPS = {kind: group for (group, _), (kind, _) in RESOURCES.items()}
UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
CLUSTERED = ("namespaces", "priorityclasses")  # which are in no namespace
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Refusal(Exception):
    """An error answer: a Status object."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Doc] | None = None) -> None:
        details = {"causes": causes} if causes else {}
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                       "reason": reason, "details": details, "code": code}  # fmt: skip


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ApiServer:
    """The state of a cluster and its server. Methods are what the server's own controllers would call."""

    def __init__(self, token: str = "a-bearer-token") -> None:
        self.token = token
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 100
        self.objects: dict[tuple[str, str, str], Doc] = {}  # by plural, namespace, name
        self.history: list[tuple[int, str, str, Doc]] = []  # version, event, plural, object
        self.oldest = 0  # watches from before this version are told 410
        self.forbidden: set[tuple[str, str]] = set()  # verb, plural[/subresource]
        self.logs: dict[tuple[str, str], list[tuple[str, str]]] = {}  # (time, line) by namespace, pod
        self.proxies: dict[str, str] = {}  # base URL by service:port
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[str] = []
        self.conflicts = 0  # how many updates of RayClusters are refused because "somebody else" was faster
        self.unavailable = 0  # how many requests are answered 503
        self.starting = 0  # how many requests (but /readyz) are refused because RBAC's rules are not loaded yet
        self.refusals: list[Refusal] = []  # of the next requests
        self.hidden_readyz = False  # whether /readyz is refused, as on some managed clusters
        self.quota = ""  # what is exceeded by every new RayJob: "requested: ..., used: ..., limited: ..."
        self.pages: dict[str, tuple[list[Doc], str]] = {}  # what is left of a list, and its version, by continue token
        self.expired_pages = 0  # how many continue tokens are refused with 410
        self.watches = 0
        self.generation = 0  # of watches: all older ones break off
        self.closing = False
        self.away = False
        self.breaks_tls = False  # whether every new connection is closed before its handshake
        self.crd = True
        self.handler = type("Handler", (_Handler,), {"api": self})
        self.authority, key = certificate()  # kubectl sends no token without TLS
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as both:
            both.write(self.authority + key)
            both.flush()
            self.context.load_cert_chain(both.name)
        self.http = self._listen(0)
        self.port = self.http.server_port
        self.url = f"https://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> _Http:
        http = _Http(("127.0.0.1", port), self.handler)
        http.socket = self.context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        return http

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()

    def go_away(self) -> None:
        """Refuses connections and breaks off what is under way, until `come_back`; the objects stay."""
        self.away = True
        self.drop_watches()
        self.http.shutdown()
        self.http.server_close()

    def come_back(self, starting: int = 0) -> None:
        """Listens again; the first requests are refused because RBAC's rules are not loaded yet."""
        self.starting, self.away = starting, False
        self.http = self._listen(self.port)

    def kubeconfig(self, namespace: str = "ofa") -> Doc:
        authority = base64.b64encode(self.authority).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "user", "user": {"token": self.token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "user", "namespace": namespace}}],
        }

    # Faults

    def drop_watches(self) -> None:
        """Every watch under way breaks off in the middle."""
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    def compact(self) -> None:
        """Forgets what has happened: who resumes from before gets 410."""
        with self.changed:
            self.oldest = self.version
            self.history = []
            self.generation += 1
            self.changed.notify_all()

    # Objects

    def get(self, plural: str, namespace: str, name: str) -> Doc:
        with self.lock:
            try:
                return copy.deepcopy(self.objects[plural, namespace, name])
            except KeyError:
                raise Refusal(404, "NotFound", f'{plural} "{name}" not found') from None

    def find(self, plural: str, namespace: str, name: str) -> Doc | None:
        with suppress(Refusal):
            return self.get(plural, namespace, name)
        return None

    def list(self, plural: str, namespace: str | None, labels: str = "", fields: str = "") -> list[Doc]:
        with self.lock:
            found = [
                copy.deepcopy(doc)
                for (kind, place, _), doc in sorted(self.objects.items())
                if kind == plural and namespace in (None, place)
            ]
        return [doc for doc in found if selected(doc, labels, fields)]

    def create(self, doc: Doc, *, dry_run: bool = False, strict: bool = False) -> Doc:
        with self.changed:
            doc = copy.deepcopy(doc)
            plural, metadata = PLURALS[doc["kind"]], doc.setdefault("metadata", {})
            namespace = metadata.setdefault("namespace", "default")
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            name = metadata.get("name", "")
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
                cause = {"field": "metadata.name", "reason": "FieldValueInvalid", "message": f"Invalid value: {name!r}"}
                raise Refusal(422, "Invalid", f'{doc["kind"]} "{name}" is invalid', [cause])
            if metadata.get("resourceVersion"):
                raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
            if (plural, namespace, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
            doc = self._admitted(doc, strict)
            if self.quota and doc["kind"] == "RayJob":
                raise Refusal(403, "Forbidden", f'rayjobs.ray.io "{name}" is forbidden: exceeded quota: ofa, {self.quota}')
            if "status" in RESOURCES[GROUPS[doc["kind"]], plural][1] and plural != "pods":
                doc.pop("status", None)
            doc["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            if dry_run:
                return doc
            return self._put("ADDED", doc)

    def update(self, doc: Doc, *, sub: str = "", dry_run: bool = False, strict: bool = False) -> Doc:
        """A PUT, of the object or of its status."""
        with self.changed:
            doc = copy.deepcopy(doc)
            plural, metadata = PLURALS[doc["kind"]], doc["metadata"]
            before = self.get(plural, metadata["namespace"], metadata["name"])
            given = metadata.get("resourceVersion")
            if not given and plural.startswith("ray"):
                raise Refusal(422, "Invalid", "metadata.resourceVersion: Invalid value: 0: must be specified for an update")
            if given and given != before["metadata"]["resourceVersion"]:
                words = "the object has been modified; please apply your changes to the latest version and try again"
                raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{metadata["name"]}": {words}')
            after = copy.deepcopy(before)
            if sub == "status":
                after["status"] = doc.get("status", {})
            else:
                after = self._admitted(doc, strict)
                if "status" in before:
                    after["status"] = before["status"]
                else:
                    after.pop("status", None) if plural.startswith("ray") else None
                for key in ("uid", "creationTimestamp", "generation", "deletionTimestamp"):
                    if key in before["metadata"]:
                        after["metadata"][key] = before["metadata"][key]
                if after.get("spec") != before.get("spec"):
                    after["metadata"]["generation"] = before["metadata"]["generation"] + 1
            if dry_run:
                return after
            if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
                return self._remove(after)
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            return before if after == before else self._put("MODIFIED", after)

    def merge(self, plural: str, namespace: str, name: str, patch: Doc, **how: Any) -> Doc:
        """A merge patch."""
        with self.changed:
            before = self.get(plural, namespace, name)
            return self.update(merged(before, patch), **how)

    def delete(self, plural: str, namespace: str, name: str, uid: str | None = None) -> Doc:
        with self.changed:
            doc = self.get(plural, namespace, name)
            if uid is not None and doc["metadata"]["uid"] != uid:
                raise Refusal(409, "Conflict", "the UID in the precondition does not match")
            if doc["metadata"].get("finalizers"):
                if "deletionTimestamp" in doc["metadata"]:
                    return doc
                doc["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                return self._put("MODIFIED", doc)
            return self._remove(doc)

    def log(self, namespace: str, pod: str, line: str) -> None:
        """A line of a pod's log."""
        with self.changed:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            self.logs.setdefault((namespace, pod), []).append((stamp, line))
            self.changed.notify_all()

    def event(self, about: Doc, reason: str, message: str, kind: str = "Warning") -> None:
        """An Event object."""
        metadata = about["metadata"]
        involved = {
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }
        self.create({"apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message,
                     "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
                     "involvedObject": involved, "lastTimestamp": now(), "count": 1})  # fmt: skip

    def _admitted(self, doc: Doc, strict: bool) -> Doc:
        """Validated and defaulted as the CRDs say; other kinds are taken as they are."""
        if doc["kind"] not in ("RayJob", "RayCluster"):
            return doc
        schema = lint.schema(doc["kind"])
        unknown, rest = [], []
        for line in lint.schema_mistakes(doc):
            (unknown if ": no such field" in line else rest).append(line)
        if rest:
            causes = [{"field": line.split(": ")[0], "reason": "FieldValueInvalid", "message": line.split(": ", 1)[1]}
                      for line in rest]  # fmt: skip
            causes.append({"field": "<nil>", "reason": "FieldValueInvalid", "message": UNCHECKED})
            raise Refusal(422, "Invalid", f'{doc["kind"]}.ray.io "{doc["metadata"]["name"]}" is invalid: {rest[0]}', causes)
        if unknown and strict:
            fields = ", ".join(f'unknown field "{line.split(": ")[0]}"' for line in unknown)
            raise Refusal(400, "BadRequest", f'{doc["kind"]} in version "v1" cannot be handled as a {doc["kind"]}: '
                          f"strict decoding error: {fields}")  # fmt: skip
        return defaulted(doc, schema)

    def _put(self, event: str, doc: Doc) -> Doc:
        self.version += 1
        doc["metadata"]["resourceVersion"] = str(self.version)
        plural, metadata = PLURALS[doc["kind"]], doc["metadata"]
        self.objects[plural, metadata["namespace"], metadata["name"]] = copy.deepcopy(doc)
        self.history.append((self.version, event, plural, copy.deepcopy(doc)))
        self.changed.notify_all()
        return doc

    def _remove(self, doc: Doc) -> Doc:
        """Takes it away, and then what it owned."""
        plural, metadata = PLURALS[doc["kind"]], doc["metadata"]
        del self.objects[plural, metadata["namespace"], metadata["name"]]
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.history.append((self.version, "DELETED", plural, copy.deepcopy(doc)))
        self.changed.notify_all()
        for (kind, namespace, name), other in list(self.objects.items()):
            owners = other["metadata"].get("ownerReferences", [])
            if owners and all(owner["uid"] == metadata["uid"] for owner in owners):
                with suppress(Refusal):
                    self.delete(kind, namespace, name)
        return doc


@cache
def certificate() -> tuple[bytes, bytes]:
    """A certificate for 127.0.0.1 that signs itself, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "apiserver of the tests")])
    begin = datetime.now(UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin - timedelta(days=1),
                                begin + timedelta(days=1))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return made.public_bytes(serialization.Encoding.PEM), pem


def merged(doc: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def json_patched(doc: Doc, patch: list[Doc]) -> Doc:
    """RFC 6902: add, replace, remove, test."""
    doc = copy.deepcopy(doc)
    for step in patch:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        here: Any = doc
        for part in path:
            here = here[int(part)] if isinstance(here, list) else here[part]
        key: Any = (len(here) if last == "-" else int(last)) if isinstance(here, list) else last
        if step["op"] == "test":
            if here[key] != step["value"]:
                raise Refusal(422, "Invalid", f"the server rejected our request due to an error in our request: test {step}")
        elif step["op"] == "remove":
            del here[key]
        elif isinstance(here, list) and step["op"] == "add":
            here.insert(key, step["value"])
        else:
            here[key] = step["value"]
    return doc


def defaulted(doc: Any, schema: Doc) -> Any:
    """With the schema's defaults, and without nulls and unknown fields."""
    if isinstance(doc, dict) and "properties" in schema:
        result = {}
        for key, value in doc.items():
            if key in schema["properties"] and value is not None:
                result[key] = defaulted(value, schema["properties"][key])
        for key, below in schema["properties"].items():
            if "default" in below and key not in result:
                result[key] = copy.deepcopy(below["default"])
        return result
    if isinstance(doc, list):
        return [defaulted(item, schema.get("items", {})) for item in doc]
    return doc


def selected(doc: Doc, labels: str, fields: str) -> bool:
    """Whether the object is one that both selectors choose."""
    have = doc["metadata"].get("labels") or {}
    for term in re.split(r",(?![^(]*\))", labels) if labels else []:
        if found := re.fullmatch(r"\s*([\w./-]+)\s+(in|notin)\s+\((.*)\)\s*", term):
            key, verb, values = found.groups()
            if (have.get(key) in [v.strip() for v in values.split(",")]) != (verb == "in"):
                return False
        elif "!=" in term:
            key, value = term.split("!=")
            if have.get(key) == value:
                return False
        elif "=" in term:
            key, value = re.split("==?", term)
            if have.get(key) != value:
                return False
        elif (term.lstrip("!") in have) == term.startswith("!"):
            return False
    for term in fields.split(",") if fields else []:
        path, value = re.split("==?", term, maxsplit=1)
        here: Any = doc
        for part in path.split("."):
            here = (here or {}).get(part)
        if str(here or "") != value:
            return False
    return True


class _Http(ThreadingHTTPServer):
    """The listening socket; closes connections before their handshake where the test wants it."""

    daemon_threads = True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return not self.RequestHandlerClass.api.breaks_tls  # type: ignore[attr-defined]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Only what is no client that breaks its connection off."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    api: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.answer("GET")

    do_POST = do_PUT = do_PATCH = do_DELETE = lambda self: self.answer(self.command)

    def answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        size = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(size) if size else b""
        self.api.requests.append((method, self.path))
        self.api.bodies.append(data.decode(errors="replace"))
        try:
            if self.headers.get("Authorization") != f"Bearer {self.api.token}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            if self.api.away:
                self.close_connection = True
                return None
            if parts.path == "/readyz":
                return self.ready()
            if self.api.starting > 0:
                self.api.starting -= 1
                raise Refusal(403, "Forbidden", f'User "user" cannot {method.lower()} path "{parts.path}"')
            if self.api.refusals:
                raise self.api.refusals.pop(0)
            if self.api.unavailable > 0:
                self.api.unavailable -= 1
                raise Refusal(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            found = self.route(method, [unquote(part) for part in parts.path.strip("/").split("/")], query, data)
            if found is not None:
                self.send(201 if method == "POST" else 200, json.dumps(found).encode())
        except Refusal as refusal:
            self.send(refusal.code, json.dumps(refusal.status).encode())
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def ready(self) -> None:
        if self.api.hidden_readyz:
            raise Refusal(403, "Forbidden", 'User "user" cannot get path "/readyz"')
        if self.api.starting > 0:
            raise Refusal(500, "InternalError", "[-]poststarthook/rbac/bootstrap-roles failed: reason withheld")
        self.send(200, b"ok", "text/plain")

    def send(self, code: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def route(self, method: str, path: list[str], query: dict[str, str], data: bytes) -> Doc | None:
        if path == ["version"]:
            return {"major": "1", "minor": "32", "gitVersion": "v1.32.0-fake"}
        if path == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_of("ray.io"), group_of("batch")]}
        if len(path) == 2 and path[0] == "apis":
            return group_of(path[1])
        group = "v1" if path[:2] == ["api", "v1"] else "/".join(path[1:3]) if path[0] == "apis" and len(path) > 2 else ""
        rest = path[2:] if path[0] == "api" else path[3:]
        if group and not rest:
            return resources_of(group)
        if group == "apiextensions.k8s.io/v1" and rest == ["customresourcedefinitions", "rayjobs.ray.io"]:
            return self.the_crd()
        if group == "authorization.k8s.io/v1" and rest == ["selfsubjectaccessreviews"]:
            self.allow("create", rest[0])
            return self.review(json.loads(data))
        namespace = None
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if not rest or (group, rest[0]) not in RESOURCES or (group == "ray.io/v1" and not self.api.crd):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        plural, name, sub = rest[0], rest[1] if len(rest) > 1 else "", "/".join(rest[2:])
        verb = {"GET": ("get" if name else "watch" if query.get("watch") in ("true", "1") else "list"), "POST": "create",
                "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]  # fmt: skip
        self.allow(verb, plural + (f"/{sub.split('/')[0]}" if sub else ""))
        return self.resource(method, verb, plural, namespace, name, sub, query, data)

    def allow(self, verb: str, resource: str) -> None:
        if (verb, resource) in self.api.forbidden:
            raise Refusal(403, "Forbidden", f'{resource} is forbidden: User "user" cannot {verb} resource "{resource}"')

    def resource(
        self, method: str, verb: str, plural: str, namespace: str | None, name: str, sub: str, query: dict[str, str],
        data: bytes,
    ) -> Doc | None:  # fmt: skip
        api = self.api
        namespace = "" if plural in CLUSTERED else namespace
        how = {"dry_run": query.get("dryRun") == "All", "strict": query.get("fieldValidation") == "Strict"}
        if sub == "log":
            return self.pod_log(str(namespace), name, query)
        if sub.split("/")[0] == "proxy":
            return self.proxy(method, name, sub.removeprefix("proxy"), data)
        if sub not in ("", "status"):
            raise Refusal(404, "NotFound", f"no subresource {sub}")
        if verb == "watch":
            return self.watch(plural, namespace, query)
        if verb == "list":
            items, metadata = self.page(plural, namespace, query)
            kind = next(k for (_, p), (k, _) in RESOURCES.items() if p == plural)
            return {"apiVersion": GROUPS[kind], "kind": f"{kind}List", "metadata": metadata, "items": items}
        if verb == "get":
            return api.get(plural, str(namespace), name)
        if verb == "delete":
            options = json.loads(data) if data else {}
            return api.delete(plural, str(namespace), name, (options.get("preconditions") or {}).get("uid"))
        body = json.loads(data)
        if verb == "create":
            body.setdefault("metadata", {}).setdefault("namespace", namespace)
            if body["metadata"]["namespace"] != namespace:
                raise Refusal(400, "BadRequest", "the namespace of the object does not match the namespace on the request")
            return api.create(body, **how)
        if verb == "update":
            if plural == "rayclusters" and api.conflicts > 0 and not sub:
                api.conflicts -= 1  # "the autoscaler" was faster
                api.merge(plural, str(namespace), name, {"metadata": {"annotations": {"touched": str(api.version)}}})
            return api.update(body, sub=sub, **how)
        kind = self.headers.get("Content-Type", "").split(";")[0]
        if kind == "application/json-patch+json":
            return api.update(json_patched(api.get(plural, str(namespace), name), body), sub=sub, **how)
        if kind == "application/strategic-merge-patch+json" and plural.startswith("ray"):
            raise Refusal(415, "UnsupportedMediaType", "strategic merge patch is not supported for custom resources")
        if not isinstance(body, dict):
            raise Refusal(422, "Invalid", "a merge patch is an object")
        return api.merge(plural, str(namespace), name, body, sub=sub, **how)

    def page(self, plural: str, namespace: str | None, query: dict[str, str]) -> tuple[list[Doc], Doc]:
        """The part of a list that is asked for; the parts that follow are of the same moment."""
        api, token = self.api, query.get("continue", "")
        with api.lock:
            if not token:
                items = api.list(plural, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
                version = str(api.version)
            elif api.expired_pages > 0 or token not in api.pages:
                api.expired_pages -= 1
                raise Refusal(410, "Expired", "The provided continue parameter is too old to display a consistent list")
            else:
                items, version = api.pages.pop(token)
            metadata: Doc = {"resourceVersion": version}
            limit = int(query.get("limit") or 0)
            if limit and len(items) > limit:
                metadata |= {"continue": uuid.uuid4().hex, "remainingItemCount": len(items) - limit}
                api.pages[metadata["continue"]] = (items[limit:], version)
                items = items[:limit]
        return items, metadata

    def review(self, body: Doc) -> Doc:
        asked = body["spec"]["resourceAttributes"]
        name = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        return {**body, "status": {"allowed": (asked["verb"], name) not in self.api.forbidden}}

    def the_crd(self) -> Doc:
        self.allow("get", "customresourcedefinitions")
        if not self.api.crd:
            raise Refusal(404, "NotFound", 'customresourcedefinitions.apiextensions.k8s.io "rayjobs.ray.io" not found')
        version = {"name": "v1", "served": True, "schema": {"openAPIV3Schema": lint.schema("RayJob")}}
        return {"kind": "CustomResourceDefinition", "metadata": {"name": "rayjobs.ray.io"}, "spec": {"versions": [version]}}

    # Streams

    def begin_stream(self, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def watch(self, plural: str, namespace: str | None, query: dict[str, str]) -> None:
        api, since = self.api, query.get("resourceVersion") or ""
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")

        def send(event: str, doc: Doc) -> None:
            self.chunk(json.dumps({"type": event, "object": doc}).encode() + b"\n")

        with api.changed:
            generation, api.watches = api.generation, api.watches + 1
            at = int(since) if since not in ("", "0") else api.version
            gone = since not in ("", "0") and int(since) < api.oldest
            first = [] if since not in ("", "0") else api.list(plural, namespace, labels, fields)
        self.begin_stream()
        if gone:
            message = f"too old resource version: {since} ({api.oldest})"
            send("ERROR", Refusal(410, "Expired", message).status)
            self.chunk(b"")
            return
        for doc in first:
            send("ADDED", doc)
        while time.monotonic() < deadline:
            with api.changed:
                if api.closing or api.generation != generation:
                    self.wfile.write(b'40\r\n{"type":"MODI')  # breaks off in the middle of an event
                    self.wfile.flush()
                    self.close_connection = True
                    return
                news = [entry for entry in api.history if entry[0] > at]
                if not news:
                    api.changed.wait(0.5)
            for version, event, kind, doc in news:
                at = version
                if kind == plural and namespace in (None, doc["metadata"]["namespace"]) and selected(doc, labels, fields):
                    send(event, doc)
            if not news and query.get("allowWatchBookmarks") == "true":
                kind = next(k for (_, p), (k, _) in RESOURCES.items() if p == plural)
                send("BOOKMARK", {"apiVersion": GROUPS[kind], "kind": kind, "metadata": {"resourceVersion": str(at)}})
        self.chunk(b"")

    def pod_log(self, namespace: str, name: str, query: dict[str, str]) -> None:
        api = self.api
        pod = api.get("pods", namespace, name)
        containers = [container["name"] for container in pod["spec"]["containers"]]
        if query.get("container", containers[0]) not in containers:
            raise Refusal(400, "BadRequest", f"container {query['container']} is not valid for pod {name}")
        if (pod.get("status") or {}).get("phase") in (None, "Pending"):
            raise Refusal(400, "BadRequest", f'container in pod "{name}" is waiting to start: ContainerCreating')
        with api.lock:
            lines = list(api.logs.get((namespace, name), []))
        at = len(lines)
        if query.get("sinceTime"):
            whole = query["sinceTime"][:19]
            lines = [line for line in lines if line[0][:19] >= whole]
        if query.get("tailLines"):
            lines = lines[-int(query["tailLines"]) :]
        stamps, follow, generation = query.get("timestamps") == "true", query.get("follow") == "true", api.generation
        self.begin_stream("text/plain")

        def send(entries: list[tuple[str, str]]) -> None:
            text = "".join(f"{stamp} {line}\n" if stamps else f"{line}\n" for stamp, line in entries)
            if text:
                self.chunk(text.encode())

        send(lines)
        while follow:
            with api.changed:
                there = api.find("pods", namespace, name)
                fresh = api.logs.get((namespace, name), [])[at:]
                if not fresh and (there is None or there["status"]["phase"] in ("Succeeded", "Failed")):
                    break
                if api.closing or api.generation != generation:
                    self.close_connection = True
                    return
                if not fresh:
                    api.changed.wait(0.5)
            at += len(fresh)
            send(fresh)
        self.chunk(b"")

    def proxy(self, method: str, service: str, path: str, data: bytes) -> None:
        """As the real one: the Authorization header stays here."""
        if service not in self.api.proxies:
            raise Refusal(503, "ServiceUnavailable", f'no endpoints available for service "{service}"')
        headers = {"Content-Type": "application/json"}
        if "X-Ray-Authorization" in self.headers:
            headers["X-Ray-Authorization"] = self.headers["X-Ray-Authorization"]
        asked = urllib.request.Request(self.api.proxies[service] + path, data or None, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                self.send(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self.send(error.code, error.read())
        except OSError as error:
            raise Refusal(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None


def group_of(name: str) -> Doc:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version}


def resources_of(group: str) -> Doc:
    rows: list[Doc] = []
    for (there, plural), (kind, subs) in RESOURCES.items():
        if there == group:
            short = {"pods": ["po"], "configmaps": ["cm"]}.get(plural, [])
            rows.append({"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS,
                         "shortNames": short})  # fmt: skip
            rows += [{"name": f"{plural}/{sub}", "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
                     for sub in subs]  # fmt: skip
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": rows}
