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
    """Brings the epochs in order to `write`: one, or from the first one on where epochs are unknown or done again."""

    name = ""

    def __init__(self, out: str, settings: Numbers) -> None:
        self.out, self.settings = out, settings
        self.last: int | None = None  # the epoch written last
        self.warned = False

    def after_report(self, run_context: Any, metrics: list[Numbers], checkpoint: Any) -> None:
        try:
            now, epoch = scalar_metrics(metrics[0]), int(metrics[0]["epoch"])
            if not now:
                return  # the end of a training, without numbers
            anew = self.last is None or epoch != self.last + 1
            rows = {int(row["epoch"]): scalar_metrics(row) for row in load_history(checkpoint)} if anew else {}
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
            reason = " ".join(mask_secrets(error).split())[:300] or type(error).__name__
            log_progress(f"{self.name} does not take numbers: {reason}. The training goes on.")


def scalar_metrics(row: Numbers) -> Numbers:
    """The numbers among the values, but for that of the epoch."""
    return {n: float(value) for n, value in row.items() if isinstance(value, int | float) and n != "epoch"}


def load_history(checkpoint: Any) -> list[Numbers]:
    """Read the numbers of all epochs that a checkpoint knows of; [] without a checkpoint or a history."""
    for name in ("state.json", "history.json") if checkpoint is not None else ():
        with suppress(FileNotFoundError), checkpoint.filesystem.open_input_file(f"{checkpoint.path}/{name}") as file:
            saved = json.loads(file.read())
            return upgrade_history(saved["history"] if isinstance(saved, dict) else saved)
    return []
