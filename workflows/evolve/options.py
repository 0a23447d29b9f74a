"""The options of `duskfuse evolve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fusion.training.recipes import Recipe, aenet
from workflows.options import Repeated, SplitOptions, parse

DEFAULT_METHODS = "adf,mgff,vsm_wls,tif,gff,hmsd_gf,ifevip,lp"


@dataclass(frozen=True, kw_only=True)
class Args(SplitOptions):
    """Options of an evolution."""

    pairs: str
    """The pairs: a folder, s3://bucket/path, or scenes:COUNT."""
    out: str
    """Folder or s3://bucket/path of labels and networks."""
    recipe: Recipe = field(default_factory=aenet)
    """The network's first training; later evolutions go on at a tenth of its rate."""
    methods: str = DEFAULT_METHODS
    """Methods of the library, separated by commas."""
    checkpoint: Repeated = ()
    """Trained networks as methods, each NAME=RUN."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """An earlier evolution, the --out of one: this one begins with a copy of its library, labels and network."""
    fused: Repeated = ()
    """Folders of fused images as methods, each NAME=DIR."""
    max_sharpness: float = 2.0
    """A result with more than this times the Brenner sharpness of both images together fails: it gives no label and no
    score; 0: none does."""
    finetune_epochs: int = 20
    """Epochs of an evolution after the first one."""
    workers: int = 0
    """Training workers; 0: one per GPU, or one with all CPUs of a node."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "evolve", arguments, config=(tyro.conf.AvoidSubcommands,))
