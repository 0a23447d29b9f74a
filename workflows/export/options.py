"""The options of `duskfuse export`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options import parse


@dataclass(frozen=True)
class Args:
    out: str
    """The file, which ends in .onnx."""
    checkpoint: str | None = None
    """A finished training run, or a checkpoint folder; without it the AE-Netv2 of the package."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "export", arguments)
