"""Recipes of Faster R-CNN: its sizes, how it is trained, and those that have a name. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fusion.errors import UserError
from fusion.training.configs import OptimConfig

BACKBONES = {"resnet10": 64, "resnet18": 64, "resnet34": 64, "resnet50": 256}  # channels of their first stage
LEVELS = 5  # of the pyramid: four stages and one more by pooling


@dataclass(frozen=True)
class FasterRCNNConfig:
    """`classes`: names, without the background. `channels`: of the pyramid. `head`: width of the box head.

    size, longest   the shorter side is scaled to `size`, or less where the longer one would pass `longest`
    jitter          in training `size` is drawn from three sizes this share apart
    anchors         side of the anchors of each level, in pixels of the scaled image
    proposals       kept per image for the box head, `sampled` of them in training
    """

    classes: tuple[str, ...] = ("person", "bicycle", "car")
    backbone: str = "resnet50"
    channels: int = 256
    head: int = 1024
    size: int = 480
    longest: int = 640
    jitter: float = 0.0
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals: int = 1000
    sampled: int = 512

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(f"detector classes are {self.classes}; give at least one, and none twice")
        if self.backbone not in BACKBONES:
            raise UserError(f"detector backbone is {self.backbone!r}; it must be one of {', '.join(BACKBONES)}")
        if len(self.anchors) != LEVELS:
            raise UserError(f"detector anchors are {self.anchors}; one for each of {LEVELS} levels is wanted")
        if min(self.channels, self.head, self.proposals, self.sampled, self.size, self.longest, *self.anchors) < 1:
            raise UserError("detector channels, head, size, longest, proposals, sampled, anchors must be at least 1")
        if not 0 <= self.jitter < 1:
            raise UserError(f"detector jitter is {self.jitter}; it must be from 0 to less than 1")


PAPER = FasterRCNNConfig()
SMALL = FasterRCNNConfig(
    backbone="resnet10",
    channels=64,
    head=256,
    size=256,
    longest=448,
    anchors=(12, 24, 48, 96, 192),
    sampled=128,
    jitter=0.2,
)
TINY = FasterRCNNConfig(
    backbone="resnet10", channels=16, head=32, size=160, anchors=(12, 24, 48, 96, 192), proposals=100, sampled=32
)


@dataclass(frozen=True)
class DetectorRecipe:
    """All that shapes a training of Faster R-CNN.

    weights   what the backbone starts from: "imagenet", "none", or a file
    light     how far brightness and contrast are drawn apart from 1, each image anew
    """

    name: str
    model: FasterRCNNConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 24
    batch_size: int = 4
    weights: str = "imagenet"
    flips: bool = True
    light: float = 0.2
    seed: int = 0
    model_name: str = "faster-rcnn"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"{self.name}: epochs and batch_size must be at least 1")
        if not 0 <= self.light < 1:
            raise UserError(f"{self.name}: light is {self.light}; it must be in 0..1")


def faster_rcnn() -> DetectorRecipe:
    """ResNet-50 FPN from ImageNet's weights, 640 x 480, 24 epochs of batch 4: the detector of MoE-Fusion's Table 3."""
    optim = OptimConfig(lr=1e-4, weight_decay=1e-4, milestones=(16, 22), max_grad_norm=10.0)
    return DetectorRecipe("faster-rcnn", PAPER, optim)


def faster_rcnn_small() -> DetectorRecipe:
    """ResNet-10, narrow pyramid and head, 256 pixels, from random weights: learns on two CPU cores."""
    return DetectorRecipe(
        "faster-rcnn-small", SMALL, OptimConfig(lr=5e-4, warmup_fraction=0.03, max_grad_norm=10.0), weights="none"
    )


RECIPES: dict[str, Callable[[], DetectorRecipe]] = {
    "faster-rcnn": faster_rcnn,
    "faster-rcnn-small": faster_rcnn_small,
}
