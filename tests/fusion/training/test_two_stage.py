"""Recipes of both stages: what each stage is trained by, and which fields change stage 1."""

from dataclasses import fields, replace

import pytest

from fusion.config import from_dict, to_dict
from fusion.errors import UserError
from fusion.training import search_space
from fusion.training.recipes import RECIPES, Recipe
from fusion.training.two_stage import (
    FUSE,
    RESTORE,
    TWO_STAGE_RECIPES,
    StageRecipe,
    TwoStageRecipe,
    changes_stage_1,
    of_stage,
    stages_of,
)
from workflows.train.recipes import find_recipe, read_recipe

TINY = TWO_STAGE_RECIPES["tgecnet-tiny"]()


@pytest.mark.parametrize("name", list(TWO_STAGE_RECIPES))
def test_the_stages_are_trained_as_by_their_own_recipes(name):
    recipe = TWO_STAGE_RECIPES[name]()
    assert recipe.name == name and find_recipe(name) == recipe
    for stage, own in zip((RESTORE, FUSE), stages_of(recipe), strict=True):
        assert own == of_stage(recipe, stage) == RECIPES[name.replace("tgecnet", f"tgecnet-{stage}")]()
    assert read_recipe(to_dict(recipe)) == recipe == from_dict(TwoStageRecipe, to_dict(recipe))


def test_a_stage_has_every_field_of_a_recipe():
    shared = {"name", "model_name", "model", "seed"}
    assert {one.name for one in fields(StageRecipe)} == {one.name for one in fields(Recipe)} - shared


def test_n_and_k_are_of_both_stages():
    recipe = search_space.apply(TINY, {"model.experts": 8, "model.top_k": 3, "model.fusion_experts": 6, "seed": 4})
    restore, fuse = stages_of(recipe)
    assert (restore.model.experts, restore.model.top_k, restore.model.fusion_experts) == (8, 3, 0)
    assert (fuse.model.experts, fuse.model.top_k, fuse.model.fusion_gate) == (8, 3, (6, 3))
    assert restore.seed == fuse.seed == 4
    assert restore.model.restoration_fields() == fuse.model.restoration_fields()


def test_the_loss_of_the_other_stage_and_another_stage_are_refused():
    with pytest.raises(UserError, match="needs the loss RestoreLoss"):
        replace(TINY, restore=TINY.fuse)
    with pytest.raises(UserError, match="is of both stages"):
        replace(TINY, model=replace(TINY.model, stage="restore"))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("model.experts", True),
        ("model.prompt_atoms", True),
        ("model.fusion_experts", False),
        ("model.prompt_padding", True),
        ("model.residual", False),
        ("restore.optim.lr", True),
        ("fuse.optim.lr", False),
        ("fuse.loss.gradient", False),
        ("seed", True),
    ],
)
def test_which_fields_change_stage_1(name, first):
    assert changes_stage_1(name) is first
    value = search_space.field_of(TINY, name)
    values = {name: 1 - value if name == "model.prompt_padding" else value + 1}
    now = search_space.apply(replace(TINY, model=replace(TINY.model, fusion_top_k=1)), values)
    first_now, first_before = now.stage(RESTORE), TINY.stage(RESTORE)
    shapes = [recipe.model.restoration_fields() for recipe in (first_now, first_before)]
    assert (shapes[0] != shapes[1] or replace(first_now, model=first_before.model) != first_before) is first


def test_a_field_without_its_stage_names_those_of_both():
    with pytest.raises(UserError, match=r"It has fuse\.loss\.gradient, restore\.loss\.gradient\.$"):
        search_space.parse("loss.gradient=1,2", TINY)


def test_presets_address_the_stage_they_are_of():
    assert search_space.PRESETS["alpha"].settings(TINY)[0] == {"fuse.loss.gradient": 1.0}
    assert search_space.label({"fuse.loss.gradient": 5.0}) == "alpha 5"
    assert search_space.label({"restore.optim.lr": 0.001, "fuse.optim.lr": 0.01}) == "restore lr 0.001, lr 0.01"
    for name in ("experts", "alpha", "nka"):
        search_space.preset(name, TINY)
