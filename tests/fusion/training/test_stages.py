"""Every kind of training: recipes survive JSON, terms fit their weights, MoE-Fusion goes from rows to weights."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from fusion import checkpoint, inference, scenes
from fusion.config import from_dict, to_dict
from fusion.data.corpus import Sample
from fusion.errors import UserError
from fusion.models.configs import MoEFusionConfig
from fusion.models.registry import MODELS
from fusion.training.configs import CropConfig, OptimConfig, RestoreLoss, ValidationConfig
from fusion.training.crops import crops, training_batches, validation_batches
from fusion.training.engine import Engine, learning_rate, loss_terms
from fusion.training.recipes import RECIPES, Recipe
from fusion.training.stages import STAGES

TINY = replace(
    RECIPES["moefusion-tiny"](),
    model=MoEFusionConfig(width=4, decoder_widths=(8, 6, 4), grid=(3, 4)),
    crops=CropConfig(size=32, per_image=2, shuffle_buffer=8),
    validation=ValidationConfig(rows=2, size=48),
    epochs=2,
)


def rows(count: int, height=64, width=80) -> list[Sample]:
    made = []
    for i in range(count):
        scene = scenes.render(11, i, height, width)
        pair = {"visible": scene.visible, "infrared": scene.infrared}
        degraded = {f"degraded_{name}": image for name, image in pair.items()}
        images = pair | degraded | {"boxes": scene.boxes, "classes": scene.classes}
        made.append(Sample(f"s{i}", "train", "scenes", "clean", "0", "{}", **images))
    return made


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_survive_json_and_build(name):
    recipe = RECIPES[name]()
    assert recipe.name == name and RECIPES[name].__doc__
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    stage = STAGES[recipe.model.stage]
    assert isinstance(recipe.loss, stage.loss)
    assert isinstance(recipe.model, MODELS[recipe.model_name].config)


@pytest.mark.parametrize("stage", list(STAGES))
def test_terms_are_those_that_have_weights(stage):
    row = STAGES[stage]
    shape = (2, 1, 24, 32)
    names = {*row.images, *row.truth, "mask"}
    torch.manual_seed(0)
    batch = {name: torch.rand(shape) for name in sorted(names)}
    recipes = (make() for name, make in RECIPES.items() if name.endswith("tiny"))
    recipe = next(recipe for recipe in recipes if recipe.model.stage == stage.removesuffix("-joint"))
    network = MODELS[recipe.model_name].build(recipe.model)
    found = loss_terms(stage, network, batch)
    assert set(found) == set(asdict(row.loss()))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())


def test_box_attention_is_for_moefusion():
    assert replace(TINY.crops, box_attention=True) != TINY.crops
    with pytest.raises(UserError, match=r"crops\.box_attention is for MoE-Fusion alone"):
        replace(RECIPES["aenet-tiny"](), crops=replace(TINY.crops, box_attention=True))


def test_a_loss_of_another_stage_is_refused():
    with pytest.raises(UserError, match="stage moefusion needs the loss MoEFusionLoss"):
        replace(TINY, loss=RestoreLoss())


def test_the_mask_moves_with_the_image():
    """A white image inside the boxes: mask and image stay equal through crops, flips and padding."""
    (row,) = rows(1, 64, 72)
    boxes = np.array([[3, 5, 20, 30], [50, 2, 72, 12]], np.float32)
    picture = np.zeros((64, 72), np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        picture[y1:y2, x1:x2] = 255
    row = replace(row, visible=np.repeat(picture[..., None], 3, 2), boxes=boxes)
    for size in (16, 96):
        for crop in crops(row, "moefusion", CropConfig(size=size, per_image=12), seed=1, epoch=0):
            np.testing.assert_allclose(crop["mask"], crop["visible"], atol=1e-6)
            assert set(crop) == {"visible", "infrared", "mask"}
    (batch,) = validation_batches([row], "moefusion", 32)
    torch.testing.assert_close(batch["mask"], batch["visible"], atol=1e-6, rtol=0)
    (batch,) = validation_batches([replace(row, boxes=np.zeros((0, 4), np.float32))], "moefusion", 32)
    assert batch["mask"].sum() == 0


def test_moefusion_learns_is_saved_and_fuses(tmp_path):
    torch.set_num_threads(1)
    data = rows(6)
    recipe = replace(TINY, epochs=12, optim=OptimConfig(lr=6e-3, max_grad_norm=1.0))
    batches = [list(training_batches(data, "moefusion", recipe.crops, 4, recipe.seed, e)) for e in range(12)]
    engine = Engine(recipe, len(batches[0]))
    held = list(validation_batches(rows(2), "moefusion", 48))
    before = engine.validate(held)
    losses = [engine.train_epoch(part)["loss"] for part in batches]
    after = engine.validate(held)
    assert set(after) == {"qabf", "vif", "en"}
    assert losses[-1] < 0.8 * losses[0] and after["vif"] > before["vif"]
    engine.save(tmp_path / "c", {"history": []})
    model = checkpoint.load(tmp_path / "c", expect="moefusion").model
    fused = inference.fuse(model, data[0].visible, data[0].infrared)
    assert fused.shape == data[0].visible.shape and fused.std() > 5


def test_attention_in_a_batch_reaches_the_network():
    network = MODELS["moefusion"].build(TINY.model).eval()
    batch = {name: torch.rand(1, 1, 32, 32) for name in ("visible", "infrared", "mask")}
    with torch.no_grad():
        plain = STAGES["moefusion"].call(network, batch).image
        half = STAGES["moefusion"].call(network, batch | {"attention": torch.full((1, 1, 8, 8), 0.5)}).image
        other = STAGES["moefusion"].call(network, batch | {"attention": torch.rand(1, 1, 8, 8)}).image
    torch.testing.assert_close(plain, half)
    assert not torch.allclose(plain, other, atol=1e-5)


def test_milestones_take_the_place_of_the_cosine():
    optim = OptimConfig(lr=1e-2, milestones=(16, 22))
    rates = [learning_rate(optim, epoch / 24, 24) for epoch in (0, 15.9, 16, 21.9, 22, 24)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])
    warm = replace(optim, warmup_fraction=0.1)
    assert learning_rate(warm, 0.05, 24) == pytest.approx(5e-3) and learning_rate(warm, 0.2, 24) == 1e-2
