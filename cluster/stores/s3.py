"""Objects in an S3 bucket; the only file that imports boto3.

Endpoint and credentials come the usual AWS way (environment, profile, instance identity) and are never logged.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cluster.errors import InputError, NoSpace, StepError
from cluster.stores import google
from cluster.stores.errors import MissingObject, StoreError

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError


class S3Store:
    """Objects in a bucket. A put is atomic there; `create` is a put with If-None-Match."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        _check_environment(self.url)
        with self._explained():
            # a separate session: boto3's default one keeps the first credentials that it read
            session = boto3.session.Session()
            config = Config(retries={"max_attempts": 5, "mode": "standard"})
            self.client = session.client("s3", config=config)
            if google.is_google(self.client.meta.endpoint_url):
                unsigned = Config(signature_version=UNSIGNED, request_checksum_calculation="when_required")
                self.client = session.client("s3", config=config.merge(unsigned))
                self.client.meta.events.register("before-send.s3", google.Identity().authorize)
            self.client.list_objects_v2(Bucket=bucket, Prefix=self.prefix, MaxKeys=1)

    def read(self, key: str) -> bytes:
        """The whole object; raises `MissingObject` if there is none."""
        with self._explained(key):
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        return body

    def open(self, key: str) -> IO[bytes]:
        """The object as a file to read parts of; raises `MissingObject` if there is none."""
        with self._explained(key):
            size = self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]
        return io.BufferedReader(_Ranges(self, key, size), buffer_size=2**20)

    def part(self, key: str, first: int, size: int) -> bytes:
        """`size` bytes of an object from byte `first` on."""
        with self._explained(key):
            wanted = f"bytes={first}-{first + size - 1}"
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key, Range=wanted)["Body"].read()
        return body

    def write(self, key: str, data: bytes) -> None:
        """Publishes an object atomically, replacing an earlier one; raises `NoSpace` if the store is full."""
        with self._explained(key):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def publish(self, key: str, path: Path) -> None:
        """Publishes a file's content like `write`, without loading the whole file into memory."""
        with self._explained(key), path.open("rb") as file:
            self.client.upload_fileobj(file, self.bucket, self.prefix + key)  # a large file is uploaded in parts

    def create(self, key: str, data: bytes) -> bool:
        """Publishes an object unless there is one of that key (then False); of concurrent calls one succeeds."""
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                    return False
                raise
        return True

    def keys(self, prefix: str = "") -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        found: list[str] = []
        with self._explained():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            for page in pages:
                found += [item["Key"].removeprefix(self.prefix) for item in page.get("Contents", [])]
        return sorted(key for key in found if key and not key.endswith("/"))  # consoles write such keys to show folders

    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        with suppress(MissingObject), self._explained(key):  # Google's buckets report it, S3's do not
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    @contextmanager
    def _explained(self, key: str = "") -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise _s3_error(error, self.url, self.bucket, key) from None


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


def _check_environment(url: str) -> None:
    """Raises a `StoreError` for settings for which boto3's error names none; values are not repeated."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise StoreError(
            f"{url}: the endpoint in AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL must start with http:// or https://"
        )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        value = os.environ.get(name, "")
        if value != value.strip():
            raise StoreError(f"{url}: {name} begins or ends with white space, such as a line end; remove it")


_S3_ADVICE = {
    "NoSuchBucket": "there is no bucket {bucket!r}; create it, or check its name and AWS_ENDPOINT_URL_S3",
    "AccessDenied": "access denied; these credentials may not use bucket {bucket!r}",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired; log in again",
    "NoCredentialsError": "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "credentials are incomplete; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE names a profile that does not exist",
    "EndpointConnectionError": "nothing answers at the endpoint; check AWS_ENDPOINT_URL_S3 and the network",
    "ConnectTimeoutError": "the endpoint does not answer; check AWS_ENDPOINT_URL_S3 and the network",
    "QuotaExceeded": "the bucket's quota is used up; free some space and run the same command again",
}


def _s3_error(error: BotoCoreError | ClientError, url: str, bucket: str, key: str) -> InputError | StepError:
    response: dict[str, Any] = getattr(error, "response", {})
    code = response.get("Error", {}).get("Code") or type(error).__name__
    where = f"{url}/{key}" if key else url
    if code in ("NoSuchKey", "404"):
        return MissingObject(f"{url}: there is no {key}")
    if code == "QuotaExceeded":
        return NoSpace(f"{where}: {_S3_ADVICE[code]}")
    if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        return StepError(f"{where}: the object store answered {code}; run the same command again, what is finished is kept")
    advice = _S3_ADVICE.get({"403": "AccessDenied"}.get(code, code))
    if advice is None and not response:
        return StoreError(
            f"{where}: no request was answered ({code}); check the AWS settings (region, config file, proxy, certificates), "
            "AWS_ENDPOINT_URL_S3 and the network"
        )
    if advice is None:
        return StoreError(f"{where}: the object store answered {code}; check the bucket's name and AWS_ENDPOINT_URL_S3")
    return StoreError(f"{where}: {advice.format(bucket=bucket)}")
