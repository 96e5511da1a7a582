"""A thin client of a Kubernetes API server: JSON in, JSON out, one line for each error.

The `kubernetes` package, imported here and nowhere else, finds the cluster and the credentials (kubeconfig with its exec
plugins, or the pod's service account) and handles TLS and proxies. Its generated methods are not used: they send list bodies
as merge patches, and their watch hides which changes it lost.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from cluster.errors import InputError, StepError
from cluster.kube import rules
from cluster.texts import json_text

Doc = dict[str, Any]
Listed = tuple[list[Doc], str]  # objects, and the resource version of the list

PLACES = {  # where each kind lives
    "RayJob": ("apis/ray.io/v1", "rayjobs"),
    "RayCluster": ("apis/ray.io/v1", "rayclusters"),
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
    "Event": ("api/v1", "events"),
    "ConfigMap": ("api/v1", "configmaps"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Service": ("api/v1", "services"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
}
CHECK = "check the cluster and the network"
TIMEOUT_S = 30.0
CONNECT_S = 10.0
WATCH_S = 240  # after which the server ends a watch, and we begin another
SILENCE_S = 90.0  # without a line on a watch, whose bookmarks arrive every minute: the connection is taken for broken
PAGE = 250  # objects in one response to a list request
LONG = 2**20  # bytes of a response that is decoded without collecting cycles
REPEATED_S = 5.0  # for which a request is repeated that the server refuses only for the moment
UNKNOWN_S = 1.5  # for which a read is repeated where it is not known whether that is so


class NotThere(InputError):
    """There is no such object."""


class Conflict(InputError):
    """The object exists already, or was changed by another client since it was read."""


class Expired(InputError):
    """A watch cannot resume from this resource version: it is too old."""


class Refused(InputError):
    """The server does not know the user, or does not allow the request (401, 403).

    passing: the server's own message shows that it has not loaded its rules yet.
    """

    passing: bool = False


class Forbidden(Refused):
    """The user may not do this (403)."""


class Lost(StepError):
    """The server gave no answer, or failed temporarily: the request may be repeated. Exit code 5.

    answered: whether there was an answer, such as 503.
    """

    answered = False


class Followed(Protocol):
    """What a watch reports its requests to; see `cluster.kube.outages.Outages`."""

    def failed(self, error: InputError | StepError) -> None:
        """A request failed: waits before the next one, or raises an error to give up."""

    def answered(self) -> None:
        """The server answered."""


@dataclass(frozen=True)
class Api:
    """One namespace of one cluster."""

    server: str
    namespace: str
    configuration: Any
    pool: Any

    @classmethod
    def connect(cls, namespace: str, context: str | None = None) -> Api:
        """Connects to the cluster of a kubeconfig (KUBECONFIG, ~/.kube/config), or to the one that this process runs in."""
        from kubernetes import client, config
        from yaml import YAMLError

        if (expected := rules.dns_label(namespace)) is not None:
            raise InputError(f"namespace {namespace!r}: {expected}")
        configuration = client.Configuration()
        logged: list[str] = []
        try:
            try:
                files = os.environ.get("KUBECONFIG") or "~/.kube/config"  # asked now: the package asks when it is imported
                with _errors_to(logged):
                    config.load_kube_config(files, context=context, client_configuration=configuration)
            except (TypeError, AttributeError, YAMLError):  # what the package makes of a file that is something else
                raise config.ConfigException(f"{files}: is no kubeconfig") from None
            except config.ConfigException:
                if context is not None:
                    raise
                config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError) as error:
            what = f"no context {context!r}" if context else "neither a kubeconfig nor a pod's service account"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"cluster: {what} can be used ({reason}); set KUBECONFIG, see `ofa doctor`") from None
        if logged:
            raise InputError(
                f"cluster: the kubeconfig's credentials cannot be used ({logged[0]}); log in again, see `ofa doctor`"
            )
        if not configuration.host.startswith(("https://", "http://")):
            raise InputError(
                f"cluster: server {configuration.host!r} of the kubeconfig is not https://HOST:PORT; correct it"
            )
        pool = client.ApiClient(configuration).rest_client.pool_manager
        return cls(configuration.host.rstrip("/"), namespace, configuration, pool)

    # One object, or a list of them

    def get(self, kind: str, name: str) -> Doc:
        """The object `name`; `NotThere` if there is none."""
        return self.request("GET", self.path(kind, name))

    def find(self, kind: str, name: str) -> Doc | None:
        """The object, or None."""
        try:
            return self.get(kind, name)
        except NotThere:
            return None

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> list[Doc]:
        """The objects of a kind that match the selectors, read in pages."""
        return self.listed(kind, labels=labels, fields=fields)[0]

    def listed(self, kind: str, *, labels: str = "", fields: str = "") -> Listed:
        """The objects of a kind that match the selectors, and the resource version from which they can be watched.

        A list that changes for so long that its next page has expired (410) is read anew, in one response.
        """
        found: list[Doc] = []
        limit, rest = str(PAGE), ""
        while True:
            try:
                query = {"labelSelector": labels, "fieldSelector": fields, "limit": limit, "continue": rest}
                page = self.request("GET", self.path(kind), None, **query)
            except Expired:
                if not limit:
                    raise
                found, limit, rest = [], "", ""
                continue
            items, metadata = page.get("items") or [], page.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise Lost(f"{self.server}: {self.path(kind)}: the response is not a list; is it a Kubernetes API server?")
            found += items
            rest = metadata.get("continue") or ""
            if not rest:
                return found, metadata.get("resourceVersion", "")

    def create(self, doc: Doc, *, dry_run: bool = False) -> Doc:
        """Creates an object and returns it as stored; `Conflict` if its name is taken."""
        return self.request("POST", self.path(doc["kind"]), doc, **_writing(dry_run))

    def replace(self, doc: Doc) -> Doc:
        """Replaces an object; `Conflict` if it was changed since the resourceVersion in `doc`."""
        return self.request("PUT", self.path(doc["kind"], doc["metadata"]["name"]), doc, **_writing(False))

    def merge(self, kind: str, name: str, patch: Doc) -> Doc:
        """Applies a merge patch, in which a list replaces the whole list; `Conflict` if it has an old resourceVersion."""
        return self.request("PATCH", self.path(kind, name), patch, **_writing(False))

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object; `NotThere` if there is none."""
        self.request("DELETE", self.path(kind, name), {"propagationPolicy": "Background"})

    def path(self, kind: str, name: str = "", under: str = "") -> str:
        """The URL path of a kind, or of one object of it."""
        group, plural = PLACES[kind]
        whole = f"{group}/namespaces/{quote(self.namespace)}/{plural}"
        return "/".join(part for part in (whole, quote(name, safe=":"), under) if part)

    # Streams

    def watch(self, kind: str, name: str, followed: Followed) -> Iterator[Doc | None]:
        """Yields the object now and after every change (None while it does not exist); reconnects after lost connections.

        A watch resumes where the connection broke. If that resource version has expired (410), or the connection breaks
        repeatedly, the object is read anew: intermediate changes are then missed, the latest state never is.
        `followed` determines how long a server without an answer is tried.
        """
        version, broken = "", 0
        while True:
            try:
                if not version:
                    items, version = self.listed(kind, fields=f"metadata.name={name}")
                    followed.answered()
                    yield next(iter(items), None)
                began = time.monotonic()
                for event in self._events(kind, name, version):
                    what, there = event.get("type"), event.get("object")
                    if what == "ERROR":
                        status = there if isinstance(there, dict) else {}
                        raise _error(status.get("code", 500), status, f"watch {name}", self.namespace)
                    try:
                        version = event["object"]["metadata"]["resourceVersion"]
                    except (KeyError, TypeError):
                        raise Lost(f"{self.server}: a watch sent something that is not an event") from None
                    broken = 0
                    followed.answered()
                    if what != "BOOKMARK":
                        yield None if what == "DELETED" else there
                if time.monotonic() - began < 1:  # a server that ends every watch at once
                    time.sleep(1)
            except Expired:
                version = ""
                time.sleep(0.1)
            except (InputError, StepError) as error:
                broken += 1
                if broken > 3:
                    version = ""
                followed.failed(error)

    def _events(self, kind: str, name: str, version: str) -> Iterator[Doc]:
        asked = {"watch": "true", "fieldSelector": f"metadata.name={name}", "resourceVersion": version,
                 "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}  # fmt: skip
        for line in self.lines(self.path(kind), asked, SILENCE_S):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise Lost(f"{self.server}: a watch broke off in the middle of a line")
            yield event

    def lines(self, path: str, query: Mapping[str, str], timeout_s: float = WATCH_S + 60) -> Iterator[bytes]:
        """Yields the lines of a streamed response as they arrive; `Lost` after `timeout_s` seconds without any."""
        with self._answer("GET", path, None, query, timeout_s=timeout_s) as answer:
            rest = b""
            for piece in answer.stream(2**16, decode_content=True):
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
            if rest:
                yield rest

    # Everything else

    def request(self, method: str, path: str, body: Doc | None = None, *, token: str | None = None, **query: str) -> Doc:
        """Sends a request and returns the decoded response; an error status raises with the server's message.

        token: for Ray's dashboard behind the API server's proxy, which does not forward the usual header.
        """
        began, pause_s, last = time.monotonic(), 0.2, False
        while True:
            try:
                return self._request(method, path, body, token, query)
            except (Lost, Refused) as error:
                if last:
                    raise
                patience_s = self._patience_s(method, error)
                last = time.monotonic() - began + pause_s > patience_s
                if last and isinstance(error, Forbidden) and patience_s == REPEATED_S:
                    raise Lost(f"{error}; or the API server is still starting") from None
                if last and not (method == "GET" and isinstance(error, Forbidden)):  # the server may be ready since then
                    raise
            time.sleep(0.0 if last else pause_s)
            pause_s *= 2

    def _request(self, method: str, path: str, body: Doc | None, token: str | None, query: Mapping[str, str]) -> Doc:
        with self._answer(method, path, body, query, timeout_s=TIMEOUT_S, token=token) as answer:
            data = answer.data
        try:
            found = _decoded(data) if data else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Lost(f"{self.server}: {path}: what it answers is not JSON of an object; is it a Kubernetes API server?")
        return found

    def _patience_s(self, method: str, error: Lost | Refused) -> float:
        """For how long a request is repeated, in seconds: a read at a busy server, or any request while a server starts.

        A server that has just started may refuse everything with 403, with the same message as for a user without rights;
        `/readyz` tells them apart, where it may be read.
        """
        if isinstance(error, Lost):
            return REPEATED_S if method == "GET" and error.answered else 0.0
        if error.passing:
            return REPEATED_S
        if method != "GET" or not isinstance(error, Forbidden):
            return 0.0
        try:
            with self._answer("GET", "readyz", None, {}, timeout_s=TIMEOUT_S):
                return 0.0
        except Lost:
            return REPEATED_S
        except InputError:
            return UNKNOWN_S

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: Doc | None,
        query: Mapping[str, str],
        timeout_s: float,
        token: str | None = None,
    ) -> Iterator[Any]:
        from urllib3.exceptions import HTTPError, LocationValueError, SSLError
        from urllib3.util import Timeout

        asked = urlencode({key: value for key, value in query.items() if value})
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "ofa-cluster"}
        logged: list[str] = []
        try:
            with _errors_to(logged):
                bearer = self.configuration.auth_settings().get("BearerToken") or {}  # renewed there once it has expired
        except Exception as error:  # of a plugin that the kubeconfig names
            raise Refused(f"{self.server}: the credentials cannot be renewed: {_first_line(error)}; log in again") from None
        if bearer.get("value"):
            headers["Authorization"] = bearer["value"]
        elif self.configuration.username:
            headers["Authorization"] = self.configuration.get_basic_auth_token()
        if token is not None:
            headers["X-Ray-Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = None
        try:
            answer = self.pool.request(
                method,
                f"{self.server}/{path}{'?' if asked else ''}{asked}",
                body=None if body is None else json_text(body).encode(),
                headers=headers,
                preload_content=False,
                timeout=Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s),
                retries=False,
            )
            if answer.status >= 400:
                raise _error(answer.status, _json(answer.data), f"{method} {path}", self.namespace)
            yield answer
        except SSLError as error:
            if _misconfigured(error):
                what = "check certificate-authority and the address in the kubeconfig"
                raise InputError(f"{self.server}: TLS fails: {_first_line(error)}; {what}") from None
            raise Lost(f"{self.server}: no answer (TLS breaks off: {_first_line(error)}); {CHECK}") from None
        except (LocationValueError, UnicodeError) as error:
            raise InputError(
                f"{self.server}: is not an address: {_first_line(error)}; correct server in the kubeconfig"
            ) from None
        except (HTTPError, OSError) as error:
            raise Lost(f"{self.server}: no answer ({type(error).__name__}); {CHECK}") from None
        finally:
            if answer is not None:
                answer.close()


@contextmanager
def _errors_to(messages: list[str]) -> Iterator[None]:
    """Collects the errors that the `kubernetes` package would log on stderr, such as those of a credentials plugin."""
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _decoded(data: bytes) -> Any:
    """The JSON document. A long list is decoded without the collection of cycles, which would take six times as long.

    Python walks through all objects again and again while millions of new ones are made, none of which is in a cycle.
    """
    if len(data) < LONG:
        return json.loads(data)
    gc.disable()
    try:
        return json.loads(data)
    finally:
        gc.enable()


def _writing(dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", "fieldManager": "ofa", **({"dryRun": "All"} if dry_run else {})}


def _json(data: bytes) -> Doc:
    try:
        found = json.loads(data)
    except ValueError:
        found = {"message": data[:200].decode(errors="replace")}
    return found if isinstance(found, dict) else {}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _misconfigured(error: Exception) -> bool:
    """Whether TLS can never work with this kubeconfig; a server that is being restarted breaks the handshake off."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return True
    return any(word in str(error).upper() for word in ("WRONG_VERSION_NUMBER", "CERTIFICATE", "UNSUPPORTED_PROTOCOL"))


# The sentence that follows what an API server refuses with 403 for other reasons than missing rights
LIMITS = {
    r"exceeded quota|failed quota": "the namespace's quota does not allow it: free what is not needed (`ofa list`, "
    "`ofa cancel RUN`), make kube.head and the groups smaller, or ask for more; "
    "`kubectl describe resourcequota -n {namespace}` lists what is used",
    r"being terminated": "the namespace is being deleted: wait until it is gone and create it again, or use another one",
    r"(minimum|maximum) \S+ usage per|limit to request ratio": "the namespace's LimitRange does not allow it: change "
    "cpus and memory_gib of kube.head and the groups; `kubectl describe limitrange -n {namespace}` lists the limits",
    r"violates PodSecurity": "the namespace's pod security does not allow it",
}
UNCHECKED = "some validation rules were not checked"
STARTING = re.compile(r"not yet ready to handle request|RBAC: .*not found")


def _error(code: int, status: Doc, asked: str, namespace: str) -> InputError | StepError:
    """The error for a response: the server's message in one line, and what to do."""
    words = " ".join(str(status.get("message") or status.get("reason") or f"HTTP {code}").split())
    words = re.sub(rf",?\s*<nil>: Invalid value: [^,]*?{UNCHECKED}[^,\]]*", "", words)
    if code == 404:
        return NotThere(f"{asked}: {words}")
    if code == 409:
        return Conflict(f"{asked}: {words}")
    if code == 410:
        return Expired(f"{asked}: {words}")
    if code == 401:
        return Refused(f"{asked}: the cluster does not know you (401); log in again, see `ofa doctor`")
    if code == 403:
        return _forbidden(words, asked, namespace)
    if code in (400, 405, 415, 422):
        return InputError(f"{asked}: the cluster refuses it: {_causes(status) or words}")
    if code == 429 or code >= 500:
        lost = Lost(f"{asked}: the cluster answers {code}: {words}")
        lost.answered = True
        return lost
    return StepError(f"{asked}: the cluster answers {code}: {words}")


def _forbidden(words: str, asked: str, namespace: str) -> InputError:
    """403: missing rights, or a limit of the namespace, each with what to do about it."""
    for pattern, advice in LIMITS.items():
        if re.search(pattern, words):
            return InputError(f"{asked}: refused: {words}; {advice.format(namespace=namespace)}")
    if "denied the request" in words or "denied request" in words:  # an admission webhook or policy
        return InputError(f"{asked}: the cluster refuses it: {words}")
    error = Forbidden(f"{asked}: not allowed: {words}; see `ofa doctor` and the role ofa-user")
    error.passing = STARTING.search(words) is not None
    return error


def _causes(status: Doc) -> str:
    """The first causes of a refusal; without equal ones, and without the remark that some rules were not checked."""
    causes = (status.get("details") or {}).get("causes") or []
    lines = []
    for cause in causes:
        field, message = cause.get("field"), " ".join(str(cause.get("message")).split())
        lines.append(message if field in (None, "", "<nil>") else f"{field}: {message}")
    lines = list(dict.fromkeys(line for line in lines if UNCHECKED not in line))
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
