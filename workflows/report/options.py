"""The options of `duskfuse report`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options import Repeated, parse


@dataclass(frozen=True)
class Args:
    scores: str | None = None
    """What `duskfuse score` wrote."""
    detect: Repeated = ()
    """What `duskfuse detect` wrote."""
    evolution: Repeated = ()
    """What `duskfuse evolve` wrote."""
    variants: Repeated = ()
    """What `duskfuse variants` wrote."""
    search: Repeated = ()
    """What `duskfuse tune` wrote."""
    out: str = "report.html"
    """The page: a file or s3://bucket/path/report.html."""
    run: Repeated = ()
    """Training runs whose curves are shown; of a MoE-Fusion also what its experts see."""
    num_images: int = 12
    """Rows of the gallery."""
    title: str = "Duskfuse report"


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "report", arguments)
