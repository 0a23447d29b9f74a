"""What a pipeline takes from outside: its files, by their content, so that a change is noticed at the next start.

A file on disk counts by its bytes. Those are read once: OUT/inputs.json keeps size, time and checksum, and only files
whose size or time is another are read again. An object on S3 counts by its size and the time it was written, which a
listing tells. A folder that a job of this project wrote (a corpus, a run) counts by the file it writes last.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from fusion import storage
from fusion.config import fingerprint
from fusion.errors import UserError
from workflows.pipeline.jobs import KINDS

FILE = "inputs.json"
LAST = tuple(kind.last for kind in KINDS.values() if not kind.one_file)
THREADS = 8
TOLD = 2000  # files to read, from which on it is told

Known = dict[str, list]  # path below the folder -> size, time, checksum


class Inputs:
    """inputs(path) -> a checksum of the content. `save` keeps what was read in OUT."""

    def __init__(self, out: str) -> None:

        self.path = storage.join(out, FILE)
        self.before: dict[str, Known] = read_json(self.path)
        self.now: dict[str, Known] = {}
        self.found: dict[str, str] = {}

    def __call__(self, where: str) -> str:
        """UserError: there is no such file or folder."""
        if where not in self.found:
            self.found[where] = self._look(where)
        return self.found[where]

    def save(self) -> None:

        if (known := self.before | self.now) != self.before:
            storage.write_text(self.path, json.dumps(known, separators=(",", ":")) + "\n")

    def _look(self, where: str) -> str:

        if not storage.is_dir(where):
            return _checksum(where)
        for name in LAST:
            if storage.exists(path := storage.join(where, name)):
                return _checksum(path)
        sizes = _listing(where)
        if storage.is_uri(where):
            return fingerprint(sorted(sizes.items()))
        old = self.before.get(where, {})
        fresh = [name for name, facts in sizes.items() if old.get(name, ())[:2] != facts]
        if len(fresh) >= TOLD:
            from workflows.console import log_progress

            log_progress(f"{where}: reading {len(fresh)} files once, to notice when they change")
        with ThreadPoolExecutor(THREADS) as pool:
            read = dict(zip(fresh, pool.map(lambda name: _checksum(storage.join(where, name)), fresh), strict=True))
        known = {name: [*facts, read.get(name) or old[name][2]] for name, facts in sizes.items()}
        self.now[where] = known
        return fingerprint(sorted((name, facts[2]) for name, facts in known.items()))


def read_json(path: str) -> dict:
    """{} where there is no file, or none that can be read."""

    try:
        found = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _checksum(path: str) -> str:

    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no file or folder {path}") from error
    except OSError as error:
        return f"cannot be read: {error.strerror}"  # the job says more, about the pair


def _listing(where: str) -> dict[str, list]:
    """Path below the folder -> [size, time of writing], without hidden files and folders."""

    with storage.store_errors(where):
        fs, inner = storage.resolve(where)
        found = fs.get_file_info(pafs.FileSelector(inner, recursive=True))
    prefix = inner.rstrip("/") + "/"
    files = {info.path.removeprefix(prefix): [info.size, info.mtime_ns] for info in found if info.is_file}
    return {name: facts for name, facts in files.items() if not any(part.startswith(".") for part in name.split("/"))}
