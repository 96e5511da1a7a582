"""An HTTP proxy in front of an S3 server that, when asked to, answers with errors, slowly, or with half an answer."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar

ERRORS = {"500": (500, "InternalError"), "503": (503, "SlowDown")}  # status and S3's code; the request is not passed on
SLOW_S = 3.0  # before each answer
FAULTS = (*ERRORS, "slow", "half")
KEPT = re.compile(r"/partial/(measure|search)/\d+\.jsonl$")  # parts of ledgers, whose content is kept
UPSTREAM_S = 60.0  # seconds without a byte from the server


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was passed on, and the status of the server's answer. whole: whether the client got all of it."""

    at: float  # time.monotonic()
    method: str
    path: str
    status: int
    whole: bool
    body: bytes = b""  # of parts of ledgers

    @property
    def stored(self) -> bool:
        """Whether the server has accepted an object."""
        return self.method in ("PUT", "POST") and 200 <= self.status < 300


class FaultProxy:
    """The proxy, on a port of its own; `fault` is one of `FAULTS`, or "" while it only passes on.

    Bodies are in memory, as a whole. Where the server does not answer, the connection is closed without an answer.
    """

    def __init__(self, upstream: int) -> None:
        self.fault = ""
        self.requests: list[Request] = []
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": upstream})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> FaultProxy:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[FaultProxy]
    upstream: ClassVar[int]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault
        if fault in ERRORS:
            status, code = ERRORS[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault of the bench</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
            self._send(_answer(status, code, headers, b"" if self.command == "HEAD" else text))
            return
        try:
            status, answer = self._passed_on(body)
        except (OSError, http.client.HTTPException):  # the server is away
            self._close()
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        whole = fault != "half"
        if not whole:
            head, end, data = answer.partition(b"\r\n\r\n")
            answer = head + end + data[: len(data) // 2] if len(data) > 1 else head[:7]  # else within the status line
        kept = body if KEPT.search(self.path.partition("?")[0]) else b""
        whole = self._send(answer) and whole
        if fault == "half":
            self._close()
        self.proxy.requests.append(Request(time.monotonic(), self.command, self.path, status, whole, kept))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _passed_on(self, body: bytes) -> tuple[int, bytes]:
        """The status and the bytes of the server's answer. The host stays the proxy's, which the client has signed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=UPSTREAM_S)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            reply = connection.getresponse()
            data = reply.read()
            headers = [(n, v) for n, v in reply.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
            if not any(name.lower() == "content-length" for name, _ in headers) and reply.status not in (204, 304):
                headers.append(("Content-Length", str(len(data))))
            return reply.status, _answer(reply.status, reply.reason, headers, data)
        finally:
            connection.close()

    def _send(self, answer: bytes) -> bool:
        """Whether the client took the answer."""
        try:
            self.wfile.write(answer)
        except OSError:
            self.close_connection = True
            return False
        return True

    def _close(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # the client has closed it
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


def _answer(status: int, reason: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
