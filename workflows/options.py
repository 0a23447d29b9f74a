"""Command lines: parsing by tyro, and types of options that several jobs have."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from fusion.errors import UserError
from fusion.legacy import RECIPE_FIELDS

T = TypeVar("T")

# Given as often as needed, one value each time: --fused A=DIR --fused B=DIR.
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]

# No option: what `given_fields` finds.
GivenFields = Annotated[tuple[str, ...] | None, tyro.conf.Suppress, tyro.conf.Fixed]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How pairs are split for training, validation and testing, and how many of them may be unusable."""

    splits: str = ""
    """A frozen split file, such as the splits.csv of a corpus; by default the folders' splits, and a draw where they
    have none."""
    sequences: bool = True
    """Keep near-duplicate pairs, such as neighbouring frames of a video, in one split (looks at every pair once)."""
    sequence_pattern: str = ""
    """A regular expression whose first group names the sequence of a file name that it fits: '(\\d+)\\d{3}' keeps
    slices 21004 and 21006 of patient 21 in one split. These pairs are not looked at."""
    val_fraction: float = 0.1
    """Fraction of the training pairs kept for validation, where the folders have no val split."""
    test_fraction: float = 0.2
    """Fraction of the pairs kept for testing, where the folders have no test split."""
    seed: int = 0
    """Seed of drawn splits and of every other random draw."""
    max_rejected_fraction: float = 0.01
    """Fail when more than this fraction of the pairs cannot be used."""


# Job -> its options of earlier versions -> what each is called now. A message names the new one.
RENAMED: dict[str, dict[str, str]] = {
    "demo": {"test-share": "test-fraction"},
    "corpus": {
        "val-share": "val-fraction",
        "test-share": "test-fraction",
        "max-rejected": "max-rejected-fraction",
    },
    "train": {"wait-for-nodes": "node-timeout"},
    "tune": {"samples": "num-samples", "seeds": "num-seeds", "at-once": "max-concurrent"},
    "evolve": {
        "library": "methods",
        "more-epochs": "finetune-epochs",
        "val-share": "val-fraction",
        "test-share": "test-fraction",
        "max-rejected": "max-rejected-fraction",
    },
    "variants": {"seeds": "num-seeds"},
    "commonness": {"library": "methods", "test-share": "test-fraction"},
    "fuse": {"max-rejected": "max-rejected-fraction"},
    "score": {"sources": "reference"},
    "detect": {
        "start": "from",
        "same": "class-aliases",
        "val-share": "val-fraction",
        "test-share": "test-fraction",
        "pictures": "num-images",
        "max-rejected": "max-rejected-fraction",
    },
    "report": {"pictures": "num-images"},
    "pipeline": {"without": "skip"},
}
RENAMED_RECIPE_OPTIONS = {
    f"recipe.{old}".replace("_", "-"): f"recipe.{new}".replace("_", "-") for old, new in RECIPE_FIELDS.items()
}


def parse(kind: type[T], job: str, arguments: Sequence[str], **options: Any) -> T:
    """Parse command-line options into the dataclass `kind`. tyro's error boxes become one UserError line.

    `options` go to `tyro.cli`. UserError: a wrong option, or one that has another name now. SystemExit: help was asked
    for.
    """
    _refuse_renamed(job.split()[0], arguments)
    options = {"prog": f"duskfuse {job}", "args": list(arguments)} | options
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
        body = re.sub(r"╭.*?╮", " ", text)  # the box's title says less than its first line
        words = " ".join(re.sub(r"[─│╰╯]+", " ", body).split()).partition("For full helptext")[0].strip()
        raise UserError(f"{words or 'cannot read the options'}. See duskfuse {job} --help.") from None


def _refuse_renamed(job: str, arguments: Sequence[str]) -> None:
    """Raise UserError for an option's old name, naming the new one."""
    for word in arguments:
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0].removeprefix("--").replace("_", "-")
        new = RENAMED.get(job, {}).get(option) or RENAMED_RECIPE_OPTIONS.get(option)
        if new:
            raise UserError(f"--{option} is now --{new}.")


def parse_with_recipe(kind: type[T], job: str, arguments: Sequence[str], recipe: Any) -> T:
    """Parse options whose field `recipe` starts from this one, so that each field of its class can be set."""
    own = make_dataclass(kind.__name__, [("recipe", type(recipe))], bases=(kind,), frozen=True)
    required = {name: tyro.MISSING for name in ("corpus", "out") if _has_no_default(kind, name)}
    default = own(recipe=recipe, **required)
    return parse(own, job, arguments, default=default, config=(tyro.conf.AvoidSubcommands,))


def given_fields(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the dotted fields of the recipe that are set on a command line, in their order."""
    options = (word.partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--recipe."))
    return tuple(dict.fromkeys(option.removeprefix("__recipe.") for option in options))


def _has_no_default(kind: type, name: str) -> bool:
    return name in kind.__dataclass_fields__ and not hasattr(kind, name)  # type: ignore[attr-defined]
