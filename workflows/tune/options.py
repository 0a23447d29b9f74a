"""The options of `duskfuse tune`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from fusion.training.two_stage import AnyRecipe
from workflows.options import GivenFields, Repeated, given_fields, parse_with_recipe
from workflows.train.recipes import RECIPES, find_recipe, show_recipes

SEARCHES = ("grid", "random", "optuna")


@dataclass(frozen=True)
class Args:
    recipe: AnyRecipe
    """What every trial starts from; any field of it can be set, as in --recipe.epochs 8."""
    corpus: str
    """A finished corpus: a folder or s3://bucket/path."""
    out: str
    """Folder or s3://bucket/path of the search. Every node must reach it."""
    preset: str = ""
    """experts, alpha or ablations, the grids of MoE-Fusion's paper; or nka, N, K, alpha and balance together."""
    space: Repeated = ()
    """A field and its values, as often as needed: loss.gradient=1,5,10 or model.experts=2..16 or optim.lr=1e-4..0.1:log
    or model.top-k=1..model.experts; of a recipe of two stages also restore.optim.lr=... or fuse.loss.gradient=..."""
    search: str = ""
    """grid (every combination), random or optuna (TPE). By default grid where all values are listed, else random."""
    num_samples: int = 20
    """Settings that random and optuna try."""
    num_seeds: int = 1
    """Trainings of each setting, from different random weights and crops."""
    objective: str = "qabf"
    """What is to be best: metrics of the validation after the last epoch (qabf, vif, ssim ...), map50 and map50_95
    with --detector, or loss, that of the training. Several, separated by commas, give a Pareto front; the first one
    stops trials early."""
    early_stopping: bool | None = None
    """Stop what is behind (ASHA). By default for random and optuna, not for a grid."""
    grace: int = 0
    """Epochs that each trial gets at least, of each stage; 0: an eighth of the recipe's."""
    reduction: int = 3
    """Of so many trials one goes on at each rung of ASHA."""
    detector: str | None = None
    """A detector that `duskfuse detect` trained, for map50 and map50_95."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The stage-1 run that stage 2 of TG-ECNet starts from."""
    workers: int = 1
    """Training workers of each trial."""
    max_concurrent: int = 0
    """Trials that run at once; 0: as many as the cluster has room for."""
    cpus_per_worker: float = 0
    """CPUs that Ray sets aside for a worker; 0: one, or less where reading data would have none left."""
    seed: int = 0
    """Of the random draws and Optuna's; the trials' own seeds count up from the recipe's."""
    given: GivenFields = None
    """The fields of a named recipe that were set; stage 2 takes others from its stage 1. None: all count as set."""


def options(arguments: list[str]) -> Args:
    """Parse the command line, whose first word is a recipe, by its name or in a file."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        show_recipes("tune")
        raise SystemExit(0)
    args = parse_with_recipe(Args, f"tune {first}", arguments[1:], find_recipe(first))
    return replace(args, given=given_fields(arguments[1:]) if first in RECIPES else None)
