"""The options of `duskfuse corpus`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from workflows.options import SplitOptions, parse


@dataclass(frozen=True, kw_only=True)
class Args(SplitOptions):
    """Options of building a corpus."""

    pairs: str
    """Folder of pairs, s3://bucket/path, or scenes:COUNT[:WIDTHxHEIGHT[:SEED]] for built-in scenes."""
    out: str
    """Where the corpus goes: a folder or s3://bucket/path. The same command goes on where it was stopped."""
    preset: str = "demmi-rf"
    """demmi-rf, demmi-rf-counts (the paper's numbers from each data set), grid, combinations, demmi-rf-combinations (30
    test pairs of each: the paper's 510), or a list: noise2,haze2+noise3."""
    data_sets: str = ""
    """Which data set of DeMMI-RF a folder is, where its name does not say: day=M3FD,night=MSRS."""
    shard_samples: int = 64
    """Samples of a shard, at most."""
    shard_megabytes: int = 128
    """Megabytes of pixels of a shard, at most."""


@dataclass(frozen=True)
class VerifyArgs:
    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """The corpus to check: a folder or s3://bucket/path."""


def options(arguments: list[str]) -> Args | VerifyArgs:
    """Parse the command line; its first word may be `verify`."""
    if arguments[:1] == ["verify"]:
        return parse(VerifyArgs, "corpus verify", arguments[1:])
    return parse(Args, "corpus", arguments)
