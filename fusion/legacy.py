"""Read what earlier versions wrote: old names of weights, recipe fields and history keys, and what each is now.

Files are upgraded when they are read; nothing on disk is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

V = TypeVar("V")

# Dotted fields of recipes.
RECIPE_FIELDS = {
    "optim.final": "optim.final_lr_ratio",
    "optim.warmup": "optim.warmup_fraction",
    "optim.clip": "optim.max_grad_norm",
    "detectors_optim.final": "detectors_optim.final_lr_ratio",
    "detectors_optim.warmup": "detectors_optim.warmup_fraction",
    "detectors_optim.clip": "detectors_optim.max_grad_norm",
    "crops.shuffle": "crops.shuffle_buffer",
    "crops.identity_share": "crops.identity_probability",
}

# Parts of the names of weights in checkpoints of format 1, by model.
WEIGHT_NAMES: dict[str, dict[str, str]] = {
    "tgecnet": {
        ".attention.spread.": ".attention.qkv_dwconv.",
        ".attention.project.": ".attention.project_out.",
        ".feed_forward.enter.": ".feed_forward.project_in.",
        ".feed_forward.spread.": ".feed_forward.dwconv.",
        ".feed_forward.leave.": ".feed_forward.project_out.",
    },
    "moefusion": {"everything.": "global_experts."},
}

HISTORY_KEYS = {
    "train/wait_s": "train/data_time_s",
    "train/step_s": "train/step_time_s",
    "wait_share": "data_time_fraction",
    "val/psnr_in": "val/psnr_input",
}


def upgrade_recipe(recipe: Any) -> Any:
    """Return the settings of a recipe, nested as in JSON, with the fields' names of today. Others stay as they are."""
    if not isinstance(recipe, dict):
        return recipe
    upgraded = dict(recipe)
    for old, new in RECIPE_FIELDS.items():
        section, _, old_name = old.partition(".")
        fields = upgraded.get(section)
        if isinstance(fields, dict) and old_name in fields:
            new_name = new.partition(".")[2]
            upgraded[section] = {new_name if name == old_name else name: value for name, value in fields.items()}
    return upgraded


def upgrade_history(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the numbers of epochs under the keys of today."""
    return [{HISTORY_KEYS.get(key, key): value for key, value in epoch.items()} for epoch in history]


def upgrade_weights(model: str, weights: Mapping[str, V]) -> dict[str, V]:
    """Return weights, or optimiser moments, of a checkpoint of format 1 under the names of today."""
    names = WEIGHT_NAMES.get(model, {})
    return {_replaced(key, names): value for key, value in weights.items()}


def _replaced(text: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text
