"""Recipes of both stages of TG-ECNet: restoration, then fusion on it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fusion.errors import UserError
from fusion.models.configs import TGECNET_STAGES, TGECNetConfig
from fusion.training.configs import CropConfig, FuseLoss, OptimConfig, RestoreLoss, ValidationConfig
from fusion.training.recipes import (
    Recipe,
    tgecnet_fuse,
    tgecnet_fuse_duskfuse,
    tgecnet_fuse_tiny,
    tgecnet_restore,
    tgecnet_restore_duskfuse,
    tgecnet_restore_tiny,
)

RESTORE, FUSE = TGECNET_STAGES
# Fields of the model that say nothing of the training of stage 1; `initialisation` does, though not of what it became.
OF_STAGE_2 = tuple(name for name in TGECNetConfig.FUSION_FIELDS if name != "initialisation")


@dataclass(frozen=True)
class StageRecipe:
    """How one of the stages is trained; the fields are those of `Recipe`."""

    loss: RestoreLoss | FuseLoss
    optim: OptimConfig = field(default_factory=OptimConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    epochs: int = 30
    batch_size: int = 60
    repeats: int = 1


@dataclass(frozen=True)
class TwoStageRecipe:
    """Both stages of a network: stage 1 is trained by `restore`, stage 2 on it by `fuse`.

    `model` is of both: `model.experts` (N) and `model.top_k` (K) are those of all gates, `model.fusion_experts` and
    `model.fusion_top_k` those of stage 2 alone. `fuse.loss.gradient` is the alpha of searches.
    """

    name: str
    model_name: str
    model: TGECNetConfig
    restore: StageRecipe
    fuse: StageRecipe
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.stage != FUSE:
            raise UserError(f"recipe {self.name} is of both stages: leave model.stage at {FUSE!r}.")
        for stage in TGECNET_STAGES:
            self.stage(stage)  # which checks itself

    def stage(self, stage: str) -> Recipe:
        """Return the recipe of one stage, "restore" or "fuse", as `tgecnet-restore` and `tgecnet-fuse` have it."""
        model = replace(self.model, stage=RESTORE, fusion_experts=0, fusion_top_k=0) if stage == RESTORE else self.model
        how: StageRecipe = getattr(self, stage)
        rest: dict[str, Any] = {one.name: getattr(how, one.name) for one in fields(how)}
        name = self.name.replace(self.model_name, f"{self.model_name}-{stage}", 1)
        return Recipe(name, self.model_name, model, seed=self.seed, **rest)


AnyRecipe = Recipe | TwoStageRecipe


def combine(name: str, restore: Recipe, fuse: Recipe) -> TwoStageRecipe:
    """Return the recipe of both stages; the config of the model is that of stage 2, which holds stage 1."""
    assert isinstance(fuse.model, TGECNetConfig)

    def how(recipe: Recipe) -> StageRecipe:
        return StageRecipe(**{one.name: getattr(recipe, one.name) for one in fields(StageRecipe)})

    return TwoStageRecipe(name, fuse.model_name, fuse.model, how(restore), how(fuse), fuse.seed)


def tgecnet() -> TwoStageRecipe:
    """Both stages of TG-ECNet, `tgecnet-restore` and `tgecnet-fuse`."""
    return combine("tgecnet", tgecnet_restore(), tgecnet_fuse())


def tgecnet_duskfuse() -> TwoStageRecipe:
    """Both stages by our own settings, `tgecnet-restore-duskfuse` and `tgecnet-fuse-duskfuse`."""
    return combine("tgecnet-duskfuse", tgecnet_restore_duskfuse(), tgecnet_fuse_duskfuse())


def tgecnet_tiny() -> TwoStageRecipe:
    """Both stages small enough for two CPU cores, `tgecnet-restore-tiny` and `tgecnet-fuse-tiny`."""
    return combine("tgecnet-tiny", tgecnet_restore_tiny(), tgecnet_fuse_tiny())


TWO_STAGE_RECIPES: dict[str, Callable[[], TwoStageRecipe]] = {
    "tgecnet": tgecnet,
    "tgecnet-duskfuse": tgecnet_duskfuse,
    "tgecnet-tiny": tgecnet_tiny,
}


def of_stage(recipe: AnyRecipe, stage: str) -> Recipe:
    """Return the recipe of one stage; a recipe that has no stages is its own."""
    return recipe.stage(stage) if isinstance(recipe, TwoStageRecipe) else recipe


def stages_of(recipe: AnyRecipe) -> list[Recipe]:
    """Return the recipes that are trained one after the other."""
    return [recipe.stage(stage) for stage in TGECNET_STAGES] if isinstance(recipe, TwoStageRecipe) else [recipe]


def changes_stage_1(name: str) -> bool:
    """Whether a field of a recipe of both stages, by its dotted name, changes stage 1."""
    group, _, rest = name.partition(".")
    return name == "seed" or group == RESTORE or (group == "model" and rest not in OF_STAGE_2)
