"""Files by path or URI (`/data/x`, `s3://bucket/x`), one way for both.

Whole-file writes go to a temporary name beside the target and are then moved into place, so that a file
that can be seen is complete. (On S3 an object becomes visible only when it is complete; there is nothing to move.)

On S3 a folder is whatever something lies below, and the bucket itself. There every function raises StoreError, a
UserError, when the store cannot be used: wrong credentials, no such bucket, no answer (see `s3`).
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fusion.errors import UserError
from fusion.storage import arrow, s3
from fusion.storage.errors import StoreError

if TYPE_CHECKING:  # imported when first needed: what only computes does without it
    import pyarrow.fs as pafs

PASSWORD = re.compile("://[^/@]*:[^/@]*@")

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


def is_uri(path: str | Path) -> bool:
    """Whether this is a URI (scheme://...), not a local path."""
    return "://" in str(path)


def resolve(path: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return the file system that holds `path` and the path inside it.

    Raises UserError for an unknown scheme and for a password in the address.
    """
    import pyarrow.fs as pafs

    text = str(path)
    if not is_uri(text):
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    if not s3.is_s3(text) and PASSWORD.search(text):
        raise UserError(f"{text}: passwords do not belong into an address, which is kept and shown.")
    if s3.is_s3(text):
        address = s3.parse_address(text)
        return arrow.file_system(address), f"{address.bucket}/{address.key}".rstrip("/")
    try:
        fs, inner = pafs.FileSystem.from_uri(text)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot open {text}: {error}. Use a local path or s3://bucket/path.") from error
    return fs, str(inner)


def store_errors(path: str | Path) -> contextlib.AbstractContextManager[None]:
    """Return a context for reading through the file system of `resolve`: a failing store is a StoreError there too."""
    return arrow.translate_errors(s3.parse_address(str(path))) if s3.is_s3(path) else contextlib.nullcontext()


def join(root: str | Path, *parts: str) -> str:
    """Return `root/part/...`, for paths and URIs alike. Parts are plain names; a URI takes them escaped."""
    if not is_uri(root):
        return "/".join([str(root).rstrip("/"), *parts])
    base, mark, query = str(root).partition("?")
    return "/".join([base.rstrip("/"), *map(quote, parts)]) + mark + query


def absolute(path: str | Path) -> str:
    """Return the path from the root, for tasks that run in another folder; a URI as it is."""
    return str(path) if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder."""
    if s3.is_s3(path):
        address = s3.parse_address(str(path))
        return s3.object_size(address) is not None or s3.is_prefix(address)
    fs, inner = resolve(path)
    return bool(fs.get_file_info(inner).type.name != "NotFound")


def is_dir(path: str | Path) -> bool:
    """Whether there is a folder."""
    if s3.is_s3(path):
        return s3.is_prefix(s3.parse_address(str(path)))
    fs, inner = resolve(path)
    return bool(fs.get_file_info(inner).type.name == "Directory")


def file_size(path: str | Path) -> int | None:
    """Return the bytes of a file; None if there is no such file."""
    if s3.is_s3(path):
        return s3.object_size(s3.parse_address(str(path)))
    fs, inner = resolve(path)
    info = fs.get_file_info(inner)
    return int(info.size) if info.is_file else None


def list_files(root: str | Path) -> list[str]:
    """List every file below `root` as sorted relative paths; links are followed. Empty if there is no such folder."""
    import pyarrow.fs as pafs

    if s3.is_s3(root):
        return sorted(s3.list_keys(s3.parse_address(str(root))))

    fs, inner = resolve(root)
    entries = fs.get_file_info(pafs.FileSelector(inner, recursive=True, allow_not_found=True))
    prefix = inner.rstrip("/") + "/"
    return sorted(info.path.removeprefix(prefix) for info in entries if info.is_file)


def read_bytes(path: str | Path) -> bytes:
    """Read a whole file. Raises FileNotFoundError or OSError."""
    if s3.is_s3(path):
        return s3.read(s3.parse_address(str(path)))
    fs, inner = resolve(path)
    with fs.open_input_file(inner) as file:
        return bytes(file.read())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file so that it is never seen half-written. Creates the folders above it.

    UserError when the place cannot be written: a file where a folder should be, no permission, no space.
    """
    if s3.is_s3(path):
        s3.write(s3.parse_address(str(path)), data)
        return
    fs, inner = resolve(path)
    try:
        if fs.type_name == "local":
            _replace(inner, data)
        else:
            with fs.open_output_stream(inner) as file:
                file.write(data)
    except OSError as error:
        reason = error.strerror or str(error).strip().splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}. Choose another place, or put that right.") from error


def _replace(path: str, data: bytes) -> None:
    """Write a local file under another name beside `path`, then move it there."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def remove(path: str | Path) -> None:
    """Delete a file if it is there."""
    if s3.is_s3(path):
        s3.delete(s3.parse_address(str(path)))
        return
    fs, inner = resolve(path)
    if fs.get_file_info(inner).is_file:
        fs.delete_file(inner)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 text file, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))
