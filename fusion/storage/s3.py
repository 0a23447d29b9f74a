"""Whole objects on S3 and on other stores that speak it, through boto3 (parts of objects: `arrow`).

Why not pyarrow for all: its writes are multipart uploads even for a few bytes (three requests), a writer that raises
leaves what it had written as a finished object, and a part that fails leaves the upload open for ever. Here an object
is one PUT, or a multipart upload that is aborted when it cannot be completed; reading is one request, not two.

Credentials, region and endpoint come from where the AWS tools take them (AWS_ENDPOINT_URL names another store); region
and endpoint may be in the URI, too: s3://bucket/path?endpoint_override=HOST:PORT&scheme=http&region=NAME. Keys may not:
addresses are kept in manifests, settings and stamps, and shown by Ray's dashboard.

What may pass (5xx, throttling, lost connections, READ_TIMEOUT without an answer) is tried again after growing pauses,
until PATIENCE is over, or UNREACHABLE where nothing listens at all. So no request takes longer than PATIENCE and one
timeout. After that, and at once for what does not pass, it is a StoreError of one line.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fusion.errors import UserError
from fusion.storage.errors import PATIENCE, UNREACHABLE, StoreError, classify_boto_error

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 20  # seconds
LONGEST_PAUSE = 10.0
ONE_PUT, PART = 256 * 2**20, 64 * 2**20  # bytes; what is larger than ONE_PUT goes up in parts
OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
SWITCHES = ("allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open")  # of pyarrow's file system alone

Result = TypeVar("Result")


@dataclass(frozen=True)
class Address:
    """A parsed s3:// URI. `key` has no slash at its end; `options`: what else the URI says."""

    bucket: str
    key: str
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{quote(self.key)}"

    @property
    def endpoint(self) -> str | None:
        """URL of the store; None for AWS."""
        given = dict(self.options)
        endpoint = (
            given.get("endpoint_override")
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        return endpoint if not endpoint or "://" in endpoint else f"{given.get('scheme', 'https')}://{endpoint}"

    @property
    def store(self) -> str:
        """Name of the store for messages."""
        return self.endpoint or "AWS"


def parse_address(uri: str) -> Address:
    """Parse an s3:// URI. Raises UserError: no bucket, an access key in the address, an option that does not exist."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserError(f"{uri} is no address ({error}). Use s3://bucket/path.") from error
    user, _, bucket = parts.netloc.rpartition("@")
    if user or (":" in bucket and "@" in uri):  # a secret with a slash in it ends the name of the bucket
        raise UserError(
            f"s3://***@{bucket if user else '...'}: keys do not belong into an address, which is kept and shown. Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    path = parts.path + (f"#{parts.fragment}" if parts.fragment else "")  # S3 knows no fragments
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    address = Address(bucket, unquote(path)[1:].rstrip("/"), options)
    if not bucket:
        raise UserError(f"{address}: there is no bucket in it. Use s3://bucket/path.")
    for option, _ in options:
        if option not in (*OPTIONS, *SWITCHES):
            raise UserError(f"{address}: unknown option {option!r}. Known: {', '.join((*OPTIONS, *SWITCHES))}.")
    return address


def object_size(address: Address) -> int | None:
    """Return the bytes of an object; None if there is none."""
    if not address.key:
        return None
    try:
        head = _call("look at", address, _request("head_object", {"Bucket": address.bucket, "Key": address.key}))
    except FileNotFoundError:
        return None
    return int(head["ContentLength"])


def is_s3(path: object) -> bool:
    """Whether this is an s3:// URI."""
    return str(path).startswith("s3://")


def is_prefix(address: Address) -> bool:
    """Whether there is anything below, or the bucket itself. StoreError if there is no such bucket."""
    page = {"Bucket": address.bucket, "Prefix": _folder_prefix(address), "MaxKeys": 1}
    answer = _call("list", address, _request("list_objects_v2", page))
    return not address.key or bool(answer.get("Contents"))


def list_keys(address: Address) -> list[str]:
    """List the keys of everything below, relative to it. Objects that only mark folders are left out."""
    prefix, keys = _folder_prefix(address), list[str]()
    page = {"Bucket": address.bucket, "Prefix": prefix}
    while True:
        answer = _call("list", address, _request("list_objects_v2", page))
        names = (item["Key"] for item in answer.get("Contents", ()))
        keys += [name[len(prefix) :] for name in names if not name.endswith("/")]
        if not answer.get("IsTruncated"):
            return keys
        page["ContinuationToken"] = answer["NextContinuationToken"]


def read(address: Address) -> bytes:
    """Read a whole object. Raises FileNotFoundError or StoreError."""
    if not address.key:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(address))

    def get(client: Any) -> bytes:
        return bytes(client.get_object(Bucket=address.bucket, Key=address.key)["Body"].read())

    return _call("read", address, get)


def write(address: Address, data: bytes) -> None:
    """Write a whole object, or nothing of it. Raises StoreError."""
    target: dict[str, Any] = {"Bucket": address.bucket, "Key": address.key}
    if len(data) <= ONE_PUT:
        _call("write", address, _request("put_object", target | {"Body": data}))
        return
    target["UploadId"] = _call("write", address, _request("create_multipart_upload", target))["UploadId"]
    try:
        parts = []
        for number, start in enumerate(range(0, len(data), PART), 1):
            part = target | {"PartNumber": number, "Body": data[start : start + PART]}
            answer = _call("write", address, _request("upload_part", part))
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        whole = target | {"MultipartUpload": {"Parts": parts}}
        _call("write", address, _request("complete_multipart_upload", whole))
    except BaseException:
        with contextlib.suppress(OSError, StoreError):  # what went wrong first is what counts
            _call("write", address, _request("abort_multipart_upload", target), UNREACHABLE)
        raise


def delete(address: Address) -> None:
    """Delete an object if it is there."""
    with contextlib.suppress(FileNotFoundError):
        _call("delete", address, _request("delete_object", {"Bucket": address.bucket, "Key": address.key}))


def _folder_prefix(address: Address) -> str:
    """Return what the keys of everything below begin with; "" for the bucket itself."""
    return f"{address.key}/" if address.key else ""


def _request(operation: str, arguments: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a function of a boto3 client that makes this request: what `_call` takes."""
    arguments = dict(arguments)
    return lambda client: getattr(client, operation)(**arguments)


def _call(action: str, address: Address, request: Callable[[Any], Result], patience: float = PATIENCE) -> Result:
    """Return `request(client)`, tried again while it fails in a way that may pass. `action` is for the message.

    Raises FileNotFoundError for a key that is not there, else StoreError.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    start, pause, warned = time.monotonic(), 0.25, False
    while True:
        try:
            return request(_client(address.options, environment()))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: no URL
            info = classify_boto_error(error, address.bucket, address.store)
            if info is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(address)) from error
            passed = time.monotonic() - start
            if passed + pause > min(patience, info.patience):
                raise info.to_error(action, address, passed) from error
            if pause > 1 and not warned:
                warned = True
                log = logging.getLogger(__name__)
                log.warning("cannot %s %s: %s; trying again", action, address, info.reason)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, LONGEST_PAUSE)


def environment() -> tuple[object, ...]:
    """Return what clients depend on besides the URI. A forked process must not share its parent's connections."""
    return os.getpid(), *sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))


@functools.lru_cache(maxsize=16)
def _client(options: tuple[tuple[str, str], ...], _environment: tuple[object, ...]) -> Any:
    """Return a boto3 client for the options of a URI, one for each environment."""
    import boto3.session
    from botocore.config import Config

    given = dict(options)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=Address("", "", options).endpoint,
        region_name=given.get("region"),
        verify=given.get("tls_ca_file_path"),
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1},  # `_call` tries again: it also sees answers that break off
            max_pool_connections=32,
            # Many stores refuse checksums sent behind the data. Without those the data is part of the signature.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
