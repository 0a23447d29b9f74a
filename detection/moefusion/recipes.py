"""Recipes of MoE-Fusion with its detectors. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from detection.faster_rcnn.recipes import TINY, FasterRCNNConfig
from fusion.data.class_names import standard_name
from fusion.errors import UserError
from fusion.training.configs import CropConfig, OptimConfig, ValidationConfig
from fusion.training.recipes import Recipe, moefusion, moefusion_tiny


@dataclass(frozen=True)
class TwinConfig:
    """Both detectors are of one kind. They see the pixels that fusion sees: `size` and `longest` play no part."""

    detector: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)


SMALLEST = 72  # below, the coarsest level is one pixel, and its normalisation may have nothing to normalise by


@dataclass(frozen=True)
class JointRecipe(Recipe):
    """MoE-Fusion with its detectors. `weights`: what their backbones start from, see `faster_rcnn.load_backbone`."""

    detectors: TwinConfig = field(default_factory=TwinConfig)
    detectors_optim: OptimConfig = field(default_factory=OptimConfig)
    weights: str = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.stage != "moefusion":
            raise UserError(f"recipe {self.name}: only moefusion trains together with detectors")
        if self.crops.classes != self.detectors.detector.classes:
            raise UserError(
                f"recipe {self.name}: crops.classes {self.crops.classes} and detectors.detector.classes "
                f"{self.detectors.detector.classes} must be the same"
            )
        other = next((name for name in self.crops.classes if standard_name(name) != name), None)
        if other is not None:
            raise UserError(f"recipe {self.name}: boxes of {other!r} are called {standard_name(other)!r}. Say that.")
        if self.crops.size < SMALLEST:
            raise UserError(
                f"recipe {self.name}: crops.size is {self.crops.size}; detectors need at least {SMALLEST} pixels"
            )


def moefusion_detectors() -> JointRecipe:
    """MoE-Fusion (E4K2) with its two Faster R-CNN (ResNet-50 FPN), as in the paper: 24 epochs, batch 4, alpha 10."""
    return _joint(moefusion(), "moefusion-detectors", FasterRCNNConfig(), OptimConfig(1e-4, weight_decay=1e-4))


def moefusion_detectors_tiny() -> JointRecipe:
    """The same with small detectors, for two CPU cores: crops of 160 pixels."""
    base = replace(
        moefusion_tiny(),
        crops=CropConfig(size=160, per_image=1),
        validation=ValidationConfig(rows=24, size=160),
        epochs=6,
    )
    return _joint(
        base, "moefusion-detectors-tiny", TINY, OptimConfig(lr=1e-3, warmup_fraction=0.05, max_grad_norm=5.0), "none"
    )


def _joint(
    base: Recipe, name: str, detector: FasterRCNNConfig, optim: OptimConfig, weights: str = "imagenet"
) -> JointRecipe:
    fields = {key: getattr(base, key) for key in base.__dataclass_fields__}
    fields |= {"name": name, "crops": replace(base.crops, classes=detector.classes)}
    if base.optim.milestones:
        optim = replace(optim, milestones=base.optim.milestones)
    return JointRecipe(**fields, detectors=TwinConfig(detector), detectors_optim=optim, weights=weights)


RECIPES: dict[str, Callable[[], JointRecipe]] = {
    "moefusion-detectors": moefusion_detectors,
    "moefusion-detectors-tiny": moefusion_detectors_tiny,
}
