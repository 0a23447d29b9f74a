"""What revision 103a0ad wrote is read as it was: checkpoints, optimisers and recipes. The files were made by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint
from fusion.config import from_dict, to_dict
from fusion.legacy import (
    ADDED_COMMON_FIELDS,
    ADDED_RECIPE_FIELDS,
    HISTORY_KEYS,
    RECIPE_FIELDS,
    upgrade_config,
    upgrade_history,
    upgrade_recipe,
)
from fusion.models.configs import TGECNetConfig
from fusion.training.engine import Engine
from fusion.training.recipes import Recipe
from fusion.training.search_space import field_of
from workflows.train.recipes import RECIPES, find_recipe

OLD = Path(__file__).parent.parent / "fixtures" / "103a0ad"
NAMES = ("tgecnet-restore", "tgecnet-fuse", "moefusion", "aenet")
EXPECTED = json.loads((OLD / "checkpoints" / "expected.json").read_text())
RECIPE_FILES = sorted((OLD / "recipes").glob("*.json"))
IMAGES = {
    "restore": ("clean", "degraded"),
    "moefusion": ("visible", "infrared", "mask"),
    "aenet": ("visible", "infrared"),
}


@pytest.fixture(params=NAMES)
def folder(request, tmp_path):
    """A checkpoint; the second stage of TG-ECNet is stored without its first one, which it holds unchanged."""
    stored = OLD / "checkpoints" / request.param
    if request.param != "tgecnet-fuse":
        return stored
    whole = tmp_path / request.param
    shutil.copytree(stored, whole)
    weights = load_file(stored / "model.safetensors") | load_file(OLD / "checkpoints/tgecnet-restore/model.safetensors")
    save_file(weights, whole / "model.safetensors")
    return whole


def batches(seed, stage):
    """Random images, as the training of the checkpoints had them."""
    generator = torch.Generator().manual_seed(seed)
    names = ("clean", "degraded", "visible", "infrared", "degraded_visible", "degraded_infrared", "mask")
    every = [{name: torch.rand(2, 1, 16, 16, generator=generator) for name in names} for _ in range(3)]
    return [{name: batch[name] for name in IMAGES[stage]} for batch in every]


def test_a_checkpoint_gives_the_same_image(folder):
    loaded = checkpoint.load(folder)
    first, second = (torch.rand(1, 1, 21, 30, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    with torch.inference_mode():
        restores = loaded.model.config.stage == "restore"
        image = (loaded.model(first) if restores else loaded.model(first, second)).image
    np.testing.assert_allclose(image.numpy(), np.load(folder / "expected.npy"), rtol=0, atol=2e-6)
    assert loaded.fingerprint == EXPECTED[folder.name]["fingerprint"]  # so what was fused with it stays its work


def test_every_weight_is_the_stored_one(folder):
    stored = load_file(folder / "model.safetensors")
    loaded = checkpoint.load(folder).model.state_dict()
    assert len(stored) == len(loaded)
    renamed = {name for name in stored if name not in loaded}
    assert bool(renamed) == (folder.name != "aenet")
    # in the same order as the parts of the network were made
    assert sorted(map(_sum, stored.values())) == sorted(map(_sum, loaded.values()))


def _sum(tensor):
    return float(tensor.double().sum())


def test_its_recipe_is_read_in_the_names_of_today(folder):
    recipe = from_dict(Recipe, checkpoint.load(folder).recipe)
    assert (recipe.optim.final_lr_ratio, recipe.optim.warmup_fraction, recipe.optim.max_grad_norm) == (0.1, 0.1, 1.0)
    assert (recipe.crops.identity_probability, recipe.crops.shuffle_buffer) == (0.2, 512)


@pytest.mark.parametrize("name", ["tgecnet-restore", "moefusion", "aenet"])
def test_a_training_goes_on_with_the_moments_it_had(name):
    folder = OLD / "checkpoints" / name
    recipe = from_dict(Recipe, checkpoint.load(folder).recipe)
    engine = Engine(recipe, 3)
    engine.resume(folder)
    assert engine.epoch == 1
    stored = load_file(folder / "optimiser.safetensors")
    assert 3 * sum(bool(state) for state in engine.optimiser.state.values()) == len(stored)
    numbers = engine.train_epoch(batches(1, engine.stage))
    expected = {key: value for key, value in EXPECTED[name].items() if key != "fingerprint"}
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_a_first_stage_starts_a_second_one_of_today():
    stage_1 = OLD / "checkpoints" / "tgecnet-restore"
    settings = json.loads((OLD / "checkpoints" / "tgecnet-fuse" / "config.json").read_text())["recipe"]
    engine = Engine(from_dict(Recipe, upgrade_recipe(settings)), 3)
    engine.start_from(stage_1)
    assert _same(engine.model.restoration.state_dict(), checkpoint.load(stage_1).model.restoration.state_dict())


def test_what_is_saved_after_resuming_is_of_today(tmp_path):
    folder = OLD / "checkpoints" / "moefusion"
    engine = Engine(from_dict(Recipe, checkpoint.load(folder).recipe), 3)
    engine.resume(folder)
    engine.save(tmp_path, {})
    again = Engine(engine.recipe, 3)
    again.resume(tmp_path)
    assert _same(again.model.state_dict(), engine.model.state_dict())
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "everything" in name]
    assert json.loads((tmp_path / "config.json").read_text())["recipe"] == to_dict(engine.recipe)


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_a_recipe_file_is_the_recipe_of_today_but_for_what_was_not_there(path):
    expected = RECIPES[path.stem]()
    if isinstance(expected, JointRecipe):
        expected = replace(expected, detectors=replace(expected.detectors, exchange="per_level"))
    assert find_recipe(str(path)) == expected


def test_every_renamed_field_is_a_field_of_today_and_no_old_one_is():
    recipes = [to_dict(make()) for make in RECIPES.values()]
    joint = next(make() for make in RECIPES.values() if isinstance(make(), JointRecipe))
    for old, new in RECIPE_FIELDS.items():
        section = old.partition(".")[0]
        if section in ("optim", "detectors_optim", "crops"):
            field_of(joint, new)
        for recipe in recipes:
            assert old.rpartition(".")[2] not in recipe.get(section, {})


def test_fields_that_are_new_do_what_was_done_before():
    """An old TG-ECNet keeps the border of its prompts, whatever the default of today is; no recipe trains otherwise."""
    old = json.loads((OLD / "checkpoints" / "tgecnet-restore" / "config.json").read_text())
    assert "prompt_padding" not in old["config"]
    assert checkpoint.load(OLD / "checkpoints" / "tgecnet-restore").model.config.prompt_padding == 1
    recipe = from_dict(Recipe, upgrade_recipe(old["recipe"]))
    assert (recipe.model.prompt_padding, recipe.model.initialisation) == (1, "scaled")
    assert (recipe.repeats, recipe.crops.resize, recipe.optim.batch_scaling) == (1, (0, 0), "sqrt")
    assert (
        TGECNetConfig().prompt_padding == 0
        and upgrade_config("tgecnet", to_dict(TGECNetConfig()))["prompt_padding"] == 0
    )


@pytest.mark.parametrize("name", ["tgecnet-restore-tiny", "tgecnet-fuse-tiny", "aenet-tiny"])
def test_a_recipe_without_the_new_fields_is_upgraded_to_itself(name):
    recipe = to_dict(RECIPES[name]())
    shorter = json.loads(json.dumps(recipe))
    for field in ADDED_COMMON_FIELDS | ADDED_RECIPE_FIELDS[recipe["model_name"]]:
        group, _, inner = field.rpartition(".")
        if not group or group in shorter:
            (shorter[group] if group else shorter).pop(inner)
    assert "repeats" not in shorter and "resize" not in shorter["crops"]
    assert upgrade_recipe(shorter) == recipe


def test_upgrading_leaves_what_is_of_today_and_what_is_no_recipe():
    for name in RECIPES:
        recipe = to_dict(RECIPES[name]())
        assert upgrade_recipe(recipe) == recipe
    assert upgrade_recipe("aenet") == "aenet"
    assert upgrade_recipe(None) is None
    given = {"optim": {"clip": 1.0, "lr": 0.1}, "crops": None}
    assert upgrade_recipe({"crops": {}})["crops"]["box_attention"] is False
    assert list(upgrade_recipe(given)["optim"].items())[:2] == [("max_grad_norm", 1.0), ("lr", 0.1)]
    assert given == {"optim": {"clip": 1.0, "lr": 0.1}, "crops": None}


def test_the_history_of_a_run_goes_on_under_the_keys_of_today(folder):
    (epoch,) = upgrade_history(checkpoint.read_state(folder)["history"])
    assert not HISTORY_KEYS.keys() & epoch.keys()
    assert {"train/data_time_s", "train/step_time_s", "data_time_fraction", "val/psnr_input"} <= epoch.keys()
    assert upgrade_history([epoch]) == [epoch]
