"""Stage 2 of TG-ECNet on its stage 1: the same configuration throughout, or stage 1, which is frozen, would change.

Weights alone do not tell: K and the number of heads have no shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusion import checkpoint
from fusion.errors import UserError
from fusion.models.configs import TGECNetConfig
from fusion.training.recipes import Recipe
from fusion.training.stages import STAGES


def read_first_stage(recipe: Recipe, folder: Path) -> TGECNetConfig:
    """Return the config of a stage-1 checkpoint. UserError: it is none, or of another network."""
    config = checkpoint.read_config(folder, expect=recipe.model_name)
    if STAGES[config.stage].fuses:
        raise UserError(f"{folder} is a stage-2 checkpoint; stage 2 starts from stage 1, as tgecnet-restore trains it.")
    assert isinstance(config, TGECNetConfig)
    return config


def follow_first_stage(recipe: Recipe, folder: Path, given: Sequence[str] | None = None) -> Recipe:
    """Return the recipe of stage 2 with the fields of stage 1 that the checkpoint has.

    `given`: the dotted fields of the recipe that a user has set, which must be those of the checkpoint; None: all are.
    UserError names those that differ.
    """
    found = read_first_stage(recipe, folder).restoration_fields()
    assert isinstance(recipe.model, TGECNetConfig)
    wanted = recipe.model.restoration_fields()
    differing = [name for name in wanted if wanted[name] != found[name]]
    refused = [name for name in differing if given is None or f"model.{name}" in given]
    if refused:
        words = ", ".join(
            f"model.{name} is {_plain(found[name])} there and {_plain(wanted[name])} here" for name in refused
        )
        raise UserError(
            f"stage 1 in {folder} was trained with other settings than {recipe.name} asks for: {words}. Stage 2 keeps "
            "stage 1 as it is: leave these settings as they are there, or train a stage 1 with yours."
        )
    changes: dict[str, Any] = {name: found[name] for name in differing}
    return replace(recipe, model=replace(recipe.model, **changes))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
