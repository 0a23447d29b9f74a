"""Recipes of Faster R-CNN: sizes, settings of a training, and the named ones. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fusion.errors import UserError
from fusion.training.configs import OptimConfig

BACKBONES = {"resnet10": 64, "resnet18": 64, "resnet34": 64, "resnet50": 256}  # channels of their first stage
LEVELS = 5  # of the pyramid: four stages and one more by pooling


@dataclass(frozen=True)
class FasterRCNNConfig:
    """Sizes of a Faster R-CNN.

    Attributes:
        classes: Names, without the background.
        backbone: One of `BACKBONES`.
        channels: Channels of the feature pyramid.
        box_head_dim: Width of the two hidden layers of the box head.
        size: The shorter side of images is scaled to this many pixels, or to fewer where the longer side would exceed
            `max_size`.
        max_size: Limit of the longer side, in pixels.
        scale_jitter: In training `size` is drawn from three sizes that differ by this fraction.
        anchors: Side of the anchors of each level, in pixels of the scaled image.
        proposals: Proposals kept per image for the box head.
        rois_per_image: Number of them that the box head learns from, in training.
    """

    classes: tuple[str, ...] = ("person", "bicycle", "car")
    backbone: str = "resnet50"
    channels: int = 256
    box_head_dim: int = 1024
    size: int = 480
    max_size: int = 640
    scale_jitter: float = 0.0
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals: int = 1000
    rois_per_image: int = 512

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(f"detector classes are {self.classes}; give at least one, and none twice")
        if self.backbone not in BACKBONES:
            raise UserError(f"detector backbone is {self.backbone!r}; it must be one of {', '.join(BACKBONES)}")
        if len(self.anchors) != LEVELS:
            raise UserError(f"detector anchors are {self.anchors}; one for each of {LEVELS} levels is wanted")
        names = ("channels", "box_head_dim", "size", "max_size", "proposals", "rois_per_image")
        if min(*(getattr(self, name) for name in names), *self.anchors) < 1:
            raise UserError(f"detector {', '.join(names)}, anchors must be at least 1")
        if not 0 <= self.scale_jitter < 1:
            raise UserError(f"detector scale_jitter is {self.scale_jitter}; it must be from 0 to less than 1")


PAPER = FasterRCNNConfig()
SMALL = FasterRCNNConfig(
    backbone="resnet10",
    channels=64,
    box_head_dim=256,
    size=256,
    max_size=448,
    anchors=(12, 24, 48, 96, 192),
    rois_per_image=128,
    scale_jitter=0.2,
)
TINY = FasterRCNNConfig(
    backbone="resnet10",
    channels=16,
    box_head_dim=32,
    size=160,
    anchors=(12, 24, 48, 96, 192),
    proposals=100,
    rois_per_image=32,
)


@dataclass(frozen=True)
class DetectorRecipe:
    """All settings of a training of Faster R-CNN.

    Attributes:
        name: Of the recipe.
        model: Sizes of the network.
        optim: The optimiser and its schedule.
        epochs: Passes over the training images.
        batch_size: Images per step, of all workers together.
        weights: What the backbone starts from: "imagenet", "none", or a file.
        flips: Mirror half of the images, left to right.
        brightness_jitter: Contrast is multiplied by a number drawn from 1 -/+ this, and brightness shifted by up to
            128 times this, for each image anew.
        seed: Of all draws.
        model_name: The network's name in checkpoints.
    """

    name: str
    model: FasterRCNNConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 24
    batch_size: int = 4
    weights: str = "imagenet"
    flips: bool = True
    brightness_jitter: float = 0.2
    seed: int = 0
    model_name: str = "faster-rcnn"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"{self.name}: epochs and batch_size must be at least 1")
        if not 0 <= self.brightness_jitter < 1:
            raise UserError(f"{self.name}: brightness_jitter is {self.brightness_jitter}; it must be in 0..1")


def faster_rcnn() -> DetectorRecipe:
    """Return the detector of MoE-Fusion's Table 3.

    ResNet-50 FPN from ImageNet's weights, 640 x 480, 24 epochs of batch 4.
    """
    optim = OptimConfig(lr=1e-4, weight_decay=1e-4, milestones=(16, 22), max_grad_norm=10.0)
    return DetectorRecipe("faster-rcnn", PAPER, optim)


def faster_rcnn_small() -> DetectorRecipe:
    """Return one that learns on two CPU cores: ResNet-10, narrow pyramid and head, 256 pixels, random weights."""
    return DetectorRecipe(
        "faster-rcnn-small", SMALL, OptimConfig(lr=5e-4, warmup_fraction=0.03, max_grad_norm=10.0), weights="none"
    )


RECIPES: dict[str, Callable[[], DetectorRecipe]] = {
    "faster-rcnn": faster_rcnn,
    "faster-rcnn-small": faster_rcnn_small,
}
