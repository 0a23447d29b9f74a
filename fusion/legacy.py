"""Read what earlier versions wrote: names of weights, recipe fields and history keys as they were, fields added since.

Files are upgraded when they are read; nothing on disk is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

V = TypeVar("V")

FASTER_RCNN_FIELDS = {
    "head": "box_head_dim",
    "longest": "max_size",
    "jitter": "scale_jitter",
    "sampled": "rois_per_image",
}

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
    # Detectors' recipes: YOLO's, Faster R-CNN's, and those of MoE-Fusion with its detectors.
    "loaders": "num_workers",
    "light": "brightness_jitter",
    **{f"model.{old}": f"model.{new}" for old, new in FASTER_RCNN_FIELDS.items()},
    **{f"detectors.detector.{old}": f"detectors.detector.{new}" for old, new in FASTER_RCNN_FIELDS.items()},
}

# Dotted fields of the configs of models, by model.
CONFIG_FIELDS: dict[str, dict[str, str]] = {
    "faster-rcnn": FASTER_RCNN_FIELDS,
    "detectors": {f"detector.{old}": f"detector.{new}" for old, new in FASTER_RCNN_FIELDS.items()},
}

# What a setting meant before there was a field for it: fields of configs, by model, and dotted fields of recipes where
# their group is there, of all recipes and by model. A field's default may be another one today.
ADDED_CONFIG_FIELDS: dict[str, dict[str, Any]] = {
    "tgecnet": {"fusion_experts": 0, "fusion_top_k": 0, "prompt_padding": 1, "initialisation": "scaled"},
    "detectors": {"exchange": "per_level"},
}
ADDED_COMMON_FIELDS: dict[str, Any] = {
    "crops.box_attention": False,
    "crops.tone": 0.0,
    "crops.resize": [0, 0],
    "optim.batch_scaling": "sqrt",
    "detectors_optim.batch_scaling": "sqrt",
}
ADDED_RECIPE_FIELDS: dict[str, dict[str, Any]] = {
    "tgecnet": {
        "repeats": 1,
        **{f"model.{name}": value for name, value in ADDED_CONFIG_FIELDS["tgecnet"].items()},
    },
    "moefusion": {
        "repeats": 1,
        "model.gate_inputs": "pooled",
        "model.gate_bias_rate": 0.0,
        "detectors.exchange": "per_level",
    },
    "aenet": {"repeats": 1},
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
    """Return the settings of a recipe, nested as in JSON, with the fields of today. Others stay as they are."""
    model = recipe.get("model_name") if isinstance(recipe, dict) else None
    if isinstance(recipe, dict) and {"restore", "fuse"} <= recipe.keys():
        return recipe  # of two stages, which earlier versions had not
    added = ADDED_COMMON_FIELDS | ADDED_RECIPE_FIELDS.get(str(model), {})
    return _completed(_renamed(recipe, RECIPE_FIELDS), added)


def upgrade_config(model: str, config: Any) -> Any:
    """Return the config of a model, nested as in JSON, with the fields of today. Others stay as they are."""
    return _completed(_renamed(config, CONFIG_FIELDS.get(model, {})), ADDED_CONFIG_FIELDS.get(model, {}))


def _completed(settings: Any, fields: Mapping[str, Any]) -> Any:
    """Return nested settings with the dotted fields that they lack, where the group of such a field is there."""
    if not isinstance(settings, dict):
        return settings
    completed = dict(settings)
    for name, value in fields.items():
        group, dot, inner = name.partition(".")
        if not dot:
            completed.setdefault(name, value)
        elif group in completed:
            completed[group] = _completed(completed[group], {inner: value})
    return completed


def _renamed(settings: Any, fields: Mapping[str, str]) -> Any:
    """Return nested settings with dotted fields (old -> new) renamed, in the same order."""
    if not isinstance(settings, dict):
        return settings
    names = {old: new for old, new in fields.items() if "." not in old}
    renamed = {}
    for name, value in settings.items():
        inner = {
            old.partition(".")[2]: new.partition(".")[2]
            for old, new in fields.items()
            if old.partition(".")[0] == name and "." in old
        }
        renamed[names.get(name, name)] = _renamed(value, inner) if inner else value
    return renamed


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
