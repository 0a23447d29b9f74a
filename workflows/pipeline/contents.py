"""The content of what a pipeline takes from outside, so that a change is noticed at the next start.

A file on disk counts by its bytes. Those are read once: OUT/inputs.json keeps size, time and checksum, and only files
whose size or time differs are read again. An object on S3 counts by its size and the time it was written, which a
listing gives. A folder that a job of this project wrote (a corpus, a run) counts by its completion file.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from fusion import storage
from fusion.config import fingerprint
from fusion.errors import UserError
from workflows.console import log_progress
from workflows.pipeline.jobs import JOB_SPECS

FILE = "inputs.json"
COMPLETION_FILES = tuple(spec.completion_file for spec in JOB_SPECS.values() if not spec.single_file)
THREADS = 8
WARN_FILES = 2000  # from so many files to read on, a line says that it takes a while


class FileStat(NamedTuple):
    """Size in bytes and time of writing, in ns since 1970 (or what the store gives)."""

    size: int
    mtime_ns: int


class FileRecord(NamedTuple):
    """What OUT/inputs.json keeps of a file, as a list."""

    size: int
    mtime_ns: int
    sha256: str


class Inputs:
    """Checksums of files and folders: inputs(path). `save` keeps in OUT what was read."""

    def __init__(self, out: str) -> None:
        self.path = storage.join(out, FILE)
        # folder -> path below it -> record
        self.saved = {
            folder: {name: FileRecord(*record) for name, record in records.items()}
            for folder, records in read_json(self.path).items()
        }
        self.current: dict[str, dict[str, FileRecord]] = {}
        self.checksums: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """Return the checksum of a file's or folder's content. UserError: there is none."""
        if path not in self.checksums:
            self.checksums[path] = self._checksum(path)
        return self.checksums[path]

    def save(self) -> None:
        """Write OUT/inputs.json if anything was read."""
        if (records := self.saved | self.current) != self.saved:
            storage.write_text(self.path, json.dumps(records, separators=(",", ":")) + "\n")

    def _checksum(self, path: str) -> str:
        if not storage.is_dir(path):
            return _file_checksum(path)
        for name in COMPLETION_FILES:
            if storage.exists(file := storage.join(path, name)):
                return _file_checksum(file)
        stats = _list_files(path)
        if storage.is_uri(path):
            return fingerprint(sorted(stats.items()))
        saved = self.saved.get(path, {})
        known = {name: saved[name].sha256 for name, stat in stats.items() if saved.get(name, ())[:2] == stat}
        unknown = [name for name in stats if name not in known]
        if len(unknown) >= WARN_FILES:
            log_progress(f"{path}: reading {len(unknown)} files once, to notice when they change")
        with ThreadPoolExecutor(THREADS) as pool:
            read = pool.map(lambda name: _file_checksum(storage.join(path, name)), unknown)
            checksums = known | dict(zip(unknown, read, strict=True))
        self.current[path] = {name: FileRecord(*stat, checksums[name]) for name, stat in stats.items()}
        return fingerprint(sorted(checksums.items()))


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON object; {} where there is no file, or none that can be read."""
    try:
        content = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _file_checksum(path: str) -> str:
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no file or folder {path}") from error
    except OSError as error:
        return f"cannot be read: {error.strerror}"  # the job says more, about the pair


def _list_files(folder: str) -> dict[str, FileStat]:
    """Return the files below the folder, by their path in it, without hidden files and folders."""
    with storage.store_errors(folder):
        fs, inner = storage.resolve(folder)
        entries = fs.get_file_info(pafs.FileSelector(inner, recursive=True))
    prefix = inner.rstrip("/") + "/"
    files = {
        entry.path.removeprefix(prefix): FileStat(entry.size, entry.mtime_ns) for entry in entries if entry.is_file
    }
    return {name: stat for name, stat in files.items() if not any(part.startswith(".") for part in name.split("/"))}
