"""The YAML file of a pipeline, with the changes of the command line, checked as far as that needs no job.

    out: runs/mine
    pairs: path/to/pairs
    stages:
      corpus:
        job: corpus
        pairs: $pairs
        preset: demmi-rf
      restore:
        job: train tgecnet-restore
        corpus: $corpus
        recipe: {epochs: 10, model: {top-k: 2}}

`job` and the options are those of the command line, word for word; `true` and `false` switch an option on and off, a
list gives it several values, a mapping gives NAME=VALUE (under `recipe`: its fields). `$corpus` is the folder of an
earlier stage (`${corpus}`, where letters follow), `$corpus/splits.csv` a file in it, `$pairs` the pairs on top.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion import storage
from fusion.errors import UserError
from workflows.pipeline.jobs import JOB_SPECS, JobSpec, OptionValue

BUILT_IN = ("tgecnet", "tgecnet-tiny", "moefusion", "moefusion-tiny", "aenet", "aenet-evolution")
FOLDER = Path(__file__).with_name("builtin")
REFERENCE = re.compile(r"\$(?:\{([\w-]+)\}|([A-Za-z][\w-]*))((?:/[\w.@+-]+)*)")
PAIRS = "pairs"  # the one reference that is not a stage


@dataclass(frozen=True)
class Stage:
    """A stage of the file: `job` in words of the command line, such as ("train", "tgecnet-fuse"), and its options."""

    name: str
    job: tuple[str, ...]
    options: dict[str, OptionValue]

    @property
    def spec(self) -> JobSpec:
        """What is known of its job."""
        return JOB_SPECS[self.job[0]]

    def needs(self) -> list[str]:
        """Return the stages it refers to, in the order in which it does."""
        names = [name for value in self.options.values() for name, _ in references(value)]
        return [name for name in dict.fromkeys(names) if name != PAIRS]


@dataclass(frozen=True)
class Pipeline:
    """A whole file. `path` is where it was read from, for messages."""

    path: str
    out: str
    pairs: str
    stages: tuple[Stage, ...]

    def to_yaml(self) -> str:
        """Return a file that gives the same pipeline again."""
        stages = {stage.name: {"job": shlex.join(stage.job), **stage.options} for stage in self.stages}
        content = {"out": self.out} | ({"pairs": self.pairs} if self.pairs else {}) | {"stages": stages}
        # without a resolver nothing needs quotes to stay text: `_load` takes everything as text
        dumper = type("Dumper", (yaml.SafeDumper,), {"yaml_implicit_resolvers": {}})
        return yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)


def read_source(name: str) -> str:
    """Read the text of a built-in pipeline or of a file. UserError: there is none."""
    if name in BUILT_IN:
        return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return storage.read_bytes(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text file. Give a pipeline in YAML.") from error
    except OSError as error:
        raise UserError(f"no pipeline at {name}. Give a file, or one of: {', '.join(BUILT_IN)}.") from error


def read_pipeline(
    name: str, *, pairs: str = "", out: str = "", change: Sequence[str] = (), skip: Sequence[str] = ()
) -> Pipeline:
    """Read a pipeline file, with what the command line changes. UserError: one line, naming file and stage.

    Args:
        name: A built-in pipeline or a file.
        pairs: Instead of the file's.
        out: Instead of the file's.
        change: Each STAGE.OPTION=VALUE, as in "restore.recipe.epochs=3"; null takes an option away.
        skip: Stages left out, also of lists and reports that name them.
    """
    content = _load(read_source(name), name)
    _refuse_unknown(content, ("out", "pairs", "stages"), name)
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"{name}: it has no stages. Give `stages:`, each with its `job:`.")
    options = {stage: _parse_options(raw, f"{name}: stage {stage}") for stage, raw in stages.items()}
    for text in change:
        _apply_change(options, text)
    for stage in skip:
        if stage not in options:
            raise UserError(f"--skip {stage}: no such stage. {name} has {', '.join(options)}.")
    kept = {stage: _skip(stage, values, skip, name) for stage, values in options.items() if stage not in skip}
    pipeline = Pipeline(
        name,
        _text(out or content.get("out", ""), f"{name}: out"),
        _text(pairs or content.get(PAIRS, ""), f"{name}: {PAIRS}"),
        tuple(_parse_stage(stage, values, name) for stage, values in kept.items()),
    )
    _check(pipeline, pairs_given=bool(pairs))
    return pipeline


def substitute(value: OptionValue, replace: Callable[[str, str], str]) -> OptionValue:
    """Return the option with every reference replaced by replace(name, "/path/below")."""
    return map_text(value, lambda text: REFERENCE.sub(lambda match: replace(match[1] or match[2], match[3]), text))


def map_text(value: OptionValue, change: Callable[[str], str]) -> OptionValue:
    """Return the option with change(text) for its text, or for every text in its list or mapping."""
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def references(value: Any) -> list[tuple[str, str]]:
    """Return (name, "/path/below") of every reference in an option, a list or a mapping of any depth."""
    if isinstance(value, dict):
        return [reference for item in value.values() for reference in references(item)]
    if isinstance(value, list):
        return [reference for item in value for reference in references(item)]
    return [(match[1] or match[2], match[3]) for match in REFERENCE.finditer(value)]


def _load(text: str, path: str) -> dict[str, Any]:
    class Loader(yaml.BaseLoader):  # every value stays the text that it is on the command line
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((name for name in names if not isinstance(name, str) or names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{path}: line {node.start_mark.line + 1}: {twice} is given twice, or is no name.")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(text, Loader)  # BaseLoader makes text, lists and mappings, nothing else
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {line}{getattr(error, 'problem', None) or 'it is no YAML'}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no pipeline. It needs `out:` and `stages:`.")
    return content


def _refuse_unknown(content: dict[str, Any], names: Sequence[str], path: str) -> None:
    unknown = next((name for name in content if name not in names), None)
    if unknown is not None:
        raise UserError(f"{path}: unknown {unknown!r}. Known: {', '.join(names)}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a word, found {value!r}.")
    return value


def _parse_options(raw: Any, where: str) -> dict[str, Any]:
    """Return a stage's options, named as the command line spells them; `recipe` flat, as in "recipe.model.top-k"."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected `job:` and its options, found {raw!r}.")
    options: dict[str, Any] = {}
    for key, value in raw.items():
        options |= _flatten(key, value) if key == "recipe" else {key.replace("_", "-"): value}
    return options


def _flatten(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.replace("_", "-"): value}
    return {key: item for below in value for key, item in _flatten(f"{name}.{below}", value[below]).items()}


def _apply_change(options: dict[str, dict[str, Any]], text: str) -> None:
    """Apply one --set to the options of all stages."""
    path, equals, value = text.partition("=")
    stage, dot, option = path.partition(".")
    if not (equals and dot and option):
        raise UserError(f"--set {text}: give STAGE.OPTION=VALUE, such as restore.recipe.epochs=3.")
    if stage not in options:
        raise UserError(f"--set {text}: no stage {stage!r}. There are {', '.join(options)}.")
    try:
        options[stage] |= _parse_options({option: yaml.load(value, yaml.BaseLoader) if value else ""}, f"--set {text}")
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no YAML. Put it in quotes.") from error


def _skip(stage: str, options: dict[str, Any], skip: Sequence[str], path: str) -> dict[str, Any]:
    """Return the options of a stage without the stages left out.

    UserError where it would become another thing: reports and lists become shorter, but a stage without its checkpoint
    or its corpus does not do what its name says.
    """
    for option, value in options.items():
        needed = {name for name, _ in references(value)} & set(skip) if isinstance(value, str) else ()
        if needed and options.get("job") != "report":
            lost = min(needed)
            raise UserError(
                f"--skip {lost}: {path}: stage {stage} needs it ({option}: {value}). "
                f"Leave that out, too, or --set {stage}.{option}=null."
            )
    return _drop(options, skip)


def _drop(options: dict[str, Any], skip: Sequence[str]) -> dict[str, Any]:
    """Return the options without what is null, and without what refers to stages that are left out."""
    dropped = object()

    def kept(item: Any) -> Any:
        left: dict[str, Any] | list[Any]
        if isinstance(item, dict):
            values = {key: kept(value) for key, value in item.items()}
            left = {key: value for key, value in values.items() if value is not dropped}
        elif isinstance(item, list):
            left = [value for value in map(kept, item) if value is not dropped]
        else:
            return dropped if item == "null" or {name for name, _ in references(item)} & set(skip) else item
        return dropped if item and not left else left

    result = kept(options)
    return {} if result is dropped else result


def _parse_stage(name: str, options: Mapping[str, Any], path: str) -> Stage:
    where = f"{path}: stage {name}"
    if not re.fullmatch(r"[A-Za-z][\w-]*", name) or name == PAIRS:
        raise UserError(f"{where}: a stage is named by letters, digits and -, and not {PAIRS}.")
    try:
        job = tuple(shlex.split(_text(options.get("job", ""), f"{where}: job")))
    except ValueError as error:
        raise UserError(f"{where}: job: {error}.") from error
    if not job or job[0] not in JOB_SPECS:
        raise UserError(f"{where}: unknown job {' '.join(job)!r}. Known: {', '.join(JOB_SPECS)}.")
    if "out" in options:
        raise UserError(f"{where}: out: the pipeline names the folders of its stages. Take it away.")
    for option, value in options.items():
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if not re.fullmatch(r"[a-z][\w.-]*", option) or not all(isinstance(item, str) for item in items):
            raise UserError(f"{where}: {option}: expected an option with a value, a list, or NAME: VALUE.")
    return Stage(name, job, {key: value for key, value in options.items() if key != "job"})


def _check(pipeline: Pipeline, pairs_given: bool) -> None:
    """Check that references go backwards, to stages of the right job, and that `out` and used `pairs` are given."""
    path = pipeline.path
    if not pipeline.out:
        raise UserError(f"{path} does not say where results go. Give --out, or `out:` in the file.")
    if references(pipeline.pairs):
        raise UserError(f"{path}: {PAIRS}: {pipeline.pairs} refers to a stage. Give pairs that are there before.")
    earlier: dict[str, Stage] = {}
    for stage in pipeline.stages:
        for option, value in stage.options.items():
            for name, below in references(value):
                where = f"{path}: stage {stage.name}: {option}: ${name}"
                if name == PAIRS:
                    if not pipeline.pairs:
                        raise UserError(f"{where}: no pairs were given. Give --pairs, or `pairs:` in the file.")
                    continue
                if name not in earlier:
                    names = ", ".join(earlier) or "none"
                    raise UserError(f"{where}: no earlier stage has this name. Before it: {names}.")
                jobs, job = stage.spec.inputs.get(option, ()), earlier[name].job[0]
                if jobs and not below and job not in jobs:
                    raise UserError(f"{where} is of the job {job}; {option} takes {' or '.join(jobs)}.")
        earlier[stage.name] = stage
    if pairs_given and not any(name == PAIRS for stage in pipeline.stages for name, _ in references(stage.options)):
        raise UserError(f"{path} has no $pairs: its stages name their pairs themselves. Leave --pairs out.")
