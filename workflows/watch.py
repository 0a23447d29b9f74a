"""Watching a training: its numbers, every epoch, go to TensorBoard and, where asked, to MLflow or Weights & Biases.

All three are callbacks of Ray Train, which run beside the training in Ray's controller; the numbers are those of all
workers. A resumed training shows every epoch once: what a watcher has not seen, it takes from the history in the
checkpoint. A watcher that fails says so once, and the training goes on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from contextlib import suppress
from typing import Any

from ray.train import UserCallback

from fusion import storage
from fusion.errors import UserError
from fusion.secrets import masked, masked_in
from workflows.cluster import say

Numbers = dict[str, Any]
FOLDER = "tensorboard"


def watchers(
    out: str, settings: Numbers, epochs: int, *, mlflow: str | None = None, wandb: str | None = None
) -> list[UserCallback]:
    """The callbacks of a training in OUT, for `training.fit`: TensorBoard, and those asked for.

    `mlflow`: URI of a tracking server; `wandb`: name of a project. `settings` are shown beside the numbers, without
    secrets. UserError where a package is missing.
    """
    for option, package in (("mlflow", mlflow), ("wandb", wandb)):
        if package is not None and importlib.util.find_spec(option) is None:
            raise UserError(f"--{option} needs a package that is not here: pip install 'duskfuse[{option}]'.")
    out = storage.absolute(out)
    settings = masked_in(settings)
    from workflows.trackers import MLflow, WandB

    found: list[UserCallback] = [TensorBoard(out, settings)]
    if mlflow is not None:
        found.append(MLflow(out, settings, epochs, mlflow))
    if wandb is not None:
        found.append(WandB(out, settings, epochs, wandb))
    return found


class Watcher(UserCallback):
    """Brings the epochs in order to `write`: one, or from the first one on where epochs are unknown or done again."""

    name = ""

    def __init__(self, out: str, settings: Numbers) -> None:
        self.out, self.settings = out, settings
        self.last: int | None = None  # the epoch written last
        self.warned = False

    def after_report(self, run_context: Any, metrics: list[Numbers], checkpoint: Any) -> None:
        try:
            now, epoch = plain(metrics[0]), int(metrics[0]["epoch"])
            if not now:
                return  # the end of a training, without numbers
            anew = self.last is None or epoch != self.last + 1
            rows = {int(row["epoch"]): plain(row) for row in history_in(checkpoint)} if anew else {}
            rows[epoch] = now
            self.write({number: rows[number] for number in sorted(rows) if number <= epoch}, anew)
            self.last = epoch
        except Exception as error:  # watching must never end a training
            self.warn(error)

    def write(self, rows: dict[int, Numbers], anew: bool) -> None:
        raise NotImplementedError

    def warn(self, error: BaseException) -> None:
        if not self.warned:
            self.warned = True
            reason = " ".join(masked(error).split())[:300] or type(error).__name__
            say(f"{self.name} does not take numbers: {reason}. The training goes on.")


def plain(row: Numbers) -> Numbers:
    """The numbers among the values, but for that of the epoch."""
    return {n: float(value) for n, value in row.items() if isinstance(value, int | float) and n != "epoch"}


def history_in(checkpoint: Any) -> list[Numbers]:
    """The numbers of all epochs that a checkpoint knows of; none without a checkpoint or a history."""
    for name in ("state.json", "history.json") if checkpoint is not None else ():
        with suppress(FileNotFoundError), checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{name}") as file:
            found = json.loads(file.read())
            return found["history"] if isinstance(found, dict) else found
    return []


class TensorBoard(Watcher):
    """Event files in OUT/tensorboard. On S3 they are written here and go up after each epoch."""

    name = "TensorBoard"

    def __init__(self, out: str, settings: Numbers) -> None:
        super().__init__(out, settings)
        self.events: Any = None
        self.path = ""

    def write(self, rows: dict[int, Numbers], anew: bool) -> None:
        if anew:
            self._begin(min(rows))
        # when the epochs before this one ended, as far as their lengths tell
        ends, clock = {}, time.time()
        for epoch in sorted(rows, reverse=True):
            ends[epoch] = clock
            clock -= rows[epoch].get("seconds", 0.0)
        for epoch, row in rows.items():
            self._event(ends[epoch], epoch, row)
        self.events.flush()
        if storage.is_uri(self.out):
            with open(self.path, "rb") as file:
                storage.write_bytes(storage.join(self.out, FOLDER, os.path.basename(self.path)), file.read())

    def _begin(self, first: int) -> None:
        """A new file, which takes the place of what older files say of this epoch and later ones."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import text

        folder = tempfile.mkdtemp() if storage.is_uri(self.out) else os.path.join(self.out, FOLDER)
        os.makedirs(folder, exist_ok=True)
        if self.events is not None:
            self.events.close()
        # written by this very thread: SummaryWriter has one of its own, and flushing it does not wait for that
        mark = f".{time.time_ns()}"  # TensorBoard reads files in the order of their names
        self.events = EventsWriter(os.path.join(folder, "events"), mark)
        self.path = next(entry.path for entry in os.scandir(folder) if entry.name.endswith(mark))
        now = time.time()
        self.events.write_event(Event(wall_time=now, step=first, session_log=SessionLog(status=SessionLog.START)))
        shown = "\n".join(f"    {line}" for line in json.dumps(self.settings, indent=2).splitlines())
        self.events.write_event(Event(wall_time=now, step=first, summary=text("settings", shown)))

    def _event(self, when: float, epoch: int, row: Numbers) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self.events.write_event(Event(wall_time=when, step=epoch, summary=Summary(value=values)))
