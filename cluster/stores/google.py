"""Buckets on Google Cloud Storage by the S3 client: Google's XML API differs from S3's in two respects.

Requests carry a token of the current identity (a pod's by Workload Identity, a user's by `gcloud auth application-default
login`) instead of a signature by keys. And Google ignores If-None-Match on writes; its equivalent is the required
generation, 0 for none (https://cloud.google.com/storage/docs/request-preconditions).
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import InputError

HOST = "storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def is_google(endpoint: str) -> bool:
    """Whether an endpoint is Cloud Storage's."""
    host = urlsplit(endpoint).hostname or ""
    return host == HOST or host.endswith(f".{HOST}")


class Identity:
    """The current Google identity; its tokens are fetched on demand and renewed when they expire."""

    def __init__(self) -> None:
        import google.auth
        from google.auth.exceptions import GoogleAuthError

        try:
            self._credentials, _ = google.auth.default(scopes=[SCOPE])
        except GoogleAuthError:
            raise InputError(
                f"no Google credentials for {HOST}; log in with `gcloud auth application-default login`, or in a cluster "
                "give the pods' accounts an identity"
            ) from None
        self._lock = threading.Lock()

    def authorize(self, request: Any, **_: Any) -> None:
        """Converts an unsigned S3 request to one of Google's. request: botocore's AWSPreparedRequest."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.urllib3 import Request

        headers = request.headers
        for name in [name for name in headers.keys() if name.lower().startswith("x-amz-")]:
            del headers[name]  # Google refuses requests with both these and its own headers
        if request.method == "PUT" and headers.get("If-None-Match") == b"*":
            del headers["If-None-Match"]
            headers["x-goog-if-generation-match"] = "0"
        token: dict[str, str] = {}
        try:
            with self._lock:
                self._credentials.before_request(Request(_pool()), request.method, request.url, token)
        except GoogleAuthError as error:
            reason = str(error.args[0] if error.args else error).splitlines()[0]
            raise InputError(f"no token for {HOST}: {reason}; check who the pods' accounts are for Google") from None
        for name, value in token.items():
            headers[name] = value


def _pool() -> Any:
    import urllib3

    return urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.2))
