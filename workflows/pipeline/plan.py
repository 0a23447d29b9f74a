"""What a pipeline will do: the command of every stage, the folder it belongs into, whether it is done, and if not, why.

A stage's folder is OUT/NAME-HEX, of a fingerprint of all that its result depends on: the job, the recipe in full, the
other options as far as they are not the default, the content of files from outside, the fingerprints of the stages it
refers to. How it runs (workers, failures, the share of pairs that may be bad) is not among them. So a changed setting
has a folder of its own, as has everything that depends on it; nothing is overwritten, and an old setting finds its
old results.

    OUT/stages/NAME-HEX.json    written when the stage is done: its stamp, what it was made of, its seconds
    OUT/latest.json             stage -> its latest finished folder
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusion import storage
from fusion.data.synthetic import is_synthetic
from fusion.errors import UserError
from workflows.pipeline.contents import read_json
from workflows.pipeline.jobs import check, parse, settings, words
from workflows.pipeline.spec import PAIRS, Pipeline, Stage, substitute

DIGITS = 8
LATEST = "latest.json"
MOST_REASONS = 3


@dataclass(frozen=True)
class Step:
    """A stage in its place. `made_of`: what the fingerprint is of. `out`: what the job's --out is."""

    stage: Stage
    made_of: dict[str, Any]
    fingerprint: str
    folder: str
    out: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """NAME-HEX"""
        return f"{self.stage.name}-{self.fingerprint[:DIGITS]}"


def plan(pipeline: Pipeline, content: Callable[[str], str]) -> list[Step]:
    """The steps in order, each checked by the job's own parser. `content` is a checksum of a file or folder.

    UserError: an option that the job does not have or take, an input that is not there.
    """
    from fusion.config import fingerprint

    steps: dict[str, Step] = {}

    def there(name: str, below: str) -> str:
        return storage.join(steps[name].folder, *filter(None, below.split("/")))

    for stage in pipeline.stages:
        try:
            options, outside = _with_inputs(pipeline, stage)
            parsed = parse(stage.job, [*words(options), "--out", "out"])
            check(stage.job[0], parsed)
            made_of = {
                "job": " ".join(stage.job),
                "options": settings(parsed),
                "inputs": {place: content(place) for place in outside},
                "stages": {name: steps[name].fingerprint for name in stage.needs()},
            }
        except UserError as error:
            raise UserError(f"{pipeline.where}: stage {stage.name}: {error}") from error
        mark = fingerprint(made_of)
        folder = storage.join(pipeline.out, f"{stage.name}-{mark[:DIGITS]}")
        out = storage.join(folder, stage.kind.last) if stage.kind.one_file else folder
        command = (*stage.job, *words(substitute(options, there)), "--out", out)
        steps[stage.name] = Step(stage, made_of, mark, folder, out, command)
    return list(steps.values())


def _with_inputs(pipeline: Pipeline, stage: Stage) -> tuple[dict[str, Any], list[str]]:
    """The options with the pairs in place and paths from the root, and which of these come from outside."""

    outside: list[str] = []

    def whole(text: str) -> str:
        name = (re.match(r"[^/=:]*=", text) or [""])[0]
        path = text.removeprefix(name)
        if not path or path.startswith("$") or is_synthetic(path):
            return text
        outside.append(storage.absolute(path))
        return name + outside[-1]

    def each(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else whole(value)

    options = {name: _with_pairs(value, pipeline.pairs) for name, value in stage.options.items()}
    options = {name: each(value) if name in stage.kind.inputs else value for name, value in options.items()}
    return options, outside


def _with_pairs(value: Any, pairs: str) -> Any:
    """`$pairs` replaced; other references are spelled alike and stay."""
    return substitute(value, lambda name, below: (pairs if name == PAIRS else f"${{{name}}}") + below)


@dataclass(frozen=True)
class State:
    """Of the pipeline in `out`."""

    out: str

    def why(self, step: Step) -> str:
        """What there is to do: "" if the stage is done."""

        stamp = read_json(self._stamp(step.name))
        last = step.out if step.stage.kind.one_file else storage.join(step.folder, step.stage.kind.last)
        if stamp.get("fingerprint") == step.fingerprint:
            return "" if storage.exists(last) else f"{step.stage.kind.last} is gone"
        if storage.is_dir(step.folder):
            return "began, is not done"
        before = self.latest().get(step.stage.name)
        earlier = read_json(self._stamp(before)) if isinstance(before, str) else {}
        return differences(earlier["made of"], step.made_of) if "made of" in earlier else "never ran"

    def done(self, step: Step, stamp: dict[str, Any], seconds: float) -> None:

        about = {"fingerprint": step.fingerprint, "stamp": stamp, "seconds": round(seconds, 1), "made of": step.made_of}
        storage.write_text(self._stamp(step.name), json.dumps(about, indent=1) + "\n")

    def latest(self) -> dict[str, str]:

        return read_json(storage.join(self.out, LATEST))

    def point(self, step: Step) -> None:
        """OUT/latest.json, and OUT/STAGE.html or such of a stage that is one file, show this step's result."""

        latest = self.latest()
        if latest.get(step.stage.name) != step.name:
            latest[step.stage.name] = step.name
            storage.write_text(storage.join(self.out, LATEST), json.dumps(latest, indent=1) + "\n")
        if copy := self.copy_of(step):
            data = storage.read_bytes(step.out)
            if not storage.exists(copy) or storage.read_bytes(copy) != data:
                storage.write_bytes(copy, data)

    def copy_of(self, step: Step) -> str | None:
        """Where the latest result of a stage that is one file always lies."""

        ending = step.stage.kind.last.rpartition(".")[2]
        return storage.join(self.out, f"{step.stage.name}.{ending}") if step.stage.kind.one_file else None

    def _stamp(self, name: str) -> str:

        return storage.join(self.out, "stages", f"{name}.json")


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed from one fingerprint's content to the other's, in words: settings, files, stages."""
    found = []
    if before["job"] != now["job"]:
        found.append(f"job {before['job']} -> {now['job']}")
    old, new = _flat(before["options"]), _flat(now["options"])
    for name in [name for name in {**old, **new} if old.get(name, ...) != new.get(name, ...)]:
        values = [json.dumps(side[name]) if name in side else "default" for side in (old, new)]
        found.append(f"{name} {' -> '.join(values)}")
    files = {name: (before["inputs"].get(name), mark) for name, mark in now["inputs"].items()}
    found += [f"files in {name} changed" for name, (was, mark) in files.items() if was not in (None, mark)]
    found += [f"{name} changed" for name, mark in now["stages"].items() if before["stages"].get(name, mark) != mark]
    more = [f"and {len(found) - MOST_REASONS} more"] if len(found) > MOST_REASONS else []
    return ", ".join(found[:MOST_REASONS] + more) or "it was made differently"


def _flat(options: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(options, dict) or not options:
        return {name: options} if name else {}
    return {k: v for key, value in options.items() for k, v in _flat(value, f"{name}.{key}".lstrip(".")).items()}
