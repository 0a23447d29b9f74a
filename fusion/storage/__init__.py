"""Files by path or URI (s3://bucket/path): whole reads and atomic writes, with retries and errors a user can act on."""

from fusion.storage.errors import StoreError
from fusion.storage.files import (
    absolute,
    exists,
    file_size,
    is_dir,
    is_uri,
    join,
    list_files,
    read_bytes,
    remove,
    resolve,
    store_errors,
    write_bytes,
    write_text,
)

__all__ = [
    "StoreError",
    "absolute",
    "exists",
    "file_size",
    "is_dir",
    "is_uri",
    "join",
    "list_files",
    "read_bytes",
    "remove",
    "resolve",
    "store_errors",
    "write_bytes",
    "write_text",
]
