"""Whole objects on S3 and on other stores that speak it, through boto3. (Parts of objects: `arrow`.)

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
        where = (
            given.get("endpoint_override")
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        return where if not where or "://" in where else f"{given.get('scheme', 'https')}://{where}"

    @property
    def store(self) -> str:
        return self.endpoint or "AWS"


def parse_address(uri: str) -> Address:
    """Raises UserError: no bucket, a key in the address, an option that does not exist."""
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
    """Bytes of an object; None if there is none."""
    if not address.key:
        return None
    try:
        head = _call("look at", address, lambda client: client.head_object(Bucket=address.bucket, Key=address.key))
    except FileNotFoundError:
        return None
    return head["ContentLength"]


def is_s3(path: object) -> bool:
    return str(path).startswith("s3://")


def is_prefix(address: Address) -> bool:
    """Whether there is anything below, or the bucket itself. StoreError if there is no such bucket."""
    page = {"Bucket": address.bucket, "Prefix": _below(address), "MaxKeys": 1}
    found = _call("list", address, lambda client: client.list_objects_v2(**page))
    return not address.key or bool(found.get("Contents"))


def list_keys(address: Address) -> list[str]:
    """Everything below, relative to it. Objects that only mark folders are left out."""
    prefix, more, found = _below(address), {}, []
    while True:
        page = {"Bucket": address.bucket, "Prefix": prefix} | more
        answer = _call("list", address, lambda client, page=page: client.list_objects_v2(**page))
        names = (item["Key"] for item in answer.get("Contents", ()))
        found += [name[len(prefix) :] for name in names if not name.endswith("/")]
        if not answer.get("IsTruncated"):
            return found
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def read(address: Address) -> bytes:
    """The whole object. Raises FileNotFoundError."""
    if not address.key:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(address))
    return _call(
        "read", address, lambda client: client.get_object(Bucket=address.bucket, Key=address.key)["Body"].read()
    )


def write(address: Address, data: bytes) -> None:
    """The whole object, or nothing of it."""
    what: dict[str, Any] = {"Bucket": address.bucket, "Key": address.key}
    if len(data) <= ONE_PUT:
        _call("write", address, lambda client: client.put_object(**what, Body=data))
        return
    what["UploadId"] = _call("write", address, lambda client: client.create_multipart_upload(**what))["UploadId"]
    try:
        parts = []
        for number, start in enumerate(range(0, len(data), PART), 1):
            part = what | {"PartNumber": number, "Body": data[start : start + PART]}
            answer = _call("write", address, lambda client, part=part: client.upload_part(**part))
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        whole = what | {"MultipartUpload": {"Parts": parts}}
        _call("write", address, lambda client: client.complete_multipart_upload(**whole))
    except BaseException:
        with contextlib.suppress(OSError, StoreError):  # what went wrong first is what counts
            _call("write", address, lambda client: client.abort_multipart_upload(**what), UNREACHABLE)
        raise


def delete(address: Address) -> None:
    """Delete an object if it is there."""
    with contextlib.suppress(FileNotFoundError):
        _call("delete", address, lambda client: client.delete_object(Bucket=address.bucket, Key=address.key))


def _below(address: Address) -> str:
    return f"{address.key}/" if address.key else ""


def _call(doing: str, address: Address, work: Callable[[Any], Result], patience: float = PATIENCE) -> Result:
    """`work(client)`, again while it fails in a way that may pass. `doing` is for the message.

    Raises FileNotFoundError for a key that is not there, else StoreError.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    start, pause, said = time.monotonic(), 0.25, False
    while True:
        try:
            return work(_client(address.options, environment()))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: no URL
            verdict = classify_boto_error(error, address.bucket, address.store)
            if verdict is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(address)) from error
            passed = time.monotonic() - start
            if passed + pause > min(patience, verdict.patience):
                raise verdict.error(doing, address, passed) from error
            if pause > 1 and not said:
                said = True
                log = logging.getLogger(__name__)
                log.warning("cannot %s %s: %s; trying again", doing, address, verdict.reason)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, LONGEST_PAUSE)


def environment() -> tuple[object, ...]:
    """What clients depend on besides the URI. A forked process must not share its parent's connections."""
    return os.getpid(), *sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))


@functools.lru_cache(maxsize=16)
def _client(options: tuple[tuple[str, str], ...], _) -> Any:
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
