"""The options of `duskfuse corpus`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from workflows.options import parse


@dataclass(frozen=True)
class Args:
    pairs: str
    """Folder of pairs, s3://bucket/path, or scenes:COUNT[:WIDTHxHEIGHT[:SEED]] for built-in scenes."""
    out: str
    """Where the corpus goes: a folder or s3://bucket/path. The same command goes on where it was stopped."""
    preset: str = "demmi-rf"
    """demmi-rf, demmi-rf-counts (the paper's numbers), grid, combinations, or a list: noise2,haze2+noise3."""
    seed: int = 0
    """Of every random draw, and of the split."""
    val_share: float = 0.1
    """Share of the training pairs used for validation, where the folders have no val split."""
    test_share: float = 0.2
    """Share of the pairs kept for testing, where the folders have no test split."""
    sequences: bool = True
    """Keep near-duplicate pairs, such as neighbouring frames of a video, in one split (looks at every pair once)."""
    splits: str = ""
    """A frozen split file, such as the splits.csv of another corpus, instead of drawing."""
    max_rejected: float = 0.01
    """Stop when more than this share of the pairs cannot be used."""
    shard_samples: int = 64
    shard_megabytes: int = 128


@dataclass(frozen=True)
class VerifyArgs:
    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """The corpus to check: a folder or s3://bucket/path."""


def options(arguments: list[str]) -> Args | VerifyArgs:
    """Parse the command line; its first word may be `verify`."""
    if arguments[:1] == ["verify"]:
        return parse(VerifyArgs, "corpus verify", arguments[1:])
    return parse(Args, "corpus", arguments)
