"""The options of `duskfuse train`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from fusion.training.recipes import Recipe
from workflows.options import GivenFields, given_fields, parse_with_recipe
from workflows.train.recipes import RECIPES, find_recipe, show_recipes


@dataclass(frozen=True)
class Args:
    recipe: Recipe
    """Any field of the recipe can be set, as in --recipe.epochs 3 --recipe.model.top-k 4."""
    corpus: str
    """A finished corpus: a folder or s3://bucket/path."""
    out: str
    """Where the run goes: a folder or s3://bucket/path. Every node must reach it."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The stage-1 run or checkpoint that stage 2 starts from."""
    workers: int = 0
    """Training workers; 0: one per GPU (without GPUs: as many as share the batch evenly, at most one per CPU, and 8;
    one for networks with batch norm). A batch that they cannot share evenly is rounded up."""
    cpus_per_worker: float = 0
    """CPUs that Ray sets aside for a worker; 0: one, or less where reading data would have none left."""
    max_failures: int = 3
    """How often a run goes on by itself after a worker or node was lost."""
    node_timeout: float = 300
    """Seconds to wait for a lost node before fewer workers go on."""
    detector: str | None = None
    """A detector that `duskfuse detect` trained: validation adds its mean average precision on fused images."""
    mlflow: str | None = None
    """Also send the numbers of every epoch to MLflow: the URI of a tracking server. (TensorBoard needs no option: its
    files are in OUT/tensorboard.)"""
    wandb: str | None = None
    """Also send the numbers of every epoch to Weights & Biases: the name of a project."""
    given: GivenFields = None
    """The fields of a named recipe that were set; stage 2 takes others from its stage 1. None: all count as set."""


def options(arguments: list[str]) -> Args:
    """Parse the command line, whose first word is a recipe, by its name or in a file."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        show_recipes("train")
        raise SystemExit(0)
    args = parse_with_recipe(Args, f"train {first}", arguments[1:], find_recipe(first))
    return replace(args, given=given_fields(arguments[1:]) if first in RECIPES else None)
