"""Stage 2 of TG-ECNet keeps its stage 1 as it was trained: weights, and what has no shape, such as K."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusion import checkpoint
from fusion.config import from_dict
from fusion.errors import UserError
from fusion.legacy import upgrade_recipe
from fusion.models.configs import TGECNetConfig
from fusion.training.configs import FuseLoss, RestoreLoss
from fusion.training.engine import Engine
from fusion.training.first_stage import follow_first_stage
from fusion.training.recipes import RECIPES, Recipe
from tests.helpers.tiny_models import SMALL

OLD = Path(__file__).parents[2] / "fixtures" / "103a0ad" / "checkpoints"
STAGE_1 = replace(SMALL, top_k=1, bank_heads=4)  # K and the heads have no shape: weights alone do not tell them
RESTORE = Recipe("first", "tgecnet", STAGE_1, RestoreLoss())
FUSE = Recipe("second", "tgecnet", replace(STAGE_1, stage="fuse"), FuseLoss())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "stage-1"
    Engine(RESTORE, 1).save(out, {})
    return out


def other(**changes) -> Recipe:
    return replace(FUSE, model=replace(FUSE.model, **changes))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"top_k": 2}, ["model.top_k is 1 there and 2 here"]),
        ({"bank_heads": 2}, ["model.bank_heads is 4 there and 2 here"]),
        ({"heads": (1, 1, 2, 4)}, ["model.heads is [1, 2, 2, 4] there and [1, 1, 2, 4] here"]),
        ({"experts": 5, "top_k": 5}, ["model.experts is 4 there and 5 here, model.top_k is 1 there and 5 here"]),
        ({"width": 16}, ["model.width is 8 there and 16 here"]),
    ],
)
def test_settings_that_differ_are_named_with_both_values(folder, changes, parts):
    for given in (None, [f"model.{name}" for name in changes]):
        with pytest.raises(UserError, match=r"stage 1 in .* other settings than second") as caught:
            follow_first_stage(other(**changes), folder, given)
        assert all(part in str(caught.value) for part in parts)
    with pytest.raises(UserError, match="other settings"):
        Engine(other(**changes), 1).start_from(folder)


def test_what_was_not_given_is_taken_from_stage_1(folder):
    recipe = other(top_k=2, bank_heads=2, fusion_top_k=3, residual=0.25)
    followed = follow_first_stage(recipe, folder, ["epochs", "model.fusion_top_k"])
    assert followed == other(fusion_top_k=3, residual=0.25)
    with pytest.raises(UserError, match=r"asks for: model\.top_k is 1 there and 2 here\. "):
        follow_first_stage(recipe, folder, ["model.top_k"])


def test_restored_images_of_stage_2_are_those_of_stage_1(folder):
    images = torch.rand(3, 1, 24, 40, generator=torch.Generator().manual_seed(5))
    first = checkpoint.load(folder).model
    second = Engine(follow_first_stage(RECIPES["tgecnet-fuse-tiny"](), folder, ()), 1)
    second.start_from(folder)
    assert _restored(second.model.eval(), images) == _restored(first, images)
    wrong = first.train(False)
    wrong.restoration.moe1.top_k = 2  # what --from once did
    assert _restored(wrong, images) != _restored(second.model, images)


def _restored(model, images) -> list[bytes]:
    with torch.no_grad():
        return [model(image[None]).image.numpy().tobytes() for image in images]


def test_a_second_stage_or_another_network_is_no_start(folder, tmp_path):
    Engine(FUSE, 1).save(tmp_path / "second", {})
    with pytest.raises(UserError, match="is a stage-2 checkpoint"):
        follow_first_stage(FUSE, tmp_path / "second")
    with pytest.raises(UserError, match="holds aenet, not tgecnet"):
        follow_first_stage(FUSE, OLD / "aenet")


def test_the_gate_of_stage_2_may_have_its_own_n_and_k(folder, tmp_path):
    engine = Engine(other(fusion_experts=6, fusion_top_k=3), 1)
    engine.start_from(folder)
    moe = engine.model.fusion.moe
    assert (moe.w1.shape[0], moe.top_k) == (6, 3)
    assert (engine.model.restoration.moe1.w1.shape[0], engine.model.restoration.moe1.top_k) == (4, 1)
    engine.save(tmp_path, {})
    assert checkpoint.load(tmp_path).model.fusion.moe.top_k == 3
    assert replace(STAGE_1, stage="fuse").fusion_gate == (4, 1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stage": "restore", "fusion_experts": 4}, "gate of stage 2"),
        ({"stage": "fuse", "fusion_top_k": 5}, "5 of 4 experts"),
        ({"stage": "fuse", "fusion_experts": 1}, "2 of 1 experts"),
        ({"stage": "fuse", "fusion_experts": -1}, "it must be 1..N"),
    ],
)
def test_n_and_k_of_stage_2_are_checked(changes, part):
    with pytest.raises(UserError, match=part):
        replace(SMALL, **changes)


def test_checkpoints_without_these_fields_have_the_gate_of_stage_1():
    about = json.loads((OLD / "tgecnet-fuse" / "config.json").read_text())
    assert "fusion_experts" not in about["config"]
    config = checkpoint.read_config(OLD / "tgecnet-fuse")
    assert isinstance(config, TGECNetConfig)
    assert (
        config.fusion_gate == (config.experts, config.top_k) == (about["config"]["experts"], about["config"]["top_k"])
    )
    recipe = from_dict(Recipe, upgrade_recipe(about["recipe"]))
    assert follow_first_stage(recipe, OLD / "tgecnet-restore") == recipe
