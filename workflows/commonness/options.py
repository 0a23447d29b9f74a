"""The options of `duskfuse commonness`."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from fusion.training.recipes import Recipe, aenet
from workflows.options import Repeated, SplitOptions, parse

DRAWN = "scenes:80:320x240,multifocus:80:320x240,multiexposure:80:320x240,combinedvision:80:320x240"


@dataclass(frozen=True, kw_only=True)
class Args(SplitOptions):
    """Options of the study of tasks."""

    out: str
    """Folder or s3://bucket/path of the networks and the tables."""
    tasks: str = DRAWN
    """Pairs of each task, separated by commas: NAME=DIR, or what names itself, such as multifocus:80."""
    recipe: Recipe = field(default_factory=aenet)
    """The training of every network; epochs are those of the largest task, the others make as many steps."""
    methods: str = ""
    """Methods that label the pairs of every task; by default those that suit a task of its name."""
    task_methods: Repeated = ()
    """Methods of one task, TASK=METHOD,METHOD, as often as needed."""
    amounts: str = "0.25,0.5,0.75,1"
    """How much of a unique part is added: the a of U_t + a U_s, in 0..1, separated by commas."""
    max_scored: int = 0
    """At most so many held-out pairs of a task in the tables over a, which take longest; 0: all."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "commonness", arguments, config=(tyro.conf.AvoidSubcommands,))
