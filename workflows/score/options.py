"""The options of `duskfuse score`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options import Repeated, parse


@dataclass(frozen=True)
class Args:
    fused: Repeated
    """Folders of fused images, each NAME=DIR (or DIR, named after the folder)."""
    out: str
    """Folder or s3://bucket/path for the tables."""
    pairs: str | None = None
    """The pairs that were fused."""
    corpus: str | None = None
    """The corpus whose degraded rows were fused."""
    split: str | None = None
    """Rows of the corpus: train, val, test, all; by default test."""
    metrics: str = ""
    """Names such as en,sf,qabf, or all; by default the ten that papers print, as far as the dialect has them."""
    dialect: str = "standard"
    """Conventions of the numbers: standard, vifb, tang2022, cddfuse."""
    niqe_model: str = ""
    """Pristine model for NIQE (.npz or .json) instead of the one that comes with the program."""
    reference: str = "clean"
    """Score against the clean pair, or against the degraded one (which rewards keeping noise)."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "score", arguments)
