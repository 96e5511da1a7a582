"""What boto3 refuses before it sends anything, and what an object store answers: each names the setting to check."""

import http.server
import os
import threading

import pytest

from cluster.errors import InputError, NoSpace, StepError
from cluster.store import open_known, open_store
from cluster.stores import outages, s3
from cluster.stores.errors import MissingObject, StoreError
from cluster.stores.s3 import _answer

SECRET = "wJalrXUtnFEMI"
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Sets AWS variables over those of a server that does not answer; a value None unsets one, {} is a folder of files."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.upper() in ("HTTP_PROXY", "HTTPS_PROXY")]:
        monkeypatch.delenv(name)
    files = {
        "broken": "[default\n",
        "process": "[default]\ncredential_process = /nowhere/x\n",
        "no-json": "[default]\ncredential_process = /bin/echo x\n",
        "source": "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = other\n",
        "style": "[default]\ns3 =\n  addressing_style = odd\n",
        "endpoint": "[default]\nendpoint_url = 127.0.0.1:9\n",
        "junk.pem": "junk",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def change(**changes):
        usual = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
                 "AWS_ENDPOINT_URL_S3": CLOSED, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
                 "AWS_CONFIG_FILE": "{}/none", "AWS_SHARED_CREDENTIALS_FILE": "{}/none"}  # fmt: skip
        for name, value in {**usual, **changes}.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
                name, value.replace("{}", str(tmp_path))
            )

    return change


NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
REFUSED = [
    ({"AWS_DEFAULT_REGION": "us east"}, "AWS_DEFAULT_REGION is 'us east'"),
    ({"AWS_DEFAULT_REGION": "us-east-1\n"}, "AWS_DEFAULT_REGION begins or ends with white space"),
    ({"AWS_DEFAULT_REGION": None, "AWS_ENDPOINT_URL_S3": "127.0.0.1:9000"}, "AWS_ENDPOINT_URL_S3 must start with http://"),
    ({"AWS_ENDPOINT_URL_S3": None, "AWS_ENDPOINT_URL": "localhost"}, "AWS_ENDPOINT_URL must start with http://"),
    ({"AWS_ENDPOINT_URL_S3": "ftp://host"}, "AWS_ENDPOINT_URL_S3 must start with http://"),
    ({"AWS_ENDPOINT_URL_S3": "http://"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": "http://host:port"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": "http://host:99999"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": "http://[::1"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": "http://my_host:9"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": f"{CLOSED}?x=1"}, "AWS_ENDPOINT_URL_S3 has no valid host and port"),
    ({"AWS_ENDPOINT_URL_S3": f"{CLOSED}\n"}, "AWS_ENDPOINT_URL_S3 begins or ends with white space"),
    ({"AWS_ENDPOINT_URL_S3": f"http://u:{SECRET}@127.0.0.1:9"}, "AWS_ENDPOINT_URL_S3 has credentials in it"),
    ({"AWS_ENDPOINT_URL_S3": None, "AWS_CONFIG_FILE": "{}/endpoint"}, "check the variables AWS_* and the config files"),
    ({}, "nothing answers at the endpoint; check AWS_ENDPOINT_URL_S3"),
    ({"AWS_ENDPOINT_URL_S3": f"{CLOSED}/"}, "nothing answers at the endpoint"),
    ({"AWS_ENDPOINT_URL_S3": f"{CLOSED}/path"}, "nothing answers at the endpoint"),
    ({"AWS_ENDPOINT_URL_S3": "HTTP://127.0.0.1:9"}, "nothing answers at the endpoint"),
    ({"AWS_CONFIG_FILE": "{}/broken"}, "a config file cannot be read (Unable to parse config file: "),
    ({"AWS_SHARED_CREDENTIALS_FILE": "{}/broken", **NO_KEYS}, "/broken); check AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS"),
    ({"AWS_CONFIG_FILE": "{}/style"}, "S3 addressing style odd is invalid"),
    ({"AWS_PROFILE": "other"}, "AWS_PROFILE names a profile that does not exist"),
    ({"AWS_PROFILE": "other "}, "AWS_PROFILE begins or ends with white space"),
    ({**NO_KEYS}, "no credentials found; set AWS_ACCESS_KEY_ID"),
    ({"AWS_SECRET_ACCESS_KEY": None}, "credentials are incomplete"),
    ({"AWS_CONFIG_FILE": "{}/source", "AWS_PROFILE": "default", **NO_KEYS}, 'The source_profile "other"'),
    ({"AWS_ACCESS_KEY_ID": "a\n"}, "AWS_ACCESS_KEY_ID begins or ends with white space, such as a line end; remove it"),
    ({"AWS_ACCESS_KEY_ID": "a\nb"}, "AWS_ACCESS_KEY_ID has a control character, such as a line end; remove it"),
    ({"AWS_SECRET_ACCESS_KEY": f"{SECRET}\r\n"}, "AWS_SECRET_ACCESS_KEY begins or ends with white space"),
    ({"AWS_SESSION_TOKEN": " t"}, "AWS_SESSION_TOKEN begins or ends with white space"),
    ({"AWS_CA_BUNDLE": "/nowhere"}, "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE is '/nowhere': No such file or directory"),
    ({"AWS_CA_BUNDLE": "{}/junk.pem", "AWS_ENDPOINT_URL_S3": "https://127.0.0.1:9"}, "/junk.pem': "),
    ({"HTTP_PROXY": CLOSED, "AWS_ENDPOINT_URL_S3": "http://192.0.2.1:80"}, "the proxy does not answer; check HTTP_PROXY"),
    ({"HTTP_PROXY": "::::"}, "HTTP_PROXY has no valid host and port"),
    ({"https_proxy": "foo://x"}, "https_proxy must start with http:// or https://"),
    ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x", **NO_KEYS}, "'/nowhere'"),
    ({"AWS_REQUEST_CHECKSUM_CALCULATION": "odd"}, "request_checksum_calculation"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_a_setting_that_cannot_be_used_is_named_without_secrets(settings, changes, reason):
    settings(**changes)
    with pytest.raises(StoreError) as caught:
        open_store("s3://results/x")
    text = str(caught.value)
    assert text.startswith("s3://results/x: ")
    assert reason in text
    assert "object store answered" not in text
    assert text.isprintable() and len(text) < 600
    assert SECRET not in text


@pytest.mark.server
@pytest.mark.parametrize("config", ["process", "no-json"])
def test_a_credential_process_that_fails_is_one_line(settings, config):
    settings(AWS_CONFIG_FILE=f"{{}}/{config}", **NO_KEYS)
    with pytest.raises(StoreError, match=r"boto3 cannot use the AWS settings \((FileNotFound|JSONDecode)Error: "):
        open_store("s3://results/x")


class Page(http.server.BaseHTTPRequestHandler):
    """A web server that is no object store."""

    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>hello")

    def log_message(self, *_):
        pass


@pytest.mark.server
@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_no_object_store_is_called_so(settings, monkeypatch, status, scheme):
    monkeypatch.setattr(Page, "status", status)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings(AWS_ENDPOINT_URL_S3=f"{scheme}://127.0.0.1:{server.server_port}")
    reason = "what answers at the endpoint is no object store" if scheme == "http" else "the server does not use https"
    with pytest.raises(StoreError, match=reason):
        open_store("s3://results/x")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "status", "key", "kind", "reason"),
    [
        ("NoSuchKey", 404, "a", MissingObject, "there is no a"),
        ("404", 404, "a", MissingObject, "there is no a"),
        ("404", 404, "", StoreError, "is no object store"),
        ("NoSuchBucket", 404, "a", StoreError, "there is no bucket 'results'"),
        ("RequestTimeTooSkewed", 403, "", StoreError, "the clock of this machine"),
        ("403", 403, "a", StoreError, "access denied"),
        ("PermanentRedirect", 301, "", StoreError, "the bucket is in another region"),
        ("AuthorizationHeaderMalformed", 400, "", StoreError, "the bucket is in another region"),
        ("NotImplemented", 501, "a", StoreError, "does not know this request"),
        ("QuotaExceeded", 403, "a", NoSpace, "quota is used up"),
        ("SlowDown", 503, "a", StepError, "overloaded or limits requests (it answered SlowDown); wait, then run the same"),
        ("TooManyRequests", 429, "a", StepError, "overloaded or limits requests"),
        ("500", 500, "", StoreError, "is no object store"),
        ("503", 503, "", StepError, "overloaded or limits requests"),
        ("ExpiredToken", 400, "a", StoreError, "the credentials have expired; log in again"),
        ("400", 400, "a", StoreError, "the credentials may have expired, or AWS_DEFAULT_REGION is wrong"),
        ("InsufficientStorage", 507, "a", NoSpace, "quota is used up"),
        ("InternalError", 500, "", StepError, "answered InternalError; run the same command again"),
        ("Strange", 400, "a", StoreError, "answered Strange; check the bucket's name"),
    ],
)
def test_an_answer_is_bad_input_or_a_failure_to_repeat(code, status, key, kind, reason):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found = _answer(ClientError(answer, "GetObject"), "s3://results/x", "results", key, "s3:GetObject")
    assert isinstance(found, kind)
    assert isinstance(found, InputError) != isinstance(found, StepError)
    assert reason in str(found)


@pytest.mark.server
def test_a_store_that_stops_answering_is_a_failure_to_repeat(mock_s3, monkeypatch):
    for name, value in {**mock_s3, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/stops")
    store.write("a", b"1")
    monkeypatch.setattr(outages, "OUTAGE_S", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", CLOSED)
    with pytest.raises(StoreError, match="nothing answers"):
        open_store("s3://results/stops")
    store.client.meta.events.register("before-send.s3", _closed)
    for call in (lambda: store.read("a"), lambda: store.write("a", b"2"), store.keys, lambda: store.create("b", b"")):
        with pytest.raises(
            StepError, match=r"no longer answers for \d+ s: .*; run the same command again, what is finished is kept"
        ):
            call()


def _closed(**_):
    from botocore.exceptions import ConnectionClosedError

    raise ConnectionClosedError(endpoint_url=CLOSED)


@pytest.mark.server
def test_folder_markers_and_odd_keys_are_listed_and_deleted_as_they_are(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/odd #?%20")
    store.client.put_object(Bucket="results", Key="odd #?%20/", Body=b"")
    store.client.put_object(Bucket="results", Key="odd #?%20/run/", Body=b"")
    keys = ["run/a b", "run/a#b", "run/a%20b", "run/a+b", "run/a=b&c", "run/a?b", "run/K\u00f6ln", "run/Ko\u0308ln"]
    for key in keys:
        store.write(key, key.encode())
    assert store.keys() == store.keys("run/") == sorted(keys)
    assert {key: store.read(key).decode() for key in keys} == {key: key for key in keys}
    for key in keys:
        store.delete(key)
    assert store.keys() == []


class Clock:
    """Time that passes only where it is slept."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        assert 0 <= seconds <= outages.LONGEST_S
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(outages, "time", made)
    return made


class Reply:
    def __init__(self, status):
        self.status_code = status


@pytest.fixture
def answering(settings, monkeypatch):
    """`answering(answer)` gives clients whose requests `answer(operation)` answers: (status, parsed answer), or an error."""
    import boto3.session

    from cluster.stores import s3

    settings()
    monkeypatch.setattr(s3, "_ANSWERED", set())

    def use(answer):
        def before_call(model, **_):
            status, parsed = answer(model.name)
            return Reply(status), {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}, **parsed}

        class Session(boto3.session.Session):
            def client(self, *args, **kwargs):
                made = super().client(*args, **kwargs)
                made.meta.events.register("before-call.s3", before_call)
                return made

        monkeypatch.setattr(boto3.session, "Session", Session)

    return use


def refusal(status, code, headers=None, **facts):
    return status, {"Error": {"Code": code, **facts},
                    "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}}  # fmt: skip


CALLS = {
    "ListObjectsV2": ("s3:ListBucket", lambda store: store.keys()),
    "GetObject": ("s3:GetObject", lambda store: store.read("a")),
    "HeadObject": ("s3:GetObject", lambda store: store.open("a")),
    "PutObject": ("s3:PutObject", lambda store: store.write("a", b"1")),
    "DeleteObject": ("s3:DeleteObject", lambda store: store.delete("a")),
}
EU = {"x-amz-bucket-region": "eu-west-1"}


class TestRefusedRequests:
    @pytest.mark.parametrize("operation", CALLS)
    def test_a_missing_permission_is_named(self, answering, operation):
        answering(lambda name: refusal(403, "AccessDenied") if name == operation and done else (200, {}))
        permission, call = CALLS[operation]
        done = []
        store = open_store("s3://results/x")
        done.append(True)
        with pytest.raises(StoreError, match=f"access denied; these credentials have no {permission} for bucket 'results'"):
            call(store)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (refusal(403, "AccessDenied"), "these credentials have no s3:ListBucket for bucket 'results'; grant it"),
            (refusal(400, "ExpiredToken"), "the credentials have expired; log in again"),
            (refusal(403, "RequestTimeTooSkewed"), "the clock of this machine differs too much from the server's; set it"),
            (refusal(301, "PermanentRedirect", EU), "the bucket is in eu-west-1; set AWS_DEFAULT_REGION to eu-west-1"),
            (refusal(400, "AuthorizationHeaderMalformed", Region="eu-west-1"), "set AWS_DEFAULT_REGION to eu-west-1"),
            (
                refusal(400, "AuthorizationHeaderMalformed", Region="{x}\n"),
                "in another region; set AWS_DEFAULT_REGION to it",
            ),
            (refusal(404, "NoSuchBucket"), "there is no bucket 'results'; create it"),
        ],
    )
    def test_what_is_wrong_is_one_line_at_once(self, answering, clock, answer, reason):
        answering(lambda _: answer)
        with pytest.raises(StoreError) as caught:
            open_store("s3://results/x")
        assert reason in str(caught.value) and str(caught.value).isprintable()
        assert clock.now == 0

    def test_a_server_that_limits_requests_is_repeated_and_then_named(self, answering, clock):
        answering(lambda name: refusal(503, "SlowDown") if name == "PutObject" else (200, {}))
        store = open_store("s3://results/x")
        with pytest.raises(
            StepError, match=r"overloaded or limits requests \(it answered SlowDown\); wait, then run the same"
        ):
            store.write("a", b"1")
        assert outages.OUTAGE_S <= clock.now <= outages.OUTAGE_S + outages.LONGEST_S


class TestOutages:
    """The time that a server is away is not slept through here: `clock` passes it."""

    def away(self, clock, seconds, kind=None):
        def answer(name):
            if answer.begun and clock.now < seconds:
                if kind is not None:
                    return refusal(kind, str(kind))
                _closed()
            answer.begun = True
            return 200, {"Contents": [{"Key": "x/a"}]} if name == "ListObjectsV2" else {}

        answer.begun = False
        return answer

    @pytest.mark.parametrize("kind", [None, 500, 503])
    def test_an_outage_of_a_minute_is_survived(self, answering, clock, kind, monkeypatch):
        times = []
        monkeypatch.setattr(s3, "repeated", lambda: times.append(clock.now))
        answering(self.away(clock, 60, kind))
        store = open_store("s3://results/x")
        assert store.keys() == ["a"]
        assert 60 <= clock.now <= 60 + outages.LONGEST_S
        assert len(times) > 10  # the repetitions are observed
        assert times[-1] == clock.now

    def test_a_longer_one_is_a_failed_step_that_names_what_goes_on(self, answering, clock):
        answering(self.away(clock, 1000))
        store = open_store("s3://results/x")
        says = r"no longer answers for 7\d s: the connection was closed .*; run the same command again, what is"
        with pytest.raises(StepError, match=says):
            store.write("a", b"1")
        assert clock.now < 90

    def test_a_server_that_never_answered_is_not_waited_for_except_where_it_is_known(self, answering, clock):
        away = self.away(clock, 8)
        away.begun = True
        answering(away)
        with pytest.raises(StoreError, match="the connection was closed without an answer; check AWS_ENDPOINT_URL_S3"):
            open_store("s3://results/x")
        assert clock.now == 0
        assert open_known("s3://results/x").keys() == ["a"]
        assert clock.now >= 8

    def test_pauses_are_random_and_grow(self, clock):
        pauses = []
        for _ in range(2):
            outage, begun = outages.Outage(), clock.now
            while outage.wait():
                pauses.append(clock.now - begun)
                begun = clock.now
        assert len(set(pauses)) == len(pauses) > 40
        assert max(pauses[:2]) < 0.51 and max(pauses) > 2

    @pytest.mark.parametrize(("there", "created"), [(b"mine", True), (b"another's", False)])
    def test_an_object_that_was_created_although_the_answer_was_lost_is_its_own(
        self, answering, clock, monkeypatch, there, created
    ):
        answers = [(200, {}), None, refusal(412, "PreconditionFailed")]

        def answer(_):
            return answers.pop(0) or _closed()

        answering(answer)
        store = open_store("s3://results/x")
        monkeypatch.setattr(store, "read", lambda key: there)
        assert store.create("a", b"mine") is created
