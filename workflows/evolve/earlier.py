"""An evolution that begins with the library, labels and network of an earlier one, in a folder of its own."""

from __future__ import annotations

import json
from typing import Any

from fusion import storage
from fusion.errors import UserError
from workflows.console import log_progress
from workflows.evolve.store import count_evolutions, read_evolution
from workflows.legacy import upgrade_settings
from workflows.outputs import describe_difference

TRAINING_FILES = ("settings.json", "run.json")  # of a finished training, beside its checkpoint; the rest is Ray's


def check_start(start: str, wanted: dict[str, Any]) -> None:
    """Raise UserError when the evolution at `start` is not finished, or is of other settings than `wanted`."""
    if not storage.exists(storage.join(start, "evolve.json")):
        raise UserError(f"{start} holds no finished evolution. Give --from the --out of one.")
    there = upgrade_settings(json.loads(storage.read_bytes(storage.join(start, "settings.json"))))
    wanted = json.loads(json.dumps(wanted))
    if there != wanted:
        difference = describe_difference(there, wanted)
        raise UserError(f"--from {start}: {difference}. Give the same pairs, splits and recipe as there.")


def copy_evolutions(start: str, out: str) -> None:
    """Copy the evolutions at `start` into `out`, unless they are there; each evolution.json last of its folder.

    UserError: `out` has other evolutions.
    """
    number, have = count_evolutions(start), count_evolutions(out)
    for n in range(1, min(number, have) + 1):
        if read_evolution(start, n) != read_evolution(out, n):
            raise UserError(f"{out} has another evolution {n} than --from {start}. Choose another --out.")
    if have >= number:
        return
    files = [name for name in storage.list_files(start) if _is_copied(name)]
    files.sort(key=lambda name: (name.endswith("/evolution.json"), name))
    log_progress(f"copying {number} evolution{'s' if number > 1 else ''} with {len(files)} files from {start}")
    for name in files:
        target = storage.join(out, *name.split("/"))
        if storage.file_size(target) != storage.file_size(storage.join(start, name)):
            storage.write_bytes(target, storage.read_bytes(storage.join(start, name)))


def _is_copied(name: str) -> bool:
    """Return whether a file of an evolution's folder belongs to its library, splits, labels or networks."""
    first, *rest = name.split("/")
    if first == "evolutions":
        inside = rest[1:]
        return inside[0] != "training" or inside[1] in (*TRAINING_FILES, "checkpoint")
    return first == "library" or name == "splits.csv"
