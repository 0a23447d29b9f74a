"""The recipes of the papers say what docs/recipes.md says that papers and files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.moefusion.recipes import moefusion_detectors, moefusion_detectors_duskfuse
from fusion.errors import UserError
from fusion.training.configs import OptimConfig
from fusion.training.recipes import RECIPES, Recipe, aenet, moefusion, recipe, tgecnet_fuse, tgecnet_restore
from workflows.train.recipes import RECIPES as ALL_RECIPES

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"


def test_tgecnet_is_the_papers():
    for made, a_gpu in ((tgecnet_restore(), 7), (tgecnet_fuse(), 10)):
        assert made.batch_size == 6 * a_gpu and made.epochs == 30 and made.repeats == 1
        assert (made.crops.size, made.crops.per_image, made.crops.flips) == (128, 1, True)
        assert made.crops.identity_probability == 0
        assert (made.model.experts, made.model.top_k) == (11, 6)
        assert (made.model.initialisation, made.model.prompt_padding, made.model.residual) == ("published", 0, 1)
        assert made.optim == OptimConfig(lr=1e-4, final_lr_ratio=0, warmup_fraction=5 / 30)
    assert (tgecnet_restore().loss.balance, tgecnet_restore().loss.gradient) == (0.1, 10)
    assert (tgecnet_fuse().loss.balance, tgecnet_fuse().loss.gradient) == (0.1, 5)


@pytest.mark.parametrize("make", [moefusion, moefusion_detectors])
def test_moefusion_is_the_papers(make):
    made = make()
    assert (made.epochs, made.repeats, made.batch_size) == (24, 3, 4)
    assert made.optim == OptimConfig(lr=1e-4, weight_decay=1e-4, milestones=(16, 22), max_grad_norm=35)
    assert made.crops.shape == (480, 640) and not made.crops.flips and made.crops.per_image == 1
    assert (made.model.experts, made.model.top_k, made.loss.gradient) == (4, 2, 10)


def test_its_detectors_are_trained_by_the_same_optimiser():
    assert moefusion_detectors().detectors_optim == moefusion_detectors().optim
    assert moefusion_detectors_duskfuse().detectors_optim.max_grad_norm == 0


def test_aenet_is_the_papers():
    made = aenet()
    assert (made.epochs, made.batch_size, made.crops.size, made.crops.per_image) == (110, 16, 128, 1)
    assert (made.optim.lr, made.optim.milestones) == (1e-3, (10,))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_as_it_is_asked_for(name):
    assert recipe(name).name == name


@pytest.mark.parametrize("name", ALL_RECIPES)
def test_every_recipe_stands_in_the_page(name):
    assert f"`{name}`" in PAGE.read_text()


def test_no_pass_is_no_epoch():
    with pytest.raises(UserError, match="repeats must be at least 1"):
        Recipe("x", "aenet", aenet().model, aenet().loss, repeats=0)
