"""The options of `duskfuse demo`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options import parse


@dataclass(frozen=True)
class Args:
    pairs: str = "scenes:48:320x240"
    """A folder of pairs, s3://bucket/path, or scenes:COUNT[:WIDTHxHEIGHT[:SEED]]."""
    out: str = "demo"
    """Where everything goes."""
    preset: str = "demmi-rf"
    """Degradations of the corpus."""
    epochs: int = 0
    """Epochs of each stage; 0: those of the tiny recipes."""
    test_fraction: float = 0.1
    """Fraction of the pairs kept for fusing and scoring."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "demo", arguments)
