"""Which failures end a training at once, how they reach the user, and what becomes of a half-written list."""

from __future__ import annotations

import errno
import json

import pytest
from ray.train import ControllerError, WorkerGroupError

from fusion.errors import UserError
from fusion.storage import StoreError
from workflows.train.elastic import InsufficientResources
from workflows.train.failures import (
    CHECKPOINT_INDEX,
    CHECKPOINT_INDEX_BACKUP,
    FailFastCallback,
    restore_checkpoint_index,
    to_user_error,
)


def test_a_user_error_of_any_worker_ends_the_run(tmp_path):
    guard = FailFastCallback(str(tmp_path))
    with pytest.raises(UserError, match="not finite"):
        guard.after_exception(None, {0: RuntimeError("connection closed"), 1: UserError("the loss is not finite")})
    wrapped = RuntimeError("of Ray")
    wrapped.cause = UserError("no such file")
    with pytest.raises(UserError, match="no such file"):
        guard.after_exception(None, {0: wrapped})


@pytest.mark.parametrize("error", [StoreError("the store does not answer"), RuntimeError("killed"), OSError(5, "I/O")])
def test_what_may_pass_is_left_to_be_tried_again(tmp_path, error):
    FailFastCallback(str(tmp_path)).after_exception(None, {0: error})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_and_says_what_to_do(number):
    with pytest.raises(UserError, match=r"cannot write /out: .*Free some space; the same command goes on"):
        FailFastCallback("/out").after_exception(None, {0: OSError(number, "full")})


def test_what_the_driver_is_told():
    class WorkerGroupStartupTimeoutError(Exception):  # as Ray calls it
        pass

    mine = UserError("the loss is not finite")
    assert to_user_error(ControllerError(mine), "/out") is mine
    assert isinstance(
        to_user_error(ControllerError(WorkerGroupStartupTimeoutError("60 s")), "/out"), InsufficientResources
    )
    full = to_user_error(ControllerError(OSError(errno.ENOSPC, "No space left on device")), "/out")
    assert isinstance(full, UserError) and "No space left on device" in str(full)
    refused = OSError("When completing upload: AWS Error NETWORK_CONNECTION during UploadPart operation: cut")
    away = to_user_error(WorkerGroupError("", {0: refused}), "s3://bucket/run")
    assert isinstance(away, StoreError) and "cannot write s3://bucket/run" in str(away)
    other = WorkerGroupError("", {0: RuntimeError("a bug")})
    assert to_user_error(other, "/out") is other


def test_a_half_written_list_of_checkpoints_is_put_back(tmp_path):
    whole = json.dumps({"checkpoint_results": []})
    (tmp_path / CHECKPOINT_INDEX).write_text(whole)
    FailFastCallback(str(tmp_path)).after_report(None, [{}], checkpoint=object())
    assert (tmp_path / CHECKPOINT_INDEX_BACKUP).read_text() == whole
    for broken in ("", whole[: len(whole) // 2]):
        (tmp_path / CHECKPOINT_INDEX).write_text(broken)
        restore_checkpoint_index(str(tmp_path))
        assert (tmp_path / CHECKPOINT_INDEX).read_text() == whole


def test_a_disk_that_is_full_for_the_copy_is_told_like_any_other(tmp_path, monkeypatch):
    (tmp_path / CHECKPOINT_INDEX).write_text("{}")

    def full(path, data):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UserError(f"cannot write {path}") from error

    monkeypatch.setattr("fusion.storage.write_bytes", full)
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path}: No space left .* the same command goes on"):
        FailFastCallback(str(tmp_path)).after_report(None, [{}], checkpoint=object())


def test_a_list_without_a_copy_is_of_no_use(tmp_path):
    (tmp_path / CHECKPOINT_INDEX).write_text("{")
    restore_checkpoint_index(str(tmp_path))
    assert not (tmp_path / CHECKPOINT_INDEX).exists()
    restore_checkpoint_index(str(tmp_path))  # a new folder


def test_a_whole_list_stays(tmp_path):
    (tmp_path / CHECKPOINT_INDEX).write_text("{}")
    (tmp_path / CHECKPOINT_INDEX_BACKUP).write_text('{"older": 1}')
    restore_checkpoint_index(str(tmp_path))
    assert (tmp_path / CHECKPOINT_INDEX).read_text() == "{}"
