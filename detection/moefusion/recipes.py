"""Recipes of MoE-Fusion with its detectors. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from detection.faster_rcnn.recipes import TINY, FasterRCNNConfig
from fusion.data.class_names import standard_name
from fusion.errors import UserError
from fusion.training.configs import CropConfig, OptimConfig, ValidationConfig
from fusion.training.recipes import Recipe, moefusion, moefusion_duskfuse, moefusion_tiny

EXCHANGES = ("shared", "per_level")


@dataclass(frozen=True)
class DualDetectorConfig:
    """Sizes of both detectors, which are equal.

    They see the images as fusion does: the detector's `size` and `max_size` are not used.

    Attributes:
        detector: Sizes of one.
        exchange: "shared": one set of layers that exchange features and attend, for all levels of the pyramid, as in
            the authors' files. "per_level": a set for each level.
    """

    detector: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)
    exchange: str = "shared"

    def __post_init__(self) -> None:
        if self.exchange not in EXCHANGES:
            raise UserError(f"detectors.exchange is {self.exchange!r}; it must be one of {', '.join(EXCHANGES)}")


MIN_CROP_SIZE = (
    72  # pixels; below, the coarsest level is one pixel, and its normalisation may have nothing to normalise by
)


@dataclass(frozen=True)
class JointRecipe(Recipe):
    """MoE-Fusion with its detectors.

    Attributes:
        detectors: Sizes of the detectors.
        detectors_optim: Their optimiser and its schedule.
        weights: What their backbones start from, see `detection.faster_rcnn.model.load_backbone`.
    """

    detectors: DualDetectorConfig = field(default_factory=DualDetectorConfig)
    detectors_optim: OptimConfig = field(default_factory=OptimConfig)
    weights: str = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.stage != "moefusion":
            raise UserError(f"recipe {self.name}: only moefusion trains together with detectors")
        if self.crops.box_attention:
            raise UserError(f"recipe {self.name}: crops.box_attention is for a training without detectors")
        if self.crops.classes != self.detectors.detector.classes:
            raise UserError(
                f"recipe {self.name}: crops.classes {self.crops.classes} and detectors.detector.classes "
                f"{self.detectors.detector.classes} must be the same"
            )
        other = next((name for name in self.crops.classes if standard_name(name) != name), None)
        if other is not None:
            raise UserError(f"recipe {self.name}: boxes of {other!r} are called {standard_name(other)!r}. Say that.")
        if min(self.crops.shape) < MIN_CROP_SIZE:
            raise UserError(
                f"recipe {self.name}: crops are {self.crops.shape}; detectors need at least {MIN_CROP_SIZE} pixels"
            )


def moefusion_detectors() -> JointRecipe:
    """Return MoE-Fusion (E4K2) with two Faster R-CNN (ResNet-50 FPN) as in the paper: 24 epochs, batch 4, alpha 10.

    The detectors take the optimiser of the authors' files, as `moefusion` does; those clip the gradients of both
    networks together to 35, we those of each.
    """
    return _joint(moefusion(), "moefusion-detectors", FasterRCNNConfig(), moefusion().optim)


def moefusion_detectors_duskfuse() -> JointRecipe:
    """Return the same by our own settings: crops of 480 x 480 with flips, each image once an epoch."""
    optim = OptimConfig(1e-4, weight_decay=1e-4)
    return _joint(moefusion_duskfuse(), "moefusion-detectors-duskfuse", FasterRCNNConfig(), optim)


def moefusion_detectors_tiny() -> JointRecipe:
    """Return the same with small detectors, for two CPU cores: crops of 160 pixels."""
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
    return JointRecipe(**fields, detectors=DualDetectorConfig(detector), detectors_optim=optim, weights=weights)


RECIPES: dict[str, Callable[[], JointRecipe]] = {
    "moefusion-detectors": moefusion_detectors,
    "moefusion-detectors-duskfuse": moefusion_detectors_duskfuse,
    "moefusion-detectors-tiny": moefusion_detectors_tiny,
}
