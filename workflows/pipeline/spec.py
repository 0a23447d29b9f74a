"""The file of a pipeline: what it says, with the changes of the command line, checked as far as that needs no job.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion import storage
from fusion.errors import UserError
from workflows.pipeline.jobs import KINDS, Kind

BUILT_IN = ("tgecnet", "tgecnet-tiny", "moefusion-tiny", "aenet")
FOLDER = Path(__file__).with_name("builtin")
REFERENCE = re.compile(r"\$(?:\{([\w-]+)\}|([A-Za-z][\w-]*))((?:/[\w.@+-]+)*)")
PAIRS = "pairs"  # the one name that is no stage


@dataclass(frozen=True)
class Stage:
    """`job`: its words on the command line, such as ("train", "tgecnet-fuse"). `options`: text, lists and mappings."""

    name: str
    job: tuple[str, ...]
    options: dict[str, Any]

    @property
    def kind(self) -> Kind:
        return KINDS[self.job[0]]

    def needs(self) -> list[str]:
        """The stages it refers to, in the order in which it does."""
        return [name for name in dict(references(self.options)) if name != PAIRS]


@dataclass(frozen=True)
class Pipeline:
    """`where` it was read from is for messages."""

    where: str
    out: str
    pairs: str
    stages: tuple[Stage, ...]

    def text(self) -> str:
        """As a file, which gives the same pipeline again."""

        stages = {stage.name: {"job": shlex.join(stage.job), **stage.options} for stage in self.stages}
        whole = {"out": self.out} | ({"pairs": self.pairs} if self.pairs else {}) | {"stages": stages}
        # without a resolver nothing needs quotes to stay text: `Loader` takes everything as text
        kind = type("Dumper", (yaml.SafeDumper,), {"yaml_implicit_resolvers": {}})
        return yaml.dump(whole, Dumper=kind, sort_keys=False, allow_unicode=True, width=120)


def source(name: str) -> str:
    """The text of a built-in pipeline or of a file. UserError: there is none."""

    if name in BUILT_IN:
        return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return storage.read_bytes(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text file. Give a pipeline in YAML.") from error
    except OSError as error:
        raise UserError(f"no pipeline at {name}. Give a file, or one of: {', '.join(BUILT_IN)}.") from error


def read(
    name: str, *, pairs: str = "", out: str = "", change: Sequence[str] = (), skip: Sequence[str] = ()
) -> Pipeline:
    """The pipeline of that file with what the command line changes. UserError: one line, naming file and stage.

    change: each STAGE.OPTION=VALUE, as in "restore.recipe.epochs=3"; null takes an option away. skip: stages left
    out, also of lists and reports that name them.
    """
    whole = _load(source(name), name)
    _known(whole, ("out", "pairs", "stages"), name)
    stages = whole.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"{name}: it has no stages. Give `stages:`, each with its `job:`.")
    raw = {stage: _options(options, f"{name}: stage {stage}") for stage, options in stages.items()}
    for text in change:
        _change(raw, text)
    for stage in skip:
        if stage not in raw:
            raise UserError(f"--skip {stage}: no such stage. {name} has {', '.join(raw)}.")
    kept = {stage: _skip(stage, options, skip, name) for stage, options in raw.items() if stage not in skip}
    found = Pipeline(
        name,
        _text(out or whole.get("out", ""), f"{name}: out"),
        _text(pairs or whole.get(PAIRS, ""), f"{name}: {PAIRS}"),
        tuple(_stage(stage, options, name) for stage, options in kept.items()),
    )
    _check(found, given=bool(pairs))
    return found


def substitute(value: Any, place: Callable[[str, str], str]) -> Any:
    """The options with every reference replaced by place(name, "/path/below")."""
    if isinstance(value, dict):
        return {key: substitute(item, place) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, place) for item in value]
    return REFERENCE.sub(lambda found: place(found[1] or found[2], found[3]), value)


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(name, "/path/below") of every reference."""
    found: list[tuple[str, str]] = []
    substitute(value, lambda *reference: found.append(reference) or "")
    return iter(found)


def _load(text: str, where: str) -> dict[str, Any]:

    class Loader(yaml.BaseLoader):  # every value stays the text that it is on the command line
        def construct_mapping(self, node, deep=False):
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((name for name in names if not isinstance(name, str) or names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{where}: line {node.start_mark.line + 1}: {twice} is given twice, or is no name.")
            return super().construct_mapping(node, deep)

    try:
        found = yaml.load(text, Loader)  # BaseLoader makes text, lists and mappings, nothing else
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where}: {line}{getattr(error, 'problem', None) or 'it is no YAML'}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{where} is no pipeline. It needs `out:` and `stages:`.")
    return found


def _known(found: dict[str, Any], names: Sequence[str], where: str) -> None:
    unknown = next((name for name in found if name not in names), None)
    if unknown is not None:
        raise UserError(f"{where}: unknown {unknown!r}. Known: {', '.join(names)}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a word, found {value!r}.")
    return value


def _options(raw: Any, where: str) -> dict[str, Any]:
    """Names as the command line spells them; what is below `recipe` as "recipe.model.top-k"."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected `job:` and its options, found {raw!r}.")
    found: dict[str, Any] = {}
    for key, value in raw.items():
        found |= _flat(key, value) if key == "recipe" else {key.replace("_", "-"): value}
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.replace("_", "-"): value}
    return {key: item for below in value for key, item in _flat(f"{name}.{below}", value[below]).items()}


def _change(raw: dict[str, dict[str, Any]], text: str) -> None:
    """One --set."""

    path, equals, value = text.partition("=")
    stage, dot, option = path.partition(".")
    if not (equals and dot and option):
        raise UserError(f"--set {text}: give STAGE.OPTION=VALUE, such as restore.recipe.epochs=3.")
    if stage not in raw:
        raise UserError(f"--set {text}: no stage {stage!r}. There are {', '.join(raw)}.")
    try:
        raw[stage] |= _options({option: yaml.load(value, yaml.BaseLoader) if value else ""}, f"--set {text}")
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no YAML. Put it in quotes.") from error


def _skip(stage: str, options: dict[str, Any], skip: Sequence[str], where: str) -> dict[str, Any]:
    """The options of a stage without the stages left out. UserError where it would become another thing: reports and
    lists become shorter, but a stage without its checkpoint or its corpus does not do what its name says."""
    for option, value in options.items():
        needed = set(dict(references(value))) & set(skip) if isinstance(value, str) else ()
        if needed and options.get("job") != "report":
            lost = min(needed)
            raise UserError(
                f"--skip {lost}: {where}: stage {stage} needs it ({option}: {value}). "
                f"Leave that out, too, or --set {stage}.{option}=null."
            )
    return _drop(options, skip)


def _drop(value: Any, skip: Sequence[str]) -> Any:
    """Without what is null, and without what refers to stages that are left out."""
    gone = object()

    def kept(item: Any) -> Any:
        if isinstance(item, dict):
            left = {key: inner for key, inner in ((key, kept(each)) for key, each in item.items()) if inner is not gone}
        elif isinstance(item, list):
            left = [inner for inner in map(kept, item) if inner is not gone]
        else:
            return gone if item == "null" or set(dict(references(item))) & set(skip) else item
        return gone if item and not left else left

    found = kept(value)
    return {} if found is gone else found


def _stage(name: str, options: dict[str, Any], where: str) -> Stage:
    here = f"{where}: stage {name}"
    if not re.fullmatch(r"[A-Za-z][\w-]*", name) or name == PAIRS:
        raise UserError(f"{here}: a stage is named by letters, digits and -, and not {PAIRS}.")
    try:
        job = tuple(shlex.split(_text(options.get("job", ""), f"{here}: job")))
    except ValueError as error:
        raise UserError(f"{here}: job: {error}.") from error
    if not job or job[0] not in KINDS:
        raise UserError(f"{here}: unknown job {' '.join(job)!r}. Known: {', '.join(KINDS)}.")
    if "out" in options:
        raise UserError(f"{here}: out: the pipeline names the folders of its stages. Take it away.")
    for option, value in options.items():
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if not re.fullmatch(r"[a-z][\w.-]*", option) or not all(isinstance(item, str) for item in items):
            raise UserError(f"{here}: {option}: expected an option with a value, a list, or NAME: VALUE.")
    return Stage(name, job, {key: value for key, value in options.items() if key != "job"})


def _check(pipeline: Pipeline, given: bool) -> None:
    """References go backwards, to stages of the right kind; there is an `out`, and pairs where they are used."""
    where = pipeline.where
    if not pipeline.out:
        raise UserError(f"{where} does not say where results go. Give --out, or `out:` in the file.")
    if next(references(pipeline.pairs), None):
        raise UserError(f"{where}: {PAIRS}: {pipeline.pairs} refers to a stage. Give pairs that are there before.")
    before: dict[str, Stage] = {}
    for stage in pipeline.stages:
        for option, value in stage.options.items():
            for name, below in references(value):
                here = f"{where}: stage {stage.name}: {option}: ${name}"
                if name == PAIRS and not pipeline.pairs:
                    raise UserError(f"{here}: no pairs were given. Give --pairs, or `pairs:` in the file.")
                if name != PAIRS and name not in before:
                    raise UserError(
                        f"{here}: no earlier stage has this name. Before it: {', '.join(before) or 'none'}."
                    )
                wanted = stage.kind.inputs.get(option, ())
                if name != PAIRS and wanted and not below and (kind := before[name].job[0]) not in wanted:
                    raise UserError(f"{here} is of the job {kind}; {option} takes {' or '.join(wanted)}.")
        before[stage.name] = stage
    if given and PAIRS not in {name for stage in pipeline.stages for name, _ in references(stage.options)}:
        raise UserError(f"{where} has no $pairs: its stages name their pairs themselves. Leave --pairs out.")
