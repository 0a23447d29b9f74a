"""The files of trials: OUT/trials/NAME.json says what a trial tries, how it ended, and every epoch's numbers.

These files are all that a restarted search knows: Tune's own state, which is pickled, is never read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fusion import storage
from fusion.config import fingerprint
from fusion.legacy import upgrade_history
from fusion.training.engine import Numbers
from fusion.training.search_space import label
from workflows.legacy import upgrade_trial

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped early", "failed"


@dataclass(frozen=True)
class TrialRecord:
    """A trial and how far it is.

    values      of the searched fields of the recipe, by dotted name
    drawn       what Optuna drew, from which the values come; {} for others
    attempt     which start of the search it runs in, from 1
    trial_id    Tune's, of the trial that runs it
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    drawn: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    trial_id: str = ""
    state: str = RUNNING
    error: str = ""
    history: tuple[Numbers, ...] = ()


def trial_name(values: Mapping[str, Any], seed: int) -> str:
    """Return a folder name: what it tries, the seed, and a fingerprint that keeps near values apart."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", label(values)).strip("-.")[:60]
    return f"{words}-seed{seed}-{fingerprint({'values': dict(values), 'seed': seed})[:8]}"


def metric_key(metric: str) -> str:
    """Return the name that an objective has in reports."""
    return "train/loss" if metric == "loss" else f"val/{metric}"


def record_path(out: str, name: str) -> str:
    """Return the path of a trial's record."""
    return storage.join(out, "trials", f"{name}.json")


def read_record(out: str, name: str) -> TrialRecord | None:
    """Read the record of a trial; None where there is none."""
    data = _read_json(record_path(out, name))
    if data is None:
        return None
    data = upgrade_trial(data)
    return TrialRecord(
        data["name"],
        data["values"],
        data["seed"],
        data["raw"],
        data.get("attempt", 0),
        data.get("id", ""),
        data["state"],
        data["error"],
        tuple(data["history"]),
    )


def read_records(out: str) -> dict[str, TrialRecord]:
    """Read the records of all trials, by name."""
    paths = sorted(storage.list_files(storage.join(out, "trials")))
    names = [path.removesuffix(".json") for path in paths if "/" not in path and path.endswith(".json")]
    records = {name: read_record(out, name) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def ended_trials(out: str) -> dict[str, TrialRecord]:
    """Read the records of trials that need not run again. Failed ones are tried again."""
    return {name: record for name, record in read_records(out).items() if record.state in (FINISHED, STOPPED)}


def write_record(out: str, record: TrialRecord, state: str, error: str = "") -> TrialRecord:
    """Write the record of a trial, with this state and the epochs that it has so far."""
    history = read_history(storage.join(out, "trials", record.name))
    record = replace(record, state=state, error=error, history=tuple(history))
    data = {"name": record.name, "values": record.values, "seed": record.seed, "raw": record.drawn}
    data |= {"attempt": record.attempt, "id": record.trial_id, "state": state, "error": error, "history": history}
    storage.write_text(record_path(out, record.name), json.dumps(data))
    return record


def read_history(folder: str) -> list[Numbers]:
    """Read the epochs of a run so far: of a finished one, or up to its last checkpoint."""
    if (result := _read_json(storage.join(folder, "run.json"))) is not None:
        return upgrade_history(result["history"])
    paths = [path for path in storage.list_files(folder) if path.endswith("/state.json")]
    states = [_read_json(storage.join(folder, path)) for path in paths]
    histories = [state["history"] for state in states if state and "history" in state]
    return upgrade_history(max(histories, key=len, default=[]))


def _read_json(path: str) -> Any:
    """Read a JSON file; None where there is none."""
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
