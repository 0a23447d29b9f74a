"""TensorBoard as a logger of a training."""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

from fusion import storage
from workflows.train.tracking.base import EpochLogger, Numbers

FOLDER = "tensorboard"


class TensorBoard(EpochLogger):
    """Event files in OUT/tensorboard. On S3 they are written here and go up after each epoch."""

    name = "TensorBoard"

    def __init__(self, out: str, settings: Numbers) -> None:
        super().__init__(out, settings)
        self.events: Any = None
        self.path = ""

    def write(self, rows: dict[int, Numbers], restart: bool) -> None:
        if restart:
            self._start_file(min(rows))
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

    def _start_file(self, first: int) -> None:
        """Start a file that replaces what older files say of this epoch and later ones."""
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
