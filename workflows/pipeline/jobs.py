"""The jobs that pipelines can run: what each writes, which options are files, how options are spelled and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusion.config import to_dict
from fusion.data.pairs import find_pairs
from fusion.data.shards import CorpusConfig
from fusion.errors import UserError
from fusion.metrics import choose
from fusion.training.engine import check_validation
from fusion.training.recipes import Recipe
from fusion.training.stages import STAGES
from fusion.training.two_stage import stages_of
from workflows.cli import read_options
from workflows.corpus import options as corpus_options
from workflows.detect import options as detect_options
from workflows.fuse import options as fuse_options
from workflows.report import options as report_options
from workflows.score import options as score_options
from workflows.train import options as train_options
from workflows.tune import options as tune_options
from workflows.tune.plan import check_settings, check_stages, parse_objectives, plan_search

# Options that change how a stage runs or who follows it, but not its result.
RUNTIME_OPTIONS = frozenset(
    {
        "out",
        "workers",
        "cpus_per_worker",
        "max_concurrent",
        "max_failures",
        "max_rejected_fraction",
        "node_timeout",
        "mlflow",
        "wandb",
        "given",
    }
)

# What a stage's option can be: text, a list, or NAME: VALUE.
OptionValue = str | list[str] | dict[str, str]


@dataclass(frozen=True)
class JobSpec:
    """A job that pipelines can run.

    Args:
        completion_file: The file that the job writes last, or all that it writes (`single_file`).
        inputs: Options that name files and folders -> the jobs whose folders they take. Any other folder is taken, too.
        single_file: The job's --out is a file, not a folder.
    """

    completion_file: str
    inputs: Mapping[str, tuple[str, ...]]
    single_file: bool = False


JOB_SPECS: dict[str, JobSpec] = {
    "corpus": JobSpec("manifest.json", {"pairs": (), "splits": ()}),
    "train": JobSpec("run.json", {"corpus": ("corpus",), "from": ("train",), "detector": ("detect",)}),
    "tune": JobSpec("tune.json", {"corpus": ("corpus",), "from": ("train",), "detector": ("detect",)}),
    "evolve": JobSpec(
        "evolve.json",
        {"pairs": (), "splits": (), "from": ("evolve",), "checkpoint": ("train", "evolve"), "fused": ("fuse",)},
    ),
    "variants": JobSpec("variants.json", {"evolution": ("evolve",)}),
    "fuse": JobSpec("fused.json", {"checkpoint": ("train", "evolve"), "pairs": (), "corpus": ("corpus",)}),
    "export": JobSpec("model.onnx", {"checkpoint": ("train", "evolve")}, single_file=True),
    "score": JobSpec("score.json", {"fused": ("fuse",), "pairs": (), "corpus": ("corpus",), "niqe-model": ()}),
    "detect": JobSpec(
        "detect.json",
        {
            "pairs": (),
            "corpus": ("corpus",),
            "fused": ("fuse",),
            "splits": (),
            "weights": ("detect",),
            "from": ("detect",),
        },
    ),
    "report": JobSpec(
        "report.html",
        {
            "scores": ("score",),
            "detect": ("detect",),
            "evolution": ("evolve",),
            "variants": ("variants",),
            "search": ("tune",),
            "run": ("train",),
        },
        single_file=True,
    ),
}


def parse_options(job: tuple[str, ...], argv: list[str]) -> Any:
    """Return the options dataclass that the job makes of these words. UserError: a wrong one."""
    try:
        return read_options(job[0], [*job[1:], *argv])
    except SystemExit:  # an option called "help"
        raise UserError("help is not an option of a stage.") from None


def check_options(job: str, options: Any) -> None:
    """Raise UserError for what a job refuses only when it begins, which others may precede by hours."""
    if job in CHECKS:
        CHECKS[job](options)


def _check_corpus(options: corpus_options.Args) -> None:
    CorpusConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(CorpusConfig)})


def _check_train(options: train_options.Args) -> None:
    for recipe in stages_of(options.recipe):
        check_validation(recipe)
    continues = isinstance(options.recipe, Recipe) and STAGES[options.recipe.model.stage].continues
    if continues != (options.start is not None):
        raise UserError("from: stage 2 of TG-ECNet starts from a stage 1, and nothing else does.")


def _check_tune(options: tune_options.Args) -> None:
    parse_objectives(options)
    plan = plan_search(options)
    check_stages(options, plan)
    check_settings(options, plan)


def _check_fuse(options: fuse_options.Args) -> None:
    if options.files:
        raise UserError("visible, infrared: a pipeline fuses pairs or a corpus, not single files.")
    _check_source(options)
    fuse_options.check(options)


def _check_score(options: score_options.Args) -> None:
    _check_source(options)
    if options.metrics != "all":
        choose([name.strip().lower() for name in options.metrics.split(",") if name.strip()], options.dialect)


def _check_source(options: fuse_options.Args | score_options.Args) -> None:
    if (options.pairs is None) == (options.corpus is None):
        raise UserError("give either pairs or a corpus.")


def _check_detect(options: detect_options.Args) -> None:
    if options.pairs is None:
        if options.corpus is None or options.weights is None:
            raise UserError("give pairs, with boxes (or corpus and weights).")
        return
    pairs = find_pairs(options.pairs)
    if not any(ref.labels for ref in pairs.refs) and pairs.layout != "scenes":
        raise UserError(f"none of {options.pairs} has boxes to detect. Label them, or leave the stage out: --skip.")


def _check_report(options: report_options.Args) -> None:
    if options.scores is None and not (options.detect or options.evolution or options.variants or options.search):
        raise UserError("give scores, detect, evolution, variants or search: what the report is of.")


CHECKS: dict[str, Callable[[Any], None]] = {
    "corpus": _check_corpus,
    "train": _check_train,
    "tune": _check_tune,
    "fuse": _check_fuse,
    "score": _check_score,
    "detect": _check_detect,
    "report": _check_report,
}


def to_argv(options: Mapping[str, OptionValue]) -> list[str]:
    """Return the options as words of the command line."""
    argv: list[str] = []
    for name, value in options.items():
        if isinstance(value, list) and name.startswith("recipe."):
            argv += [f"--{name}", *value]
        elif isinstance(value, dict):
            argv += [word for key, item in value.items() for word in _flag(name, f"{key}={item}")]
        elif isinstance(value, list):
            argv += [word for item in value for word in _flag(name, item)]
        elif value in ("true", "false"):
            group, dot, last = name.rpartition(".")
            argv.append(f"--{name}" if value == "true" else f"--{group}{dot}no-{last}")
        else:
            argv += _flag(name, value)
    return argv


def _flag(name: str, value: str) -> list[str]:
    """Return the words of one option; a value such as -1 in the same word, or it would be taken for an option."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


def result_settings(options: Any) -> dict[str, Any]:
    """Return what the result of a job depends on: the recipe in full, other options where they are not the default."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(options)
    }
    return {
        name: value
        for name, value in to_dict(options).items()
        if name == "recipe" or (name not in RUNTIME_OPTIONS and getattr(options, name) != defaults[name])
    }
