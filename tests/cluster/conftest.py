"""Google's Cloud Storage, as far as its documentation says how it differs from S3."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "ya29.token-of-a-pod"
SIGNED = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


class CloudStorage(BaseHTTPRequestHandler):
    """In front of a mocked S3: wants a bearer token, refuses mixed headers, has generations and ignores If-None-Match on
    writes, and says so if there is nothing to delete. Also the metadata server that lends pods their tokens."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece
    behind = 0  # the port of the mocked S3
    tokens = 0  # lent so far
    refused = ""  # why the metadata server lends none

    def do_GET(self) -> None:
        self.metadata() if self.path.startswith("/computeMetadata/") or self.path == "/" else self.bucket()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def bucket(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        names = [name.lower() for name in self.headers]
        if any(name.startswith("x-amz-") for name in names):
            return self.answer(400, b"<Error><Code>ExcessHeaderValues</Code></Error>")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "if-none-match", "authorization")}
        if headers.pop("x-goog-if-generation-match", None) == "0":
            headers["If-None-Match"] = "*"
        connection = http.client.HTTPConnection("127.0.0.1", self.behind)
        if self.command == "DELETE":
            connection.request("HEAD", self.path, headers={"Authorization": SIGNED})
            there = connection.getresponse()
            there.read()
            if there.status == 404:
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        connection.request(self.command, self.path, body, {**headers, "Authorization": SIGNED})
        reply = connection.getresponse()
        data = reply.read()
        self.answer(
            reply.status, data, {k: v for k, v in reply.getheaders() if k.lower() not in ("date", "server", "connection")}
        )
        return connection.close()

    def metadata(self) -> None:
        if self.headers.get("Metadata-Flavor") != "Google" or ("/token" in self.path and type(self).refused):
            return self.answer(403, type(self).refused.encode())
        found: object = {"aliases": ["default"], "email": "ofa-results@my-project.iam.gserviceaccount.com", "scopes": []}
        if "/token" in self.path:
            type(self).tokens += 1
            found = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        text = "my-project" if "project-id" in self.path else json.dumps(found)
        kind = "text/plain" if "project-id" in self.path else "application/json"
        return self.answer(200, text.encode(), {"Metadata-Flavor": "Google", "Content-Type": kind})

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            if name.lower() != "content-length" or name == "Content-Length":
                self.send_header(name, (headers or {}).get("Content-Length", value) if self.command == "HEAD" else value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cloud_storage(mock_s3: dict[str, str], tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[CloudStorage]]:
    """The environment of a pod on GKE whose bucket is `results`."""
    from google.auth.compute_engine import _metadata

    class Here(CloudStorage):
        behind = int(mock_s3["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"127.0.0.1:{server.server_port}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{where}")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))  # nobody is logged in
    monkeypatch.setenv("GCE_METADATA_IP", where)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", where)
    monkeypatch.setattr("cluster.stores.google.HOST", "127.0.0.1")
    yield Here
    server.shutdown()
    server.server_close()
