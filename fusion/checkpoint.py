"""A checkpoint is a folder that alone rebuilds the model; nothing in it is ever unpickled.

model.safetensors       weights
optimiser.safetensors   Adam's moments, by parameter name (only in a run's own checkpoints)
config.json             model name and config, recipe, versions
state.json              epoch, step, validation; written last
detectors/              the same files of a network that goes along (MoE-Fusion's detectors), where there is one
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion import config as configs
from fusion import storage
from fusion.errors import UserError
from fusion.legacy import upgrade_config, upgrade_recipe, upgrade_weights
from fusion.models.registry import MODELS, Model

FORMAT = 2
FORMATS = (1, 2)  # that can be read; in 1 some weights and recipe fields have other names
FILES = ("model.safetensors", "config.json", "state.json")
PARTS = ("detectors",)
ALL_FILES = (*(f"{part}/{name}" for part in PARTS for name in FILES), *FILES)  # state.json, which seals it, last


@dataclass(frozen=True)
class Checkpoint:
    """A model read from a folder. `fingerprint` is the sha256 of its config and weights: equal ones fuse alike."""

    name: str
    model: nn.Module
    recipe: dict[str, Any]
    state: dict[str, Any]
    fingerprint: str


def save(
    folder: Path,
    name: str,
    model: nn.Module,
    *,
    recipe: dict[str, Any],
    state: dict[str, Any],
    optimiser: torch.optim.Optimizer | None = None,
) -> None:
    """Write the folder; `state.json` comes last, so a folder without it is not a checkpoint.

    The config is the model's attribute `config`, a dataclass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").unlink(missing_ok=True)
    config: Any = model.config
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    if optimiser is not None:
        save_file(_moments(model, optimiser), folder / "optimiser.safetensors")
    about = {"format": FORMAT, "model": name, "config": configs.to_dict(config), "recipe": recipe}
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")


def load(folder: str | Path, expect: str | None = None, models: Mapping[str, Model] = MODELS) -> Checkpoint:
    """Rebuild the model (on the CPU, in evaluation mode) from a local folder; its name is one of `models`.

    UserError when the folder is no checkpoint, is damaged, or holds another model than `expect`.
    """
    folder = _inside(Path(folder))
    name, config, recipe = _read_about(folder, expect, models)
    model = models[name].build(config)
    load_weights(model, folder)
    return Checkpoint(name, model.eval(), recipe, read_state(folder), _digest(folder))


def read_config(folder: str | Path, expect: str | None = None, models: Mapping[str, Model] = MODELS) -> Any:
    """Return the config of the model in a local folder, without its weights. Raises as `load` does."""
    return _read_about(_inside(Path(folder)), expect, models)[1]


def _read_about(folder: Path, expect: str | None, models: Mapping[str, Model]) -> tuple[str, Any, dict[str, Any]]:
    """Return the name of the model, its config and its recipe."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a checkpoint: {missing[0]} is missing. Give the folder `duskfuse train` wrote."
        )
    about = _read_json(folder / "config.json")
    name = about.get("model")
    if about.get("format") not in FORMATS or name not in list(models):
        raise UserError(
            f"{folder}: unknown model {name!r} or format {about.get('format')!r}; known are {', '.join(models)} in "
            f"formats up to {FORMAT}. Was it saved by a newer version?"
        )
    if expect is not None and name != expect:
        raise UserError(f"{folder} holds {name}, not {expect}. Give a {expect} checkpoint.")
    config = configs.from_dict(models[name].config, upgrade_config(name, about.get("config")), f"{folder}/config.json")
    return name, config, upgrade_recipe(about.get("recipe", {}))


def _inside(folder: Path) -> Path:
    """Return the checkpoint of a finished run, where the folder is one; else the folder."""
    inner = folder / "checkpoint"
    return inner if not (folder / "config.json").exists() and (inner / "config.json").exists() else folder


def part(folder: str | Path, name: str) -> Path | None:
    """Return the folder of a network that goes along (one of PARTS) with a checkpoint, if there is one."""
    inner = _inside(Path(folder)) / name
    return inner if (inner / "state.json").is_file() else None


def load_weights(model: nn.Module, folder: Path, only: str = "") -> None:
    """Load the weights whose name starts with `only` into the model. UserError: one is missing or does not fit."""
    stored = _upgraded(read_tensors(folder / "model.safetensors"), folder)
    wanted = {key: value for key, value in model.state_dict().items() if key.startswith(only)}
    absent = sorted(set(wanted) - set(stored))
    unfit = [key for key in wanted if key in stored and stored[key].shape != wanted[key].shape]
    if absent or unfit:
        key = absent[0] if absent else unfit[0]
        have = "none" if absent else tuple(stored[key].shape)
        raise UserError(
            f"{folder}: the weights do not fit this model ({key}: wanted {tuple(wanted[key].shape)}, found {have}). "
            "Use the recipe the checkpoint was trained with, or another checkpoint."
        )
    model.load_state_dict({key: stored[key] for key in wanted}, strict=not only)


def load_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path) -> None:
    """Put Adam's moments back, by parameter name. UserError: the file is missing or damaged."""
    moments = _upgraded(read_tensors(folder / "optimiser.safetensors"), folder)
    by_name = dict(model.named_parameters())
    for name, parameter in by_name.items():
        entry = {key.rpartition("/")[2]: value for key, value in moments.items() if key.startswith(f"{name}/")}
        if entry:
            step = entry.pop("step")
            optimiser.state[parameter] = {"step": step, **{k: v.to(parameter.device) for k, v in entry.items()}}


def read_state(folder: Path) -> dict[str, Any]:
    """Return state.json. UserError: it is missing or damaged."""
    return _read_json(Path(folder) / "state.json")


def _upgraded(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Weights or moments under the names of today."""
    about = _read_json(folder / "config.json")
    return upgrade_weights(str(about.get("model")), tensors) if about.get("format") == 1 else tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU. UserError: it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). It is damaged or incomplete; copy or train it again."
        ) from error


def _moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise ValueError("it holds no table")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). It is damaged; copy or train the checkpoint again."
        ) from error
    return data


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    about = _read_json(folder / "config.json")
    digest.update(json.dumps([about["model"], about["config"]], sort_keys=True).encode())
    digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()


def fetch(where: str) -> Path:
    """Return a local folder with the checkpoint at a path or URI: a checkpoint, or a finished run that holds one.

    From a URI it is copied, without its optimiser, and removed at exit. UserError: there is none.
    """
    if not storage.is_dir(where):
        raise UserError(f"no checkpoint at {where}: there is no such folder. Give the folder `duskfuse train` wrote.")
    if not storage.exists(storage.join(where, "config.json")):
        inner = storage.join(where, "checkpoint")
        if not storage.exists(storage.join(inner, "config.json")):
            raise UserError(f"{where} holds no finished checkpoint. Run the same `duskfuse train` again to finish it.")
        where = inner
    if not storage.is_uri(where):
        return Path(where).expanduser()
    local = Path(tempfile.mkdtemp(prefix="duskfuse-checkpoint-"))
    atexit.register(shutil.rmtree, local, ignore_errors=True)
    for name in ALL_FILES:  # without the optimiser: only Ray's own checkpoints are resumed from
        try:
            data = storage.read_bytes(storage.join(where, name))
        except FileNotFoundError:
            continue  # `load` says so, as for a local folder
        (local / name).parent.mkdir(exist_ok=True)
        (local / name).write_bytes(data)
    return local
