"""The plan of a pipeline: the command of every stage, the folder of its result, whether it is done, and if not, why.

A stage's folder is OUT/NAME-HASH, of a fingerprint of all that its result depends on: the job, the recipe in full, the
other options where they are not the default, the content of files from outside, the fingerprints of the stages it
refers to. How it runs (workers, failures, the share of pairs that may be bad) is not among them. So a changed setting
has a folder of its own, as has everything that depends on it; nothing is overwritten, and an old setting finds its
old results.

    OUT/stages/NAME-HASH.json    written when the stage is done: its provenance, what it was made of, its seconds
    OUT/latest.json              stage -> its latest finished folder
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusion import storage
from fusion.config import fingerprint
from fusion.data.synthetic import is_synthetic
from fusion.errors import UserError
from workflows.pipeline.contents import read_json
from workflows.pipeline.jobs import OptionValue, check_options, parse_options, result_settings, to_argv
from workflows.pipeline.records import Dependencies, StageRecord, find_earlier, read_record, record_name, write_record
from workflows.pipeline.spec import PAIRS, Pipeline, Stage, map_text, substitute
from workflows.provenance import Provenance

LATEST = "latest.json"
MAX_REASONS = 3


@dataclass(frozen=True)
class Step:
    """A stage with its place in OUT.

    Args:
        stage: The stage of the file.
        name: NAME-HASH, the name of its folder.
        made_of: What its result depends on.
        fingerprint: Of `made_of`.
        folder: Its own folder in OUT.
        out: The job's --out: the folder, or the file in it.
        command: What follows `duskfuse`.
    """

    stage: Stage
    name: str
    made_of: Dependencies
    fingerprint: str
    folder: str
    out: str
    command: tuple[str, ...]


def plan(pipeline: Pipeline, checksum: Callable[[str], str]) -> list[Step]:
    """Return the steps in order, each checked by the job's own parser.

    Args:
        pipeline: The stages.
        checksum: Of the content of a file or folder from outside.

    Raises:
        UserError: An option that the job does not have or take, or an input that is not there.
    """
    steps: dict[str, Step] = {}
    earlier = functools.cache(lambda: find_earlier(pipeline.out))  # read only where something is not done

    def path_of(name: str, below: str) -> str:
        return storage.join(steps[name].folder, *filter(None, below.split("/")))

    for stage in pipeline.stages:
        try:
            options, outside = _place_inputs(pipeline, stage)
            parsed = parse_options(stage.job, [*to_argv(options), "--out", "out"])
            check_options(stage.job[0], parsed)
            made_of = Dependencies(
                job=" ".join(stage.job),
                options=result_settings(parsed),
                inputs={path: checksum(path) for path in outside},
                stages={name: steps[name].fingerprint for name in stage.needs()},
            )
        except UserError as error:
            raise UserError(f"{pipeline.path}: stage {stage.name}: {error}") from error
        mark = fingerprint(made_of)
        name = record_name(stage.name, mark)
        if read_record(pipeline.out, name) is None:
            name = earlier().get((stage.name, mark), name)
        folder = storage.join(pipeline.out, name)
        out = storage.join(folder, stage.spec.completion_file) if stage.spec.single_file else folder
        argv = to_argv({option: substitute(value, path_of) for option, value in options.items()})
        command = (*stage.job, *argv, "--out", out)
        steps[stage.name] = Step(stage, name, made_of, mark, folder, out, command)
    return list(steps.values())


def _place_inputs(pipeline: Pipeline, stage: Stage) -> tuple[dict[str, OptionValue], list[str]]:
    """Return the options with the pairs in place and absolute paths, and which of these paths come from outside."""
    outside: list[str] = []

    def absolute(text: str) -> str:
        name = (re.match(r"[^/=:]*=", text) or [""])[0]
        path = text.removeprefix(name)
        if not path or path.startswith("$") or is_synthetic(path):
            return text
        outside.append(storage.absolute(path))
        return name + outside[-1]

    def place_pairs(name: str, below: str) -> str:
        # references to stages stay, all spelled alike
        return (pipeline.pairs if name == PAIRS else f"${{{name}}}") + below

    options = {name: substitute(value, place_pairs) for name, value in stage.options.items()}
    inputs = stage.spec.inputs
    options = {name: map_text(value, absolute) if name in inputs else value for name, value in options.items()}
    return options, outside


@dataclass(frozen=True)
class State:
    """What is done of the pipeline in `out`."""

    out: str

    def stale_reason(self, step: Step) -> str:
        """Return why the stage has to run; "" if it is done."""
        spec = step.stage.spec
        record = read_record(self.out, step.name)
        if record is not None and record.fingerprint == step.fingerprint:
            file = step.out if spec.single_file else storage.join(step.folder, spec.completion_file)
            return "" if storage.exists(file) else f"{spec.completion_file} is gone"
        if storage.is_dir(step.folder):
            return "began, is not done"
        latest = self.read_latest().get(step.stage.name)
        previous = read_record(self.out, latest) if isinstance(latest, str) else None
        return differences(previous.made_of, step.made_of) if previous else "never ran"

    def mark_done(self, step: Step, provenance: Provenance, seconds: float) -> None:
        """Write the record of a finished stage."""
        write_record(self.out, step.name, StageRecord(step.fingerprint, step.made_of), provenance, seconds)

    def read_latest(self) -> dict[str, Any]:
        """Return stage -> name of its latest finished folder."""
        return read_json(storage.join(self.out, LATEST))

    def update_latest(self, step: Step) -> None:
        """Let OUT/latest.json, and OUT/STAGE.html or such of a stage that is one file, show this step's result."""
        latest = self.read_latest()
        if latest.get(step.stage.name) != step.name:
            latest[step.stage.name] = step.name
            storage.write_text(storage.join(self.out, LATEST), json.dumps(latest, indent=1) + "\n")
        if copy := self.copy_path(step):
            data = storage.read_bytes(step.out)
            if not storage.exists(copy) or storage.read_bytes(copy) != data:
                storage.write_bytes(copy, data)

    def copy_path(self, step: Step) -> str | None:
        """Return where the latest result of a stage that is one file always lies; None for other stages."""
        if not step.stage.spec.single_file:
            return None
        ending = step.stage.spec.completion_file.rpartition(".")[2]
        return storage.join(self.out, f"{step.stage.name}.{ending}")


def differences(before: Dependencies, now: Dependencies) -> str:
    """Return in words what changed from one fingerprint's content to the other's: settings, files, stages."""
    changes = []
    if before.job != now.job:
        changes.append(f"job {before.job} -> {now.job}")
    old, new = _flatten(before.options), _flatten(now.options)
    for name in {**old, **new}:
        if old.get(name, ...) != new.get(name, ...):
            values = [json.dumps(side[name]) if name in side else "default" for side in (old, new)]
            changes.append(f"{name} {' -> '.join(values)}")
    for path, checksum in now.inputs.items():
        if before.inputs.get(path) not in (None, checksum):
            changes.append(f"files in {path} changed")
    changes += [f"{name} changed" for name, mark in now.stages.items() if before.stages.get(name, mark) != mark]
    more = [f"and {len(changes) - MAX_REASONS} more"] if len(changes) > MAX_REASONS else []
    return ", ".join(changes[:MAX_REASONS] + more) or "it was made differently"


def _flatten(options: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(options, dict) or not options:
        return {name: options} if name else {}
    return {k: v for key, value in options.items() for k, v in _flatten(value, f"{name}.{key}".lstrip(".")).items()}
