"""The options of `duskfuse variants`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options import Repeated, parse


@dataclass(frozen=True)
class Args:
    out: str
    """Folder or s3://bucket/path of the runs and tables."""
    evolution: Repeated = ()
    """What `duskfuse evolve` wrote: pairs, splits and labels are those of its latest evolution. Given several times,
    as for each OUT/tasks/TASK of `duskfuse commonness`: networks learn all tasks, and means are over the tasks."""
    costs: bool = False
    """Train nothing: only count the parameters and multiply-adds of every network, at 400 x 400."""
    blocks: str = ""
    """Blocks to compare, separated by commas; by default all of them."""
    steps: int = 200
    """Training steps of each; 0: the full recipe."""
    num_seeds: int = 2
    """Trainings of each block, from different random weights."""
    batch_size: int = 16
    """Patches of a step."""
    patch: int = 128
    """Side of a patch."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "variants", arguments)
