"""An output folder belongs to one piece of work: claimed before it begins, looked at from here when it is done."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fusion import storage
from fusion.errors import UserError
from workflows.legacy import upgrade_settings


def write_json(path: str, content: Any) -> None:
    """Write `content` as indented JSON."""
    storage.write_text(path, json.dumps(content, indent=1) + "\n")


@contextmanager
def completing(out: str, name: str) -> Iterator[Callable[[Any], None]]:
    """Take OUT/`name` away, which says that the folder is complete; yield the function that writes it, last, as JSON.

    Until it is called the folder is not complete.
    """
    path = storage.join(out, name)
    storage.remove(path)
    yield lambda content: write_json(path, content)


def claim_output(out: str, name: str, content: dict[str, Any], what: str, beside: tuple[str, ...] = ()) -> None:
    """Write `content` as OUT/`name` first, so that a folder never mixes two pieces of work.

    UserError if OUT is claimed with other content, or is not empty and not claimed. `what`: "corpus", "run". `beside`:
    how the names of files begin that may be there before. A claim of an earlier version is compared in today's keys.
    """
    path = storage.join(out, name)
    claimed: Any = None
    try:
        claimed = upgrade_settings(json.loads(storage.read_bytes(path)))
    except (FileNotFoundError, NotADirectoryError):
        if storage.is_dir(out) and not all(file.startswith(beside) for file in storage.list_files(out)):
            raise UserError(f"{out} is not empty and holds no {what}. Choose another --out, or empty it.") from None
        write_json(path, content)
        return
    except (ValueError, AttributeError):  # no JSON, or no JSON object
        pass
    wanted = json.loads(json.dumps(content))
    if claimed != wanted:
        difference = describe_difference(claimed, wanted)
        raise UserError(f"{out} holds another {what}: {difference} (see {path}). Choose another --out, or delete it.")


def describe_difference(claimed: Any, wanted: Any, name: str = "") -> str:
    """Return the first setting that differs, in words."""
    if not isinstance(claimed, dict) or not isinstance(wanted, dict):
        if isinstance(claimed, str) and len(claimed) == 64:  # a fingerprint
            return f"{name} differ: other files, corpus or versions of the libraries"
        return f"{name or 'it'} is {claimed!r} there and {wanted!r} now"
    keys = [key for key in {**wanted, **claimed} if claimed.get(key) != wanted.get(key)]
    keys.sort(
        key=lambda key: isinstance(claimed.get(key), str) and len(claimed[key]) == 64
    )  # words before fingerprints
    return describe_difference(claimed.get(keys[0]), wanted.get(keys[0]), f"{name}.{keys[0]}".lstrip("."))


def require_own_output(out: str, marker: str, what: str) -> None:
    """Raise UserError when OUT holds files, but none of an earlier result of this kind."""
    if storage.is_dir(out) and not storage.exists(storage.join(out, marker)) and storage.list_files(out):
        raise UserError(f"{out} is not empty and holds no {what}. Choose another --out, or empty it.")


def require_visible(out: str, hidden: Sequence[str], what: str) -> None:
    """Raise UserError when files that workers have written are not here: a local folder on several nodes."""
    if hidden:
        raise UserError(
            f"{len(hidden)} {what}, {hidden[0]} first, were written but cannot be seen from here under {out}. "
            "On several nodes --out must be a shared folder or s3://."
        )


class Lease:
    """Say in OUT/lease.json that this process is writing there. Advisory: shards are the same whoever writes them.

        with Lease(out) as lease: ... lease.check() ...

    A heartbeat renews it. It is taken over when its process is gone from this machine, or when it is `STALE` seconds
    old and then does not change while it is watched for a beat and a half, so clocks need not agree. UserError, naming
    the holder, while somebody else has it. Two that find it free within one slow write of each other may both have it
    until the next beat.
    """

    NAME, BEAT, STALE = "lease.json", 10.0, 60.0

    def __init__(self, out: str) -> None:
        self.out, self.path = out, storage.join(out, self.NAME)
        self.me = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
        self.lost: dict | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        holder = self._read()
        if holder is not None and not self._abandoned(holder):
            raise UserError(self._held_by(holder))
        start = time.monotonic()
        self._write()
        time.sleep(max(0.2, 3 * (time.monotonic() - start)))  # of two that found it free, the last to write has it
        if (holder := self._read()) is not None and holder.get("id") != self.me["id"]:
            raise UserError(self._held_by(holder))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError, UserError):  # the job's own error says more
            if (self._read() or {}).get("id") == self.me["id"]:
                storage.remove(self.path)

    def check(self) -> None:
        """Raise UserError when another process took the lease over."""
        if self.lost is not None:
            raise UserError(self._held_by(self.lost) + " This one stops.")

    def _renew(self) -> None:
        while not self._stop.wait(self.BEAT):
            with suppress(Exception):  # storage that fails for good stops the job itself; a missed beat does not
                holder = self._read()
                if holder is not None and holder.get("id") != self.me["id"]:
                    self.lost = holder
                    return
                self._write()

    def _read(self) -> dict | None:
        try:
            holder = json.loads(storage.read_bytes(self.path))
            return holder if isinstance(holder, dict) else {}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            return {}

    def _write(self) -> None:
        storage.write_text(self.path, json.dumps(self.me | {"beat": time.time()}) + "\n")

    def _abandoned(self, holder: dict) -> bool:
        if not isinstance(holder.get("beat"), (int, float)):
            return True
        if holder.get("host") == self.me["host"] and not _alive(holder.get("process")):
            return True
        if 0 <= time.time() - holder["beat"] <= self.STALE:
            return False
        time.sleep(1.5 * self.BEAT)  # old by this clock: does it still beat?
        return self._read() == holder

    def _held_by(self, holder: dict) -> str:
        beat = holder.get("beat")
        ago = f"{max(time.time() - beat, 0):.0f} s ago" if isinstance(beat, (int, float)) else "at no known time"
        return (
            f"{self.out} is being written by process {holder.get('process')} on {holder.get('host')}, last heard of "
            f"{ago}. Wait for it, or end it and run this again; after {self.STALE:.0f} s of silence it is taken over."
        )


def _alive(process: object) -> bool:
    if not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
