"""Command lines: parsing by tyro, and types of options that several jobs have."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from fusion.errors import UserError

T = TypeVar("T")

# Given as often as needed, one value each time: --fused A=DIR --fused B=DIR.
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def parse(kind: type[T], job: str, arguments: Sequence[str], **options: Any) -> T:
    """Parse command-line options into the dataclass `kind`. tyro's error boxes become one UserError line.

    `options` go to `tyro.cli`. SystemExit: help was asked for.
    """
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


def parse_with_recipe(kind: type[T], job: str, arguments: Sequence[str], recipe: Any) -> T:
    """Parse options whose field `recipe` starts from this one, so that each field of its class can be set."""
    own = make_dataclass(kind.__name__, [("recipe", type(recipe))], bases=(kind,), frozen=True)
    required = {name: tyro.MISSING for name in ("corpus", "out") if _has_no_default(kind, name)}
    default = own(recipe=recipe, **required)
    return parse(own, job, arguments, default=default, config=(tyro.conf.AvoidSubcommands,))


def _has_no_default(kind: type, name: str) -> bool:
    return name in kind.__dataclass_fields__ and not hasattr(kind, name)  # type: ignore[attr-defined]
