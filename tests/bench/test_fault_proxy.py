"""The fault proxy: what it passes on is unchanged, and a store gets over each of its faults."""

import http.client
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.fault_proxy import FAULTS, FaultProxy

pytestmark = pytest.mark.server


class Objects(BaseHTTPRequestHandler):
    """Keeps what is put."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def do_PUT(self):
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def do_GET(self):
        self.answer(200 if self.path in self.kept else 404, self.kept.get(self.path, b""))

    do_HEAD = do_GET

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    handler = type("Here", (Objects,), {"kept": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with FaultProxy(server.server_port) as proxy:
        proxy.behind, proxy.kept = server, handler.kept
        yield proxy
    server.shutdown()
    server.server_close()


def request(proxy, method, path, body=None):
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)) as connection:
        connection.request(method, path, body)
        with closing(connection.getresponse()) as reply:
            return reply.status, reply.getheader("X-Host"), reply.read()


def recorded(proxy, count):
    """The requests, once there are so many: each is recorded after its answer is sent, perhaps after a later request."""
    deadline = time.monotonic() + 60
    while len(proxy.requests) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return proxy.requests


def test_requests_and_answers_are_passed_on_with_the_host_that_the_client_signed(proxy):
    host = f"127.0.0.1:{proxy.port}"
    assert request(proxy, "PUT", "/bucket/key", b"content") == (200, host, b"")
    assert [(r.method, r.status, r.stored) for r in recorded(proxy, 1)] == [("PUT", 200, True)]
    assert request(proxy, "GET", "/bucket/key") == (200, host, b"content")
    assert [(r.method, r.status, r.stored) for r in recorded(proxy, 2)[1:]] == [("GET", 200, False)]
    assert request(proxy, "HEAD", "/bucket/key") == (200, host, b"")
    assert request(proxy, "GET", "/bucket/other")[0] == 404


@pytest.mark.parametrize(("fault", "code"), [("500", b"InternalError"), ("503", b"SlowDown")])
def test_an_error_is_answered_and_not_passed_on(proxy, fault, code):
    proxy.fault = fault
    status, host, body = request(proxy, "PUT", "/bucket/key", b"content")
    assert (status, host) == (int(fault), None)
    assert code in body
    assert not proxy.kept
    assert not proxy.requests


def test_half_an_answer_follows_a_request_that_has_its_effect(proxy):
    request(proxy, "PUT", "/bucket/key", bytes(10_000))
    recorded(proxy, 1)
    proxy.fault = "half"
    with pytest.raises(http.client.IncompleteRead):
        request(proxy, "GET", "/bucket/key")
    with pytest.raises((http.client.HTTPException, OSError)):
        request(proxy, "PUT", "/bucket/other", b"content")
    assert proxy.kept["/bucket/other"] == b"content"
    assert [r.whole for r in recorded(proxy, 3)] == [True, False, False]


def test_a_slow_answer_is_whole(proxy, monkeypatch):
    monkeypatch.setattr("bench.fault_proxy.SLOW_S", 0.3)
    proxy.fault = "slow"
    began = time.monotonic()
    assert request(proxy, "PUT", "/bucket/key", b"content")[0] == 200
    assert time.monotonic() - began >= 0.3


def test_a_server_that_is_away_is_a_closed_connection(proxy):
    proxy.behind.shutdown()
    proxy.behind.server_close()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        request(proxy, "GET", "/bucket/key")


def test_only_parts_of_ledgers_are_kept(proxy):
    request(proxy, "PUT", "/b/run/partial/measure/000001.jsonl", b"{}")
    recorded(proxy, 1)
    request(proxy, "PUT", "/b/run/supernet/largest/weights.safetensors", b"weights")
    assert [r.body for r in recorded(proxy, 2)] == [b"{}", b""]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_gets_over_each_fault(mock_s3, monkeypatch, fault):
    from cluster.store import open_store

    with FaultProxy(int(mock_s3["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])) as proxy:
        for name, value in {**mock_s3, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("bench.fault_proxy.SLOW_S", 0.1)
        store = open_store(f"s3://results/proxy-{fault}")
        proxy.fault = fault
        timer = threading.Timer(0.5, setattr, (proxy, "fault", ""))
        timer.start()
        assert store.create("key", b"content" * 100)
        assert store.read("key") == b"content" * 100
        assert not store.create("key", b"other")
        timer.join()
