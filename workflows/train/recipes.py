"""Recipes by name or out of a file, for the jobs whose first word is a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from detection.moefusion.recipes import RECIPES as JOINT_RECIPES
from detection.moefusion.recipes import JointRecipe
from fusion import storage
from fusion.config import from_dict, from_yaml
from fusion.errors import UserError
from fusion.legacy import upgrade_recipe
from fusion.training.recipes import RECIPES as FUSION_RECIPES
from fusion.training.recipes import Recipe
from fusion.training.two_stage import FUSE, RESTORE, TWO_STAGE_RECIPES, AnyRecipe, TwoStageRecipe

RECIPES: dict[str, Callable[[], AnyRecipe]] = {**TWO_STAGE_RECIPES, **FUSION_RECIPES, **JOINT_RECIPES}


def find_recipe(name: str) -> AnyRecipe:
    """Return a recipe by its name or out of a file (JSON or YAML, local or s3://). UserError: there is none."""
    if name in RECIPES:
        return RECIPES[name]()
    if not name.endswith((".json", ".yaml", ".yml")):
        raise UserError(f"unknown recipe {name!r}. Known: {', '.join(RECIPES)}, or a recipe's file (.json or .yaml).")
    try:
        settings = from_yaml(storage.read_bytes(name).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no recipe at {name}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a recipe: {' '.join(str(error).split())[:200]}") from error
    return read_recipe(settings, name)


def read_recipe(settings: Any, where: str = "recipe") -> AnyRecipe:
    """Build the recipe of which `to_dict` made these settings. UserError names what does not fit."""
    settings = upgrade_recipe(settings)
    groups = set(settings) if isinstance(settings, dict) else set()
    if {RESTORE, FUSE} <= groups:
        return from_dict(TwoStageRecipe, settings, where)
    return from_dict(JointRecipe if "detectors" in groups else Recipe, settings, where)


def show_recipes(job: str) -> None:
    print(f"usage: duskfuse {job} RECIPE --corpus DIR --out DIR [options]\n\nrecipes:")
    for name, make in RECIPES.items():
        print(f"  {name:25} {(make.__doc__ or '').strip().splitlines()[0]}")
    print(f"\nor a recipe's file (.json, .yaml). duskfuse {job} RECIPE --help lists all options with its values.")
