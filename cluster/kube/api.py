"""A thin client of a Kubernetes API server: JSON in, JSON out, one line for each error.

The `kubernetes` package, imported here and nowhere else, finds the cluster and the credentials (kubeconfig with its exec
plugins, or the pod's service account) and handles TLS and proxies. Its generated methods are not used: they send list bodies
as merge patches, and their watch hides which changes it lost.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from cluster.errors import InputError, StepError
from cluster.texts import json_text

Doc = dict[str, Any]

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
TIMEOUT_S = 30.0
WATCH_S = 240  # after which the server ends a watch, and we begin another


class NotThere(InputError):
    """There is no such object."""


class Conflict(InputError):
    """The object exists already, or was changed by another client since it was read."""


class Expired(InputError):
    """A watch cannot resume from this resource version: it is too old."""


class Lost(StepError):
    """The connection broke, or the server failed temporarily: the request may be repeated."""


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

        configuration = client.Configuration()
        try:
            try:
                files = os.environ.get("KUBECONFIG") or "~/.kube/config"  # asked now: the package asks when it is imported
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
        """The objects of a kind that match the selectors."""
        return self.request("GET", self.path(kind), labelSelector=labels, fieldSelector=fields).get("items") or []

    def create(self, doc: Doc, *, dry_run: bool = False) -> Doc:
        """Creates an object and returns it as stored; `Conflict` if its name is taken."""
        return self.request("POST", self.path(doc["kind"]), doc, **_writing(dry_run))

    def replace(self, doc: Doc) -> Doc:
        """Replaces an object; `Conflict` if it was changed since the resourceVersion in `doc`."""
        return self.request("PUT", self.path(doc["kind"], doc["metadata"]["name"]), doc, **_writing(False))

    def merge(self, kind: str, name: str, patch: Doc) -> Doc:
        """Applies a merge patch; it must hold no list, since that would replace the whole list."""
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

    def watch(self, kind: str, name: str) -> Iterator[Doc | None]:
        """Yields the object now and after every change (None while it does not exist); reconnects after lost connections.

        A watch resumes where the connection broke. If that resource version has expired (410), or the connection breaks
        repeatedly, the object is read anew: intermediate changes are then missed, the latest state never is.
        """
        version, wait_s = "", 0.0
        while True:
            try:
                if not version:
                    listed = self.request("GET", self.path(kind), fieldSelector=f"metadata.name={name}")
                    version = listed["metadata"]["resourceVersion"]
                    yield next(iter(listed.get("items") or []), None)
                began = time.monotonic()
                for event in self._events(kind, name, version):
                    wait_s = 0.0
                    if event["type"] == "ERROR":
                        raise _error(event["object"].get("code", 500), event["object"], f"watch {name}")
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield None if event["type"] == "DELETED" else event["object"]
                if time.monotonic() - began < 1:  # a server that ends every watch at once
                    time.sleep(1)
            except Expired:
                version = ""
            except Lost:
                wait_s = min(10.0, wait_s * 2 or 0.2)
                if wait_s > 2:
                    version = ""
                if wait_s >= 10:
                    raise
                time.sleep(wait_s)

    def _events(self, kind: str, name: str, version: str) -> Iterator[Doc]:
        asked = {"watch": "true", "fieldSelector": f"metadata.name={name}", "resourceVersion": version,
                 "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}  # fmt: skip
        for line in self.lines(self.path(kind), **asked):
            try:
                event: Doc = json.loads(line)
            except ValueError:
                raise Lost(f"{self.server}: a watch broke off in the middle of a line") from None
            yield event

    def lines(self, path: str, **query: str) -> Iterator[bytes]:
        """Yields the lines of a streamed response as they arrive."""
        with self._answer("GET", path, None, query, timeout_s=WATCH_S + 60) as answer:
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
        with self._answer(method, path, body, query, timeout_s=TIMEOUT_S, token=token) as answer:
            data = answer.data
        try:
            found: Doc = json.loads(data) if data else {}
        except ValueError:
            raise Lost(f"{self.server}: {path}: what it answers is not JSON; is it a Kubernetes apiserver?") from None
        return found

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
        from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

        asked = urlencode({key: value for key, value in query.items() if value})
        headers = {"Accept": "application/json", "User-Agent": "ofa-cluster"}
        bearer = self.configuration.auth_settings().get("BearerToken") or {}  # renewed there, when it has run out
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
                timeout=timeout_s,
                retries=False,
            )
            if answer.status >= 400:
                raise _error(answer.status, _json(answer.data), f"{method} {path}")
            yield answer
        except SSLError as error:
            raise InputError(f"{self.server}: TLS fails: {error}; check certificate-authority in the kubeconfig") from None
        except (HTTPError, MaxRetryError, OSError) as error:
            raise Lost(f"{self.server}: no answer ({type(error).__name__}); check the cluster and the network") from None
        finally:
            if answer is not None:
                answer.close()


def _writing(dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", "fieldManager": "ofa", **({"dryRun": "All"} if dry_run else {})}


def _json(data: bytes) -> Doc:
    try:
        found = json.loads(data)
    except ValueError:
        found = {"message": data[:200].decode(errors="replace")}
    return found if isinstance(found, dict) else {}


def _error(code: int, status: Doc, asked: str) -> InputError | StepError:
    """The error for a response: the server's message in one line, and what to do."""
    words = " ".join(str(status.get("message") or status.get("reason") or f"HTTP {code}").split())
    if code == 404:
        return NotThere(f"{asked}: {words}")
    if code == 409:
        return Conflict(f"{asked}: {words}")
    if code == 410:
        return Expired(f"{asked}: {words}")
    if code == 401:
        return InputError(f"{asked}: the cluster does not know you (401); log in again, see `ofa doctor`")
    if code == 403:
        return InputError(f"{asked}: not allowed: {words}; see `ofa doctor` and the role ofa-user")
    if code in (400, 405, 415, 422):
        causes = (status.get("details") or {}).get("causes") or []
        first = "; ".join(f"{c.get('field')}: {c.get('message')}" for c in causes[:3])
        return InputError(f"{asked}: the cluster refuses it: {first or words}")
    if code == 429 or code >= 500:
        return Lost(f"{asked}: the cluster answers {code}: {words}")
    return StepError(f"{asked}: the cluster answers {code}: {words}")
