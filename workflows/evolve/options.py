"""The options of `duskfuse evolve`."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from fusion.training.recipes import Recipe, aenet
from workflows.options import Repeated, parse

CLASSICAL = "adf,mgff,vsm_wls,tif,gff,hmsd_gf,ifevip,lp"


@dataclass(frozen=True)
class Args:
    pairs: str
    """The pairs: a folder, s3://bucket/path, or scenes:COUNT."""
    out: str
    """Folder or s3://bucket/path of labels and networks."""
    recipe: Recipe = field(default_factory=aenet)
    """The network's first training; later evolutions go on at a tenth of its rate."""
    library: str = CLASSICAL
    """Methods of the library, separated by commas."""
    checkpoint: Repeated = ()
    """Trained networks as methods, each NAME=RUN."""
    fused: Repeated = ()
    """Folders of fused images as methods, each NAME=DIR."""
    max_sharpness: float = 2.0
    """A result with more than this times the Brenner sharpness of both images together fails: it gives no label and no
    score; 0: none does."""
    more_epochs: int = 20
    """Epochs of an evolution after the first one."""
    splits: str = ""
    """A split file of a corpus; by default the folders' splits, and a draw where they have none."""
    sequences: bool = True
    """Keep near-duplicates in one split when it is drawn."""
    val_share: float = 0.1
    """Share of the training pairs that validates."""
    test_share: float = 0.2
    """Share of the pairs held out where the folders have no test split."""
    seed: int = 0
    """Of drawn splits."""
    workers: int = 0
    """Training workers; 0: one per GPU, or one with all CPUs of a node."""
    max_rejected: float = 0.01
    """Fail when more than this share of the pairs cannot be read."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "evolve", arguments, config=(tyro.conf.AvoidSubcommands,))
