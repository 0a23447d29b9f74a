"""OUT/stages/NAME-HASH.json: the record of a finished stage.

Records of earlier versions, whose options and recipe fields had other names or were fewer, are read as if they were
written today, so that what was done then is not done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fusion import storage
from fusion.config import fingerprint, to_dict
from fusion.legacy import upgrade_recipe
from workflows.options import RENAMED
from workflows.pipeline.contents import read_json
from workflows.provenance import Provenance

FOLDER = "stages"
DIGITS = 8  # of the fingerprint in a folder's name


@dataclass(frozen=True)
class Dependencies:
    """All that the result of a stage depends on.

    Args:
        job: As on the command line, such as "train tgecnet-fuse".
        options: The recipe in full, other options where they are not the default.
        inputs: Path of a file or folder from outside -> checksum of its content.
        stages: Stage it refers to -> fingerprint of that one.
    """

    job: str
    options: dict[str, Any]
    inputs: dict[str, str]
    stages: dict[str, str]


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage was made of, and the fingerprint of that."""

    fingerprint: str
    made_of: Dependencies


def record_name(stage: str, mark: str) -> str:
    """Return NAME-HASH of a stage whose dependencies have this fingerprint."""
    return f"{stage}-{mark[:DIGITS]}"


def write_record(out: str, name: str, record: StageRecord, provenance: Provenance, seconds: float) -> None:
    """Write OUT/stages/NAME-HASH.json, also with what made the result and how long it took."""
    content = {
        "fingerprint": record.fingerprint,
        "provenance": provenance,
        "seconds": round(seconds, 1),
        "made_of": to_dict(record.made_of),
    }
    storage.write_text(_path(out, name), json.dumps(content, indent=1) + "\n")


def read_record(out: str, name: str) -> StageRecord | None:
    """Read the record of NAME-HASH; None where there is none, or none that can be read."""
    content = read_json(_path(out, name))
    return _upgrade(out, content.get("made_of", content.get("made of")))


def find_earlier(out: str) -> dict[tuple[str, str], str]:
    """Return (stage, fingerprint) -> NAME-HASH of the stages that an earlier version finished in OUT."""
    found = {}
    for file in storage.list_files(storage.join(out, FOLDER)):
        name = file.removesuffix(".json")
        record = read_record(out, name)
        if record is not None and name != record_name(name.rpartition("-")[0], record.fingerprint):
            found[name.rpartition("-")[0], record.fingerprint] = name
    return found


def _upgrade(out: str, made_of: Any) -> StageRecord | None:
    """Return a record with today's names and fields, and so with today's fingerprint; None for what is none."""
    try:
        job = made_of["job"]
        stages = {}
        for stage, mark in made_of["stages"].items():
            record = read_record(out, record_name(stage, mark))
            stages[stage] = record.fingerprint if record else mark
        options = upgrade_options(job.split()[0], made_of["options"])
        dependencies = Dependencies(job, options, made_of["inputs"], stages)
    except (AttributeError, KeyError, TypeError):
        return None
    return StageRecord(fingerprint(dependencies), dependencies)


def upgrade_options(job: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a job, by the names of an earlier version, with the names of today."""
    renamed = {old.replace("-", "_"): new.replace("-", "_") for old, new in RENAMED.get(job, {}).items()}
    renamed.pop("start", None)  # --from is still the field `start`: `from` is a word of Python
    upgraded = {renamed.get(name, name): value for name, value in options.items()}
    return upgraded | {"recipe": upgrade_recipe(options["recipe"])} if "recipe" in options else upgraded


def _path(out: str, name: str) -> str:
    return storage.join(out, FOLDER, f"{name}.json")
