"""The pyarrow file system of an S3 store: for reading parts of objects, and for libraries that want a file system.

It tries again by itself, ATTEMPTS times with up to 15 s of pauses in all, and waits TIMEOUT for an answer: a store
that is silent is given up after 90 s. Writing through it has its traps, see `s3`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fusion.storage.errors import StoreError, classify_arrow_error
from fusion.storage.s3 import CONNECT_TIMEOUT, OPTIONS, SWITCHES, Address, environment

if TYPE_CHECKING:
    import pyarrow.fs as pafs

ATTEMPTS, TIMEOUT = 5, 15


def file_system(address: Address) -> pafs.S3FileSystem:
    """Return the file system for reading parts of objects; the same for all buckets of a store.

    Raises StoreError when the region of a bucket at AWS cannot be found.
    """
    options = dict(address.options)
    if address.endpoint:
        options["scheme"], _, options["endpoint_override"] = address.endpoint.rstrip("/").partition("://")
    elif "region" not in options:
        options["region"] = _region(address.bucket)
    return _file_system(tuple(options.items()), environment())


@functools.lru_cache(maxsize=16)
def _file_system(options: tuple[tuple[str, str], ...], _environment: tuple[object, ...]) -> pafs.S3FileSystem:
    import pyarrow.fs as pafs

    settings: dict[str, Any] = {name: text.lower() in ("1", "true") for name, text in options if name in SWITCHES}
    settings |= {name: text for name, text in options if name in OPTIONS}
    retry = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return pafs.S3FileSystem(connect_timeout=CONNECT_TIMEOUT, request_timeout=TIMEOUT, retry_strategy=retry, **settings)


@functools.lru_cache(maxsize=64)
def _region(bucket: str) -> str:
    import pyarrow.fs as pafs

    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"cannot find the bucket {bucket} at AWS ({reason}). Check its name and the network; "
            "AWS_ENDPOINT_URL names another store."
        ) from error


@contextlib.contextmanager
def translate_errors(address: Address) -> Iterator[None]:
    """Turn what pyarrow says of a store that fails into StoreError; missing and damaged files pass as they are."""
    try:
        yield
    except OSError as error:
        info = classify_arrow_error(error, address.bucket, address.store)
        if info is None:
            raise
        raise info.to_error("read", address) from error
