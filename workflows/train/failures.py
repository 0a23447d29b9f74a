"""Failure handling for training: which errors abort at once, and how they are reported in one line.

Ray Train tries again whatever a worker raises, as often as it is told. That is right for lost workers, nodes and
connections, and wrong for what stays wrong: a UserError, a full disk. Ray also writes its index of checkpoints in
place, so that a full disk or a kill may leave half of it; a whole copy is kept beside it.
"""

from __future__ import annotations

import errno
import json
import logging
from typing import Any

from ray.train import UserCallback

from fusion import storage
from fusion.errors import UserError
from fusion.storage import StoreError, s3
from fusion.storage.errors import classify_arrow_error
from workflows.cluster.errors import user_error_in
from workflows.train.elastic import InsufficientResources

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHECKPOINT_INDEX, CHECKPOINT_INDEX_BACKUP = "checkpoint_manager_snapshot.json", "checkpoints.json"


class FailFastCallback(UserCallback):
    """End the run, in Ray Train's controller, at errors that no retry mends.

    These are a UserError of a worker (but a store that fails may come back), and a full disk.
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """End the run where an error of a worker is of those."""
        for error in worker_exceptions.values():
            known = error if isinstance(error, UserError) else user_error_in(error)
            if known is not None and not isinstance(error, StoreError):
                self._end(known)
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
                self._end(UserError(_full(self.out, error)))

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Keep a copy of the index of checkpoints; end the run where the disk is full."""
        if checkpoint is not None and not storage.is_uri(self.out):  # an object of a store is never half written
            try:
                storage.write_bytes(
                    storage.join(self.out, CHECKPOINT_INDEX_BACKUP),
                    storage.read_bytes(storage.join(self.out, CHECKPOINT_INDEX)),
                )
            except UserError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in DISK_FULL_ERRNOS:
                    self._end(UserError(_full(self.out, cause)))
                self._end(error)

    @staticmethod
    def _end(error: Exception) -> None:
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # its two tracebacks of this say less
        raise error


def restore_checkpoint_index(out: str) -> None:
    """Restore Ray's index of checkpoints from its copy where it was left half written."""
    if storage.is_uri(out) or _whole(storage.join(out, CHECKPOINT_INDEX)) is not False:
        return
    if not _whole(storage.join(out, CHECKPOINT_INDEX_BACKUP)):
        storage.remove(storage.join(out, CHECKPOINT_INDEX))  # of the first checkpoint: the run starts again
        return
    storage.write_bytes(
        storage.join(out, CHECKPOINT_INDEX), storage.read_bytes(storage.join(out, CHECKPOINT_INDEX_BACKUP))
    )


def _whole(path: str) -> bool | None:
    """Return whether the file is whole JSON; None where there is none."""
    try:
        json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return False
    return True


def to_user_error(error: Exception, out: str) -> Exception:
    """Return what ended a run as UserError or InsufficientResources where it is one; else the error itself."""
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, UserError):
            return cause
        if type(cause).__name__ in ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError"):
            return InsufficientResources("the workers did not start")
        causes = [cause]
    else:
        causes = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    for cause in causes:
        if isinstance(cause, OSError):
            known = _of_storage(cause, out)
            if known is not None:
                return known
    return error


def _of_storage(error: OSError, out: str) -> UserError | None:
    """Return what the user can do about an error of the store or the disk; None for any other."""
    if error.errno in DISK_FULL_ERRNOS:
        return UserError(_full(out, error))
    if s3.is_s3(out):
        address = s3.parse_address(out)
        info = classify_arrow_error(error, address.bucket, address.store)
        return None if info is None else info.to_error("write", address)
    return None


def _full(out: str, error: OSError) -> str:
    return f"cannot write {out}: {error.strerror or error}. Free some space; the same command goes on from there."
