"""The auxiliary detectors of MoE-Fusion (Cao et al., ICCV 2023): two Faster R-CNN that exchange features and attend.

On every level of the two pyramids, with f_V and f_I the features of the visible and the infrared detector:

    m = ReLU(conv1x1([f_V, f_I]))                 f = f + m                      cross-modal features
    Att = sigmoid(BN(conv1x1(ReLU(BN(conv1x1(f))))))    f = f + f * Att          attention, for each modality

The maps of the finest level, stride 4, tell the fusion network what is foreground.

Shapes: B batch, H height, W width, C channels of the pyramid, h x w size of a level.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from detection.faster_rcnn.model import build, hold
from detection.faster_rcnn.recipes import LEVELS
from detection.moefusion.recipes import TwinConfig
from fusion.models.registry import Model

MODALITIES = ("visible", "infrared")


class Attention(nn.Module):
    """Of one modality on one level: features (B, C, h, w) -> a map (B, 1, h, w) in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid()),
        )

    def forward(self, features_BChw: Tensor) -> Tensor:
        return self.layers(features_BChw)


class Exchange(nn.Module):
    """One level: cross-modal features, then attention, of both modalities."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2 * channels, channels, 1)
        self.visible, self.infrared = Attention(channels), Attention(channels)

    def forward(self, visible_BChw: Tensor, infrared_BChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both features, and both maps (B, 2, h, w), visible first."""
        common = F.relu(self.shared(torch.cat([visible_BChw, infrared_BChw], 1)))
        visible_BChw, infrared_BChw = visible_BChw + common, infrared_BChw + common
        maps = [self.visible(visible_BChw), self.infrared(infrared_BChw)]
        return visible_BChw * (1 + maps[0]), infrared_BChw * (1 + maps[1]), torch.cat(maps, 1)


class Found(NamedTuple):
    """attention: (B, 2, H, W), visible first. losses: by modality and name, in training only.

    boxes: torchvision's, by modality, an entry an image; in evaluation only, where they were asked for.
    """

    attention: Tensor
    losses: dict[str, Tensor]
    boxes: dict[str, list[dict[str, Tensor]]]


class Twin(nn.Module):
    """`forward(visible, infrared, targets)` runs both detectors on a batch of pairs of one size."""

    def __init__(self, config: TwinConfig) -> None:
        super().__init__()
        self.config = config
        self.held = False  # see `faster_rcnn.Detector`
        self.visible, self.infrared = build(config.detector), build(config.detector)
        self.exchange = nn.ModuleList(Exchange(config.detector.channels) for _ in range(LEVELS))

    def forward(
        self,
        visible_B3HW: Tensor,
        infrared_B1HW: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        boxes: bool = False,
    ) -> Found:
        """Images in [0, 1]. `targets`, wanted in training: boxes (n, 4) and labels (n,) from 1, of each image."""
        batches = {}
        for name, images in zip(MODALITIES, (visible_B3HW, infrared_B1HW.expand(-1, 3, -1, -1)), strict=True):
            batches[name] = prepare(getattr(self, name), images)
        features = {name: getattr(self, name).backbone(batches[name].tensors) for name in MODALITIES}
        finest = None
        for level, exchange in zip(list(features["visible"]), self.exchange, strict=True):
            pair = (features[name][level] for name in MODALITIES)
            features["visible"][level], features["infrared"][level], maps = exchange(*pair)
            finest = maps if finest is None else finest
        attention = F.interpolate(
            finest.float(), batches["visible"].tensors.shape[-2:], mode="bilinear", align_corners=False
        )
        height, width = visible_B3HW.shape[-2:]
        attention = attention[..., :height, :width]  # less the padding
        losses: dict[str, Tensor] = {}
        found: dict[str, list[dict[str, Tensor]]] = {}
        if self.training or boxes:
            for name in MODALITIES:
                kept, terms = heads(getattr(self, name), batches[name], features[name], targets)
                losses |= {f"{name}_{term.removeprefix('loss_')}": value for term, value in terms.items()}
                found[name] = kept
        return Found(attention, losses, found)

    def train(self, mode: bool = True) -> Twin:
        super().train(mode)
        if self.held:
            for name in MODALITIES:
                hold(getattr(self, name).backbone.body)
        return self


def prepare(net: FasterRCNN, images_B3HW: Tensor) -> ImageList:
    """Normalised, and padded to whole strides; torchvision's own way would scale them first."""
    height, width = images_B3HW.shape[-2:]
    stride = net.transform.size_divisible
    mean, std = (
        images_B3HW.new_tensor(values)[:, None, None] for values in (net.transform.image_mean, net.transform.image_std)
    )
    padded = F.pad((images_B3HW - mean) / std, (0, -width % stride, 0, -height % stride))
    return ImageList(padded, [(height, width)] * len(images_B3HW))


def heads(
    net: FasterRCNN, images: ImageList, features: OrderedDict[str, Tensor], targets: list[dict[str, Tensor]] | None
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Proposals and boxes from features: torchvision's own second half."""
    proposals, first = net.rpn(images, features, targets)
    boxes, second = net.roi_heads(features, proposals, images.image_sizes, targets)
    return boxes, first | second


TWINS: dict[str, Model] = {
    "detectors": Model("Auxiliary detectors", TwinConfig, Twin, "Cao et al., ICCV 2023, section 3.2"),
}
