"""Callbacks of Ray Train that log the numbers of each epoch."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ray.train import UserCallback

from fusion.legacy import upgrade_history
from fusion.secrets import mask_secrets
from workflows.console import log_progress

Numbers = dict[str, Any]


class EpochLogger(UserCallback):
    """Give epochs to `write` in order: the new one, or all from the first one after a restart.

    A restart is the first epoch that this logger gets, or one that does not follow the last. A logger that fails says
    so once; the training goes on.
    """

    name = ""

    def __init__(self, out: str, settings: Numbers) -> None:
        self.out, self.settings = out, settings
        self.last: int | None = None  # the epoch written last
        self.warned = False

    def after_report(self, run_context: Any, metrics: list[Numbers], checkpoint: Any) -> None:
        """Log the numbers of the first worker, which are those of all."""
        try:
            current, epoch = scalar_metrics(metrics[0]), int(metrics[0]["epoch"])
            if not current:
                return  # the end of a training, without numbers
            restart = self.last is None or epoch != self.last + 1
            rows = {int(row["epoch"]): scalar_metrics(row) for row in load_history(checkpoint)} if restart else {}
            rows[epoch] = current
            self.write({number: rows[number] for number in sorted(rows) if number <= epoch}, restart)
            self.last = epoch
        except Exception as error:  # logging must never end a training
            self.warn(error)

    def write(self, rows: dict[int, Numbers], restart: bool) -> None:
        """Write the numbers of these epochs; after a restart they replace what was written of them."""
        raise NotImplementedError

    def warn(self, error: BaseException) -> None:
        """Print the error, but only once."""
        if not self.warned:
            self.warned = True
            reason = " ".join(mask_secrets(error).split())[:300] or type(error).__name__
            log_progress(f"{self.name} does not take numbers: {reason}. The training goes on.")


def scalar_metrics(row: Numbers) -> Numbers:
    """Return the numbers among the values, but for that of the epoch."""
    return {n: float(value) for n, value in row.items() if isinstance(value, int | float) and n != "epoch"}


def load_history(checkpoint: Any) -> list[Numbers]:
    """Read the numbers of all epochs that a checkpoint knows of; [] without a checkpoint or a history."""
    for name in ("state.json", "history.json") if checkpoint is not None else ():
        with suppress(FileNotFoundError), checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{name}") as file:
            saved = json.loads(file.read())
            return upgrade_history(saved["history"] if isinstance(saved, dict) else saved)
    return []
