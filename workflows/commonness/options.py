"""The options of `duskfuse commonness`."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from fusion.training.recipes import Recipe, aenet
from workflows.evolve import options as evolve_options
from workflows.options import parse

DRAWN = "scenes:80:320x240,multifocus:80:320x240,multiexposure:80:320x240"


@dataclass(frozen=True)
class Args:
    out: str
    """Folder or s3://bucket/path of the networks and the table."""
    tasks: str = DRAWN
    """Pairs of each task, separated by commas: NAME=DIR, or what names itself, such as multifocus:80."""
    recipe: Recipe = field(default_factory=aenet)
    """The training of every network."""
    methods: str = evolve_options.DEFAULT_METHODS
    """Methods that label the pairs."""
    test_fraction: float = 0.2
    """Share of the pairs held out where the folders have no test split."""
    seed: int = 0
    """Of drawn splits."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "commonness", arguments, config=(tyro.conf.AvoidSubcommands,))
