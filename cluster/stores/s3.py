"""Objects in an S3 bucket; the only file that imports boto3.

Endpoint and credentials come the usual AWS way (environment, profile, instance identity) and are never logged.
"""

from __future__ import annotations

import io
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cluster.errors import InputError, NoSpace, StepError
from cluster.stores import google
from cluster.stores.errors import MissingObject, StoreError, Unreachable
from cluster.stores.leftover import Leftover
from cluster.stores.observed import repeated, timed
from cluster.stores.outages import Outage
from cluster.texts import one_line

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


CONNECT_S, READ_S = 10.0, 30.0  # seconds without a byte after which an attempt at a request has failed
STARTING_S = 10.0  # seconds for which the first request is repeated if the server answers that it is not ready
_ANSWERED: set[str] = set()  # endpoints that have answered this process
T = TypeVar("T")


class S3Store:
    """Objects in a bucket. A put is atomic there; `create` is a put with If-None-Match.

    Requests that the server does not answer, or answers with an error of its own, are repeated for `OUTAGE_S` seconds.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.answered = False  # whether a request was answered: what fails later is no fault of the settings
        _check_environment(self.url)
        # a separate session: boto3's default one keeps the first credentials that it read
        config = Config(
            retries={"total_max_attempts": 3, "mode": "standard"},  # of a part of a transfer; `_request` repeats the rest
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            tcp_keepalive=True,
        )

        def connect() -> None:
            session = boto3.session.Session()
            self.client = session.client("s3", config=config)
            if google.is_google(self.client.meta.endpoint_url):
                unsigned = Config(signature_version=UNSIGNED, request_checksum_calculation="when_required")
                self.client = session.client("s3", config=config.merge(unsigned))
                self.client.meta.events.register("before-send.s3", google.Identity().authorize)
            self.answered = self.client.meta.endpoint_url in _ANSWERED
            self.client.list_objects_v2(Bucket=bucket, Prefix=self.prefix, MaxKeys=1)

        self._request("s3:ListBucket", "", connect)
        _ANSWERED.add(self.client.meta.endpoint_url)

    @timed
    def read(self, key: str) -> bytes:
        """The whole object; raises `MissingObject` if there is none."""
        return self._get(key)

    def open(self, key: str) -> IO[bytes]:
        """The object as a file to read parts of; raises `MissingObject` if there is none."""
        found = self._request("s3:GetObject", key, lambda: self.client.head_object(**self._object(key)))
        return io.BufferedReader(_Ranges(self, key, found["ContentLength"]), buffer_size=2**20)

    @timed
    def part(self, key: str, first: int, size: int) -> bytes:
        """`size` bytes of an object from byte `first` on."""
        return self._get(key, Range=f"bytes={first}-{first + size - 1}")

    @timed
    def write(self, key: str, data: bytes) -> None:
        """Publishes an object atomically, replacing an earlier one; raises `NoSpace` if the store is full."""
        self._request("s3:PutObject", key, lambda: self.client.put_object(**self._object(key), Body=data))

    @timed
    def publish(self, key: str, path: Path) -> None:
        """Publishes a file's content like `write`, without loading the whole file into memory."""
        from boto3.s3.transfer import TransferConfig

        few = TransferConfig(max_concurrency=4)  # parts of 8 MiB that are in memory at once

        def upload() -> None:
            with path.open("rb") as file:
                self.client.upload_fileobj(file, self.bucket, self.prefix + key, Config=few)

        self._request("s3:PutObject", key, upload)

    @timed
    def create(self, key: str, data: bytes) -> bool:
        """Publishes an object unless there is one of that key (then False); of concurrent calls one succeeds.

        Where an answer was lost and the request repeated, an equal object counts as published by this call.
        """
        from botocore.exceptions import ClientError

        sent = 0

        def put() -> bool:
            nonlocal sent
            sent += 1
            try:
                self.client.put_object(**self._object(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                response: Any = error.response
                if response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                    raise
                repeated = sent > 1 or response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
                with suppress(MissingObject):
                    return bool(repeated) and self.read(key) == data
                return False
            return True

        return self._request("s3:PutObject", key, put)

    @timed
    def keys(self, prefix: str = "") -> list[str]:
        """Every key that starts with `prefix`, sorted."""

        def listed() -> list[str]:
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            return [item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", [])]

        found = self._request("s3:ListBucket", "", listed)
        return sorted(key for key in found if key and not key.endswith("/"))  # consoles write such keys to show folders

    @timed
    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        with suppress(MissingObject):  # Google's buckets report it, S3's do not
            self._request("s3:DeleteObject", key, lambda: self.client.delete_object(**self._object(key)))

    def leftovers(self, prefix: str = "") -> list[Leftover]:
        """Uploads in parts that were begun and neither finished nor cancelled."""

        def listed() -> list[Leftover]:
            uploads = self.client.get_paginator("list_multipart_uploads")
            pages = uploads.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            return [self._upload(upload) for page in pages for upload in page.get("Uploads", [])]

        return self._request("s3:ListBucketMultipartUploads", "", listed)

    def _upload(self, upload: dict[str, Any]) -> Leftover:
        which = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        pages = self.client.get_paginator("list_parts").paginate(**which)
        size = sum(part["Size"] for page in pages for part in page.get("Parts", []))
        age_s = (datetime.now(UTC) - upload["Initiated"]).total_seconds()
        name = upload["Key"].removeprefix(self.prefix)
        return Leftover(name, upload["UploadId"], size, age_s)

    def discard(self, leftover: Leftover) -> None:
        """Cancels an upload in parts."""
        key = leftover.name
        with suppress(MissingObject):
            self._request(
                "s3:AbortMultipartUpload",
                key,
                lambda: self.client.abort_multipart_upload(**self._object(key), UploadId=leftover.handle),
            )

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _get(self, key: str, **which: str) -> bytes:
        def get() -> bytes:
            body: bytes = self.client.get_object(**self._object(key), **which)["Body"].read()
            return body

        return self._request("s3:GetObject", key, get)

    def _request(self, permission: str, key: str, send: Callable[[], T]) -> T:
        """The answer to a request, which is repeated while the server is away.

        permission: that the request needs. Raises a `StepError` after an outage that is too long, and where no request
        was ever answered a `StoreError` that names the setting to check, at once.
        """
        from botocore.exceptions import ClientError

        outage, where = Outage(), f"{self.url}/{key}" if key else self.url
        while True:
            try:
                answer = send()
                self.answered = True
                return answer
            except (InputError, StepError, MemoryError):  # of Google's identity, for example
                raise
            except ClientError as error:
                passing, failure = _is_passing(error), _answer(error, self.url, self.bucket, key, permission, self.answered)
            except Exception as error:  # boto3 also passes on what its config files, helpers and urllib3 raise
                passing, reason = self.answered and type(error).__name__ in _AWAY, _unanswered(error)
                kind = Unreachable if type(error).__name__ in _AWAY else StoreError
                failure = kind(f"{where}: {reason}")
                if self.answered:
                    waited = f" for {outage.waited_s:.0f} s" if passing else ""
                    again = "run the same command again, what is finished is kept"
                    failure = StepError(f"{where}: the object store no longer answers{waited}: {reason}; {again}")
            if not passing or not outage.wait() or not (self.answered or outage.waited_s < STARTING_S):
                raise failure from None
            repeated()


class _Ranges(io.RawIOBase):
    """An object in a bucket as a file: each read requests its range."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self.store, self.key, self.size, self.at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.size - self.at)
        if count <= 0:
            return 0
        buffer[:count] = self.store.part(self.key, self.at, count)
        self.at += count
        return count

    def readall(self) -> bytes:
        """The rest in one request; Python's own implementation requests 8 KiB at a time."""
        rest = self.store.part(self.key, self.at, self.size - self.at) if self.at < self.size else b""
        self.at += len(rest)
        return rest


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def _check_environment(url: str) -> None:
    """Raises a `StoreError` for variables for which boto3's error names none; values of secrets are not repeated."""
    for name, value in os.environ.items():
        if not name.startswith("AWS_") and name not in _PROXIES:
            continue
        if value != value.strip():
            raise StoreError(f"{url}: {name} begins or ends with white space, such as a line end; remove it")
        if not value.isprintable():
            raise StoreError(f"{url}: {name} has a control character, such as a line end; remove it")
    for name in _ENDPOINTS:
        _check_url(url, name, os.environ.get(name, ""), "the server's address, such as http://host:9000")
    for name in _PROXIES:
        value = os.environ.get(name, "")
        _check_url(url, name, value if "://" in value or not value else f"http://{value}", "a proxy's address")
    region = os.environ.get("AWS_DEFAULT_REGION")
    if region and not re.fullmatch("[A-Za-z0-9-]+", region):
        raise StoreError(f"{url}: AWS_DEFAULT_REGION is {region!r}; give a region, such as us-east-1")
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        try:
            ssl.create_default_context(cafile=bundle)
        except OSError as error:  # also of a file without certificates
            reason = error.strerror or "no certificate in it"
            raise StoreError(f"{url}: AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE is {bundle!r}: {reason}") from None


def _check_url(url: str, name: str, value: str, expected: str) -> None:
    """Raises a `StoreError` unless a variable is empty or the URL of a server."""
    if not value:
        return
    if not value.lower().startswith(("http://", "https://")):
        raise StoreError(f"{url}: {name} must start with http:// or https://; give {expected}")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if not re.fullmatch(r"[A-Za-z0-9.:-]+", host) or parts.query or parts.fragment:
        raise StoreError(f"{url}: {name} has no valid host and port; give {expected}")
    if "@" in parts.netloc and name in _ENDPOINTS:
        raise StoreError(f"{url}: {name} has credentials in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")


_REGION = "the bucket is in {region}; set AWS_DEFAULT_REGION to {it}"
_CLOCK = "the clock of this machine differs too much from the server's; set it"
_EXPIRED = "the credentials have expired; log in again"
_ANSWERS = {
    "NoSuchBucket": "there is no bucket {bucket!r}; create it, or check its name and AWS_ENDPOINT_URL_S3",
    "AccessDenied": "access denied; these credentials have no {permission} for bucket {bucket!r}; grant it, or use others",
    "AllAccessDisabled": "access denied; the bucket {bucket!r} is disabled",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN, or log in again",
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), _CLOCK),
    **dict.fromkeys(("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION),
    **dict.fromkeys(("PermanentRedirect", "TemporaryRedirect", "301", "307"), f"{_REGION}, and check AWS_ENDPOINT_URL_S3"),
    "400": "the request was refused without a reason: the credentials may have expired, or AWS_DEFAULT_REGION is wrong",
    "InvalidBucketName": "the server has no bucket of that name; check it",
    "NotImplemented": "the server does not know this request (If-None-Match, or a listing of version 2); use another server",
    "MethodNotAllowed": "the server does not allow this request; check AWS_ENDPOINT_URL_S3",
    "KeyTooLongError": "the key is too long; give a shorter prefix",
}
_SLOW = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
         "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests", "429", "503"}  # fmt: skip
# Answers with a status below 500 that a repetition may not get.
_PASSING = {*_SLOW, "RequestTimeout", "ConditionalRequestConflict", "OperationAborted"}


def _status(error: ClientError) -> int:
    response: Any = error.response
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    response: Any = error.response
    return response.get("Error", {}).get("Code") or type(error).__name__


def _is_passing(error: ClientError) -> bool:
    """Whether a repetition of the request may be answered otherwise."""
    permanent = _code(error) in ("NotImplemented", "QuotaExceeded") or _status(error) in (501, 505, 507)
    return _code(error) in _PASSING or (_status(error) >= 500 and not permanent)


def _answer(
    error: ClientError, url: str, bucket: str, key: str, permission: str, answered: bool = False
) -> InputError | StepError:
    """The error that an answer of the object store stands for. answered: whether it is known to be an object store."""
    response: Any = error.response
    code, where, again = _code(error), f"{url}/{key}" if key else url, "run the same command again, what is finished is kept"
    if code in ("NoSuchKey", "NoSuchUpload", "404") and key:
        return MissingObject(f"{url}: there is no {key}")
    if code in ("NoSuchKey", "404", "500") and not key and not answered:  # a listing without an object store's own code
        return StoreError(f"{where}: what answers at the endpoint is no object store; check AWS_ENDPOINT_URL_S3")
    if code == "QuotaExceeded" or _status(error) == 507:
        return NoSpace(f"{where}: the bucket's quota is used up; free some space and run the same command again")
    if code in _SLOW:
        return StepError(
            f"{where}: the object store is overloaded or limits requests (it answered {code}); wait, then {again}"
        )
    advice = _ANSWERS.get({"403": "AccessDenied"}.get(code, code))
    if advice is not None:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region", "")
        known = region if re.fullmatch("[A-Za-z0-9-]+", region) else ""
        advice = advice.format(bucket=bucket, permission=permission, region=known or "another region", it=known or "it")
        return StoreError(f"{where}: {advice}")
    if _status(error) >= 500 or code in _PASSING:
        return StepError(f"{where}: the object store answered {code}; {again}")
    return StoreError(f"{where}: the object store answered {code}; check the bucket's name and AWS_ENDPOINT_URL_S3")


# What boto3 refuses, or cannot send, by the name of its error; where the error's text names the cause, {text} repeats it.
_REFUSED = {
    "NoCredentialsError": "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "credentials are incomplete; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE names a profile that does not exist",
    "CredentialRetrievalError": "credentials could not be fetched ({text}); check credential_process or the pod's identity",
    "ConfigParseError": "a config file cannot be read ({text}); check AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE",
    "InvalidRegionError": "the region is no name of one; check AWS_DEFAULT_REGION, or region in the config file",
    "NoRegionError": "no region is set; set AWS_DEFAULT_REGION",
    "EndpointConnectionError": "nothing answers at the endpoint; check AWS_ENDPOINT_URL_S3 and the network",
    "ConnectTimeoutError": "the endpoint does not answer; check AWS_ENDPOINT_URL_S3 and the network",
    "ReadTimeoutError": "the endpoint stopped answering; check AWS_ENDPOINT_URL_S3 and the network",
    "ConnectionClosedError": "the connection was closed without an answer; check AWS_ENDPOINT_URL_S3 (http or https)",
    "ProxyConnectionError": "the proxy does not answer; check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    "EndpointResolutionError": "the endpoint is no server's address; check AWS_ENDPOINT_URL_S3",
    "ResponseParserError": "what answers at the endpoint is no object store; check AWS_ENDPOINT_URL_S3",
    "ResponseStreamingError": "the connection was closed within an answer; check the network",
    "IncompleteReadError": "the connection was closed within an answer; check the network",
    "FlexibleChecksumError": "an answer differs from its checksum; check the network, and run `ofa results verify`",
    "SSOTokenLoadError": "the login of AWS_PROFILE has ended; run `aws sso login`",
    "UnauthorizedSSOTokenError": "the login of AWS_PROFILE has ended; run `aws sso login`",
    "TokenRetrievalError": "the login of AWS_PROFILE has ended; run `aws sso login`",
}
# Of a server that is away, or a connection that is: after a request was answered, repeated for a while.
_AWAY = {
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "ProxyConnectionError"),
    *("HTTPClientError", "SSLError", "ConnectionError", "ResponseParserError", "CredentialRetrievalError"),
    *("ResponseStreamingError", "IncompleteReadError", "FlexibleChecksumError"),  # half an answer
}
_TLS = {
    "WRONG_VERSION_NUMBER": "the server does not use https; write http:// in AWS_ENDPOINT_URL_S3",
    "RECORD_LAYER_FAILURE": "the server does not use https; write http:// in AWS_ENDPOINT_URL_S3",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted; name the file of its authority in AWS_CA_BUNDLE",
}


def _unanswered(error: Exception) -> str:
    """Why no request was answered, and which setting to check; without values of secrets."""
    name, text = type(error).__name__, " ".join(str(error).split())
    for secret in (os.environ.get(variable, "") for variable in _SECRETS):
        text = text.replace(secret, "***") if len(secret) > 5 else text
    text = one_line(text.rstrip("."), 240)
    if name == "SSLError":
        known = next((advice for sign, advice in _TLS.items() if sign in text), None)
        return known or f"no secure connection ({text}); check AWS_CA_BUNDLE and AWS_ENDPOINT_URL_S3"
    known = _REFUSED.get(name)
    if known is not None:
        return known.format(text=text)
    return f"boto3 cannot use the AWS settings ({name}: {text}); check the variables AWS_* and the config files"
