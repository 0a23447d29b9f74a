"""What pipelines know of the jobs: what each writes, which options are files, how options are spelled and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion.config import to_dict
from fusion.data.pairs import find_pairs
from fusion.data.shards import CorpusConfig
from fusion.errors import UserError
from fusion.metrics import choose
from fusion.training.stages import STAGES
from workflows.cli import read_options
from workflows.fuse.options import check as check_fuse

# These shape no result: how a stage runs, and who watches.
HOW = ("out", "workers", "cpus_per_worker", "max_concurrent", "max_failures", "max_rejected", "node_timeout")
HOW += ("mlflow", "wandb")


@dataclass(frozen=True)
class Kind:
    """A job that pipelines can run. `last`: the file it writes last, or all that it writes (`one_file`).

    inputs: options that name files and folders -> the jobs whose folders they take (any other folder is taken, too).
    """

    last: str
    inputs: Mapping[str, tuple[str, ...]]
    one_file: bool = False


NETWORKS = ("train", "evolve")
KINDS: dict[str, Kind] = {
    "corpus": Kind("manifest.json", {"pairs": (), "splits": ()}),
    "train": Kind("run.json", {"corpus": ("corpus",), "from": ("train",), "detector": ("detect",)}),
    "tune": Kind("tune.json", {"corpus": ("corpus",), "from": ("train",), "detector": ("detect",)}),
    "evolve": Kind("evolve.json", {"pairs": (), "splits": (), "checkpoint": NETWORKS, "fused": ("fuse",)}),
    "variants": Kind("variants.json", {"evolution": ("evolve",)}),
    "fuse": Kind("fused.json", {"checkpoint": NETWORKS, "pairs": (), "corpus": ("corpus",)}),
    "export": Kind("model.onnx", {"checkpoint": NETWORKS}, one_file=True),
    "score": Kind("score.json", {"fused": ("fuse",), "pairs": (), "corpus": ("corpus",), "niqe-model": ()}),
    "detect": Kind(
        "detect.json",
        {"pairs": (), "corpus": ("corpus",), "fused": ("fuse",), "splits": ()}
        | {"weights": ("detect",), "start": ("detect",)},
    ),
    "report": Kind(
        "report.html",
        {"scores": ("score",), "detect": ("detect",), "evolution": ("evolve",), "search": ("tune",), "run": ("train",)},
        one_file=True,
    ),
}


def parse(job: tuple[str, ...], options: list[str]) -> Any:
    """Return the dataclass of options that the job makes of these words."""
    try:
        return read_options(job[0], [*job[1:], *options])
    except SystemExit:  # an option called "help"
        raise UserError("this is no option that does work.") from None


def check(job: str, parsed: Any) -> None:
    """What a job refuses only when it begins, for which others may have run for hours. UserError."""
    if job in CHECKS:
        CHECKS[job](parsed)


def _corpus(parsed: Any) -> None:

    CorpusConfig(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(CorpusConfig)})


def _train(parsed: Any) -> None:

    if STAGES[parsed.recipe.model.stage].continues != (parsed.start is not None):
        raise UserError("from: stage 2 of TG-ECNet starts from a stage 1, and nothing else does.")


def _fuse(parsed: Any) -> None:
    if parsed.files:
        raise UserError("visible, infrared: a pipeline fuses pairs or a corpus, not single files.")
    _one_source(parsed)
    check_fuse(parsed)


def _score(parsed: Any) -> None:

    _one_source(parsed)
    if parsed.metrics != "all":
        choose([name.strip().lower() for name in parsed.metrics.split(",") if name.strip()], parsed.dialect)


def _one_source(parsed: Any) -> None:
    if (parsed.pairs is None) == (parsed.corpus is None):
        raise UserError("give either pairs or a corpus.")


def _detect(parsed: Any) -> None:

    if parsed.pairs is None:
        if parsed.corpus is None or parsed.weights is None:
            raise UserError("give pairs, with boxes (or corpus and weights).")
        return
    found = find_pairs(parsed.pairs)
    if not any(ref.labels for ref in found.refs) and found.layout != "scenes":
        raise UserError(f"none of {parsed.pairs} has boxes to detect. Label them, or leave the stage out: --skip.")


def _report(parsed: Any) -> None:
    if parsed.scores is None and not (parsed.detect or parsed.evolution or parsed.search):
        raise UserError("give scores, detect, evolution or search: what the report is of.")


CHECKS = {
    "corpus": _corpus,
    "train": _train,
    "fuse": _fuse,
    "score": _score,
    "detect": _detect,
    "report": _report,
}


def words(options: dict[str, Any]) -> list[str]:
    """Options as words of the command line."""
    found: list[str] = []
    for name, value in options.items():
        flag = f"--{name}"
        if isinstance(value, list) and name.startswith("recipe."):
            found += [flag, *value]
        elif isinstance(value, dict):
            found += [word for key, item in value.items() for word in _two(flag, f"{key}={item}")]
        elif isinstance(value, list):
            found += [word for item in value for word in _two(flag, item)]
        elif value in ("true", "false"):
            above, dot, last = name.rpartition(".")
            found.append(flag if value == "true" else f"--{above}{dot}no-{last}")
        else:
            found += _two(flag, value)
    return found


def _two(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def settings(parsed: Any) -> dict[str, Any]:
    """The recipe in full, and other options that differ from their defaults."""

    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(parsed)
    }
    found = to_dict(parsed)
    return {
        name: value
        for name, value in found.items()
        if name == "recipe" or (name not in HOW and getattr(parsed, name) != defaults[name])
    }
