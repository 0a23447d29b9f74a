"""Watching a training. The callbacks are called as Ray's controller would; no Ray is started."""

import json
import os
import pickle
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from fusion import storage
from fusion.errors import UserError
from fusion.training.recipes import RECIPES
from workflows.train.tracking import base as tracking_base
from workflows.train.tracking import callbacks as tracking
from workflows.train.tracking import servers, tensorboard
from workflows.train.worker import format_epoch

SETTINGS = {"recipe": {"name": "tiny", "epochs": 3}, "corpus": "s3://KEY:SECRET@bucket/corpus"}


def numbers(epoch: int, **more: float) -> dict:
    return {"train/loss": 1.0 / epoch, "val/psnr": 20.0 + epoch, "seconds": 10.0, "epoch": epoch} | more


def checkpoint_of(folder: Path, history: list[dict], name: str = "state.json"):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"history": history} if name == "state.json" else history
    (folder / name).write_text(json.dumps(content))
    return SimpleNamespace(path=str(folder), filesystem=pafs.LocalFileSystem())


def events(data: bytes) -> list:
    """The records of an event file: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, place = [], 0
    while place < len(data):
        (size,) = struct.unpack("<Q", data[place : place + 8])
        found.append(Event.FromString(data[place + 12 : place + 12 + size]))
        place += 16 + size
    return found


def shown(folder: str) -> dict[str, dict[int, float]]:
    """Tag -> step -> value as TensorBoard shows them: a start at a step takes away what came before of it and later."""
    found: dict[str, dict[int, float]] = {}
    files = [storage.join(folder, name) for name in storage.list_files(folder)]
    read = [events(storage.read_bytes(path)) for path in files]  # in the order of their names
    for event in (event for file in read for event in file):
        if event.session_log.status == 1:
            for steps in found.values():
                for step in [step for step in steps if step >= event.step]:
                    del steps[step]
        for value in event.summary.value:
            if not value.HasField("tensor"):
                assert event.step not in found.get(value.tag, {}), "a step that is there twice"
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def report(watcher: tracking_base.EpochLogger, row: dict, checkpoint=None) -> None:
    watcher.after_report(None, [row, row | {"train/loss": 99.0}], checkpoint)


def test_tensorboard_has_every_epoch(tmp_path):
    (board,) = tracking.logger_callbacks(str(tmp_path), SETTINGS, 3)
    board = pickle.loads(pickle.dumps(board))  # as it travels to the controller
    for epoch in (1, 2, 3):
        report(board, numbers(epoch, words="no number"))
    found = shown(str(tmp_path / "tensorboard"))
    assert set(found) == {"train/loss", "val/psnr", "seconds"}
    assert found["val/psnr"] == {1: 21, 2: 22, 3: 23} and found["train/loss"][2] == 0.5
    assert len(os.listdir(tmp_path / "tensorboard")) == 1


def test_tensorboard_shows_the_settings_without_secrets(tmp_path):
    (board,) = tracking.logger_callbacks(str(tmp_path), SETTINGS, 3)
    report(board, numbers(1))
    (file,) = (tmp_path / "tensorboard").iterdir()
    texts = [
        b"".join(v.tensor.string_val).decode()
        for event in events(file.read_bytes())
        for v in event.summary.value
        if v.tag.startswith("settings")
    ]
    assert len(texts) == 1 and '"name": "tiny"' in texts[0] and "s3://***@bucket/corpus" in texts[0]
    assert b"SECRET" not in file.read_bytes()


@pytest.mark.parametrize("name", ["state.json", "history.json"])
def test_a_resumed_run_has_neither_gaps_nor_doubles(tmp_path, name):
    """Epochs 2 and 3 were reported but only 2 was seen when the machine stopped; the run goes on from 3."""
    first = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    report(first, numbers(1))
    report(first, numbers(2))
    again = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    history = [numbers(epoch) for epoch in (1, 2, 3, 4)]
    report(again, history[3], checkpoint_of(tmp_path / "checkpoint", history, name))
    report(again, numbers(5))
    assert shown(str(tmp_path / "tensorboard"))["val/psnr"] == {epoch: 20 + epoch for epoch in range(1, 6)}


def test_an_epoch_that_is_done_again_takes_the_place_of_the_first(tmp_path):
    """A worker was lost after epoch 3, and the training went back to the checkpoint of epoch 1."""
    board = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    for epoch in (1, 2, 3):
        report(board, numbers(epoch))
    second = numbers(2) | {"val/psnr": 50.0}
    report(board, second, checkpoint_of(tmp_path / "checkpoint", [numbers(1), second]))
    assert shown(str(tmp_path / "tensorboard"))["val/psnr"] == {1: 21, 2: 50}


def test_old_epochs_lie_as_far_back_as_they_took(tmp_path):
    board = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    history = [numbers(epoch) for epoch in (1, 2, 3)]
    report(board, history[2], checkpoint_of(tmp_path / "checkpoint", history))
    (file,) = (tmp_path / "tensorboard").iterdir()
    times = {e.step: e.wall_time for e in events(file.read_bytes()) if any(v.tag == "seconds" for v in e.summary.value)}
    assert times[3] - times[2] == pytest.approx(10, abs=0.1) and times[3] - times[1] == pytest.approx(20, abs=0.1)


def test_what_ends_a_training_without_numbers_is_no_epoch(tmp_path):
    board = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    report(board, numbers(1))
    board.after_report(None, [{"epoch": 1}], None)
    assert shown(str(tmp_path / "tensorboard"))["val/psnr"] == {1: 21}


def test_tensorboard_on_s3(bucket):
    board = tensorboard.TensorBoard(f"{bucket}/watched", SETTINGS)
    folder = storage.join(f"{bucket}/watched", "tensorboard")
    for epoch in (1, 2):
        report(board, numbers(epoch))
        assert sorted(shown(folder)["val/psnr"]) == list(range(1, epoch + 1))  # there after each epoch
    assert len(storage.list_files(folder)) == 1


def test_a_watcher_that_fails_says_so_once_and_nothing_ends(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    board = tensorboard.TensorBoard(str(tmp_path), SETTINGS)
    for epoch in (1, 2, 3):
        report(board, numbers(epoch))
    told = capsys.readouterr().err
    assert told.count("TensorBoard does not take numbers") == 1 and "The training goes on" in told
    board.after_report(None, [{"no epoch": 1.0}], None)  # nor does nonsense


@pytest.mark.parametrize("option", ["mlflow", "wandb"])
def test_a_missing_package_is_one_line(option, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"--{option} .*'duskfuse\[{option}\]'"):
        tracking.logger_callbacks(str(tmp_path), SETTINGS, 3, **{option: "x"})


class Server(servers.RemoteLogger):
    """A tracking server in memory, which may be gone or slow."""

    name = "Server"

    def __init__(self, out, epochs=3):
        super().__init__(out, {}, epochs)
        self.got, self.gone, self.holds = [], False, threading.Event()
        self.holds.set()

    def connect(self):
        self.holds.wait()
        if self.gone:
            raise ConnectionError("no answer from https://user:word@host")

    def send(self, epoch, row):
        self.got.append((epoch, row["val/psnr"]))


def test_a_server_gets_every_epoch_before_the_next_begins(tmp_path):
    server = Server(str(tmp_path))
    for epoch in (1, 2, 3):
        report(server, numbers(epoch))
        assert server.got[-1] == (epoch, 20 + epoch)


def test_a_server_that_is_gone_gets_all_when_it_is_back(tmp_path, capsys):
    server = Server(str(tmp_path))
    server.gone = True
    report(server, numbers(1))
    report(server, numbers(2))
    told = capsys.readouterr().err
    assert told.count("Server does not take numbers: no answer from https://***@host.") == 1
    server.gone = False
    report(server, numbers(3))
    server.thread.join(10)
    assert server.got == [(1, 21), (2, 22), (3, 23)]


def test_a_server_that_hangs_holds_up_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "PATIENCE", 0.2)
    server = Server(str(tmp_path))
    server.holds.clear()
    begin = time.monotonic()
    report(server, numbers(1))
    report(server, numbers(2))
    assert time.monotonic() - begin < 5 and server.got == []
    server.holds.set()
    server.thread.join(10)
    assert server.got == [(1, 21), (2, 22)]


def test_an_epoch_done_again_is_sent_again(tmp_path):
    server = Server(str(tmp_path))
    for epoch in (1, 2, 3):
        report(server, numbers(epoch))
    second = numbers(2) | {"val/psnr": 50.0}
    report(server, second, checkpoint_of(tmp_path / "checkpoint", [numbers(1), second]))
    assert server.got == [(1, 21), (2, 22), (3, 23), (2, 50)]


def test_mlflow_in_a_store_of_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out, uri = str(tmp_path / "run"), (tmp_path / "store").as_uri()
    _, first = tracking.logger_callbacks(out, SETTINGS, 3, mlflow=uri)
    monkeypatch.setattr(servers, "PATIENCE", 120.0)  # its first import takes long on a busy machine
    report(first, numbers(1))
    _, again = tracking.logger_callbacks(out, SETTINGS, 3, mlflow=uri)  # the run goes on; epoch 2 was never sent
    history = [numbers(epoch) for epoch in (1, 2, 3)]
    report(again, history[2], checkpoint_of(tmp_path / "checkpoint", history))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("duskfuse").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["recipe/name"] == "tiny" and run.data.params["corpus"] == "s3://***@bucket/corpus"
    values = client.get_metric_history(run.info.run_id, "val/psnr")
    assert [(one.step, one.value) for one in values] == [(1, 21), (2, 22), (3, 23)]


def test_mlflow_without_a_server_warns_and_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    _, tracker = tracking.logger_callbacks(str(tmp_path), SETTINGS, 9, mlflow="http://user:word@127.0.0.1:9")
    report(tracker, numbers(1))
    tracker.thread.join(120)
    report(tracker, numbers(2))
    told = capsys.readouterr().err
    assert told.count("MLflow does not take numbers") == 1 and "word" not in told
    assert sorted(tracker.waiting) == [1, 2]


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(servers, "PATIENCE", 120.0)
    _, tracker = tracking.logger_callbacks(str(tmp_path), SETTINGS, 2, wandb="project")
    report(tracker, numbers(1))
    report(tracker, numbers(2))
    tracker.thread.join(120)
    assert tracker.sent == {1, 2} and not tracker.warned
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"val/psnr" in file.read_bytes() and b"SECRET" not in file.read_bytes()
    assert json.loads((tmp_path / "wandb.json").read_text())["run"] in str(file)


def test_the_line_of_an_epoch():
    recipe = RECIPES["tgecnet-restore-tiny"]()
    row = {"train/loss": 0.51234567, "train/l1": 0.5, "train/balance": 0.0123456, "train/images": 64, "train/steps": 8}
    row |= {"train/data_time_s": 1.0, "train/step_time_s": 3.0, "val/psnr": 21.56789, "val/ssim": 0.7}
    row |= {"epoch": 2, "seconds": 12.3, "data_time_fraction": 0.25, "images_per_second": 32.0}
    assert format_epoch(recipe, row) == (
        f"tgecnet-restore-tiny  epoch 2/{recipe.epochs} done in 12 s  loss 0.5123 (l1 0.5, balance 0.01235)  "
        "val psnr 21.57, ssim 0.7  32.0 images/s  data wait 25%"
    )
