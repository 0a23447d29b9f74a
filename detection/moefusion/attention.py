"""The auxiliary detectors of MoE-Fusion (Cao et al., ICCV 2023): two Faster R-CNN that exchange features and attend.

On every level of the two pyramids, with f_V and f_I the features of the visible and the infrared detector:

    m = ReLU(conv1x1([f_V, f_I]))                 f = f + m                      cross-modal features
    Att = sigmoid(BN(conv1x1(ReLU(BN(conv1x1(f))))))    f = f + f * Att          attention, for each modality

The maps of the finest level, stride 4, tell the fusion network what is foreground. No loss fixes whether objects are
high or low in them.

As in the authors' files all levels share one set of these layers, whose batch norms also share their statistics (in
training each level is normalised by its own, in evaluation by the running ones of all). The option "per_level" gives
each level a set of its own.

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

from detection.faster_rcnn.model import Target, build, freeze_backbone
from detection.faster_rcnn.recipes import LEVELS
from detection.moefusion.recipes import DualDetectorConfig
from fusion.models.registry import Model

MODALITIES = ("visible", "infrared")


INITIAL_STD = 0.01  # of the weights of a shared set, as in the authors' files


class Attention(nn.Module):
    """The attention of one modality. Without `bias`, which the normalisation would take out again, as in the files."""

    def __init__(self, channels: int, bias: bool = False) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=bias), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, 1, 1, bias=bias), nn.BatchNorm2d(1), nn.Sigmoid()),
        )

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the attention map (B, 1, h, w) in [0, 1] of the features."""
        attention: Tensor = self.layers(features_BChw)
        return attention


class Exchange(nn.Module):
    """Cross-modal features and attention of both modalities.

    Args:
        channels: Of the pyramid.
        as_published: The attention's convolutions have no bias, and all weights start from a normal distribution of
            `INITIAL_STD`. Otherwise biases, and PyTorch's initial weights.
    """

    def __init__(self, channels: int, as_published: bool = True) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2 * channels, channels, 1)
        self.visible, self.infrared = (Attention(channels, bias=not as_published) for _ in MODALITIES)
        if as_published:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=INITIAL_STD)
            assert self.shared.bias is not None
            nn.init.zeros_(self.shared.bias)

    def forward(self, visible_BChw: Tensor, infrared_BChw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a level's features of visible and infrared, and both attention maps (B, 2, h, w), visible first."""
        common = F.relu(self.shared(torch.cat([visible_BChw, infrared_BChw], 1)))
        visible_BChw, infrared_BChw = visible_BChw + common, infrared_BChw + common
        maps = [self.visible(visible_BChw), self.infrared(infrared_BChw)]
        return visible_BChw * (1 + maps[0]), infrared_BChw * (1 + maps[1]), torch.cat(maps, 1)


class DetectorOutputs(NamedTuple):
    """What both detectors return.

    Attributes:
        attention: Maps (B, 2, H, W) in [0, 1], visible first.
        losses: By modality and name; in training only.
        boxes: torchvision's boxes, labels and scores by modality, one entry per image; in evaluation, where asked for.
    """

    attention: Tensor
    losses: dict[str, Tensor]
    boxes: dict[str, list[dict[str, Tensor]]]


class DualDetector(nn.Module):
    """Two Faster R-CNN, visible and infrared, that exchange features on every level.

    Attributes:
        config: Their sizes.
        exchange: The one `Exchange` of all levels, or one for each, from the finest.
        frozen: As in `detection.faster_rcnn.model.Detector`, of both.
    """

    def __init__(self, config: DualDetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen = False
        self.visible, self.infrared = build(config.detector), build(config.detector)
        shared = config.exchange == "shared"
        sets = (Exchange(config.detector.channels, as_published=shared) for _ in range(1 if shared else LEVELS))
        self.exchange = nn.ModuleList(sets)

    def forward(
        self,
        visible_B3HW: Tensor,
        infrared_B1HW: Tensor,
        targets: list[Target] | None = None,
        boxes: bool = False,
    ) -> DetectorOutputs:
        """Run both detectors on a batch of pairs of one size.

        Args:
            visible_B3HW: RGB in [0, 1].
            infrared_B1HW: Grey in [0, 1].
            targets: Boxes (n, 4) and labels (n,) from 1 of each image; wanted in training.
            boxes: Return boxes, too.
        """
        batches = {
            "visible": prepare(self.visible, visible_B3HW),
            "infrared": prepare(self.infrared, infrared_B1HW.expand(-1, 3, -1, -1)),
        }
        features = {name: self.detector(name).backbone(batches[name].tensors) for name in MODALITIES}
        levels = list(features["visible"])
        maps = []
        exchanges = list(self.exchange) * (LEVELS // len(self.exchange))
        for level, exchange in zip(levels, exchanges, strict=True):
            visible_BChw, infrared_BChw, maps_B2hw = exchange(features["visible"][level], features["infrared"][level])
            features["visible"][level], features["infrared"][level] = visible_BChw, infrared_BChw
            maps.append(maps_B2hw)
        padded = batches["visible"].tensors.shape[-2:]
        attention = F.interpolate(maps[0].float(), padded, mode="bilinear", align_corners=False)
        height, width = visible_B3HW.shape[-2:]
        attention = attention[..., :height, :width]  # without the padding
        losses: dict[str, Tensor] = {}
        detections: dict[str, list[dict[str, Tensor]]] = {}
        if self.training or boxes:
            for name in MODALITIES:
                detector = self.detector(name)
                detections[name], terms = rpn_and_roi(detector, batches[name], features[name], targets)
                losses |= {f"{name}_{term.removeprefix('loss_')}": value for term, value in terms.items()}
        return DetectorOutputs(attention, losses, detections)

    def detector(self, modality: str) -> FasterRCNN:
        """Return the detector of one of `MODALITIES`."""
        return {"visible": self.visible, "infrared": self.infrared}[modality]

    def train(self, mode: bool = True) -> DualDetector:
        """Set training mode, or evaluation mode; what is frozen stays frozen."""
        super().train(mode)
        if self.frozen:
            for name in MODALITIES:
                freeze_backbone(self.detector(name).backbone.body)
        return self


def prepare(net: FasterRCNN, images_B3HW: Tensor) -> ImageList:
    """Return images in [0, 1], normalised and padded to whole strides; torchvision's own method would scale them."""
    height, width = images_B3HW.shape[-2:]
    stride = net.transform.size_divisible
    mean, std = (
        images_B3HW.new_tensor(values)[:, None, None] for values in (net.transform.image_mean, net.transform.image_std)
    )
    padded = F.pad((images_B3HW - mean) / std, (0, -width % stride, 0, -height % stride))
    return ImageList(padded, [(height, width)] * len(images_B3HW))


def rpn_and_roi(
    net: FasterRCNN, images: ImageList, features: OrderedDict[str, Tensor], targets: list[Target] | None
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Run torchvision's second half on features by level. Return its boxes of each image, and its losses by name."""
    proposals, rpn_losses = net.rpn(images, features, targets)
    boxes, roi_losses = net.roi_heads(features, proposals, images.image_sizes, targets)
    return boxes, rpn_losses | roi_losses


DUAL_DETECTORS: dict[str, Model] = {
    "detectors": Model("Auxiliary detectors", DualDetectorConfig, DualDetector, "Cao et al., ICCV 2023, section 3.2"),
}
