"""Faster R-CNN (Ren et al., 2015) with a feature pyramid, from torchvision: the detector of MoE-Fusion's tables.

torchvision has the network. This module builds it from a config, loads weights into its backbone, and converts images
and boxes.

Shapes: B batch, H height, W width, n boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops.poolers import LevelMapper, MultiScaleRoIAlign

from detection.boxes import Detections, Truth
from detection.faster_rcnn.recipes import BACKBONES, LEVELS, FasterRCNNConfig
from fusion import checkpoint
from fusion.errors import UserError
from fusion.images.colour import to_rgb
from fusion.models.registry import Model

Target = dict[str, Tensor]  # torchvision's: "boxes" (n, 4) and "labels" (n,), which count from 1
BATCH_SIZE = 4  # images that `detect` runs together


class Detector(nn.Module):
    """torchvision's FasterRCNN by a config.

    Attributes:
        config: Its sizes.
        net: The network.
        frozen: Training leaves the statistics of the backbone's normalisation and the weights of its first layers as
            they are, which is right with pre-trained weights only.
    """

    def __init__(self, config: FasterRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build(config)
        self.frozen = False

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Return torchvision's losses by name in training, else its boxes, labels and scores of each image.

        Args:
            images: RGB (3, H, W) float in [0, 1], of any sizes.
            targets: Boxes (n, 4) and labels (n,) from 1 of each image; wanted in training.
        """
        return self.net(images, targets)

    def train(self, mode: bool = True) -> Detector:
        """Set training mode, or evaluation mode; what is frozen stays frozen."""
        super().train(mode)
        if self.frozen:
            freeze_backbone(self.net.backbone.body)
        return self


def build(config: FasterRCNNConfig) -> FasterRCNN:
    """Return the network of these sizes, with random weights."""
    body = (
        ResNet(BasicBlock, [1, 1, 1, 1]) if config.backbone == "resnet10" else get_model(config.backbone, weights=None)
    )
    first = BACKBONES[config.backbone]
    backbone = BackboneWithFPN(
        body,
        return_layers={f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)},
        in_channels_list=[first * 2**stage for stage in range(4)],
        out_channels=config.channels,
    )
    anchors = AnchorGenerator(tuple((side,) for side in config.anchors), ((0.5, 1.0, 2.0),) * LEVELS)
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    # It would guess its scales, once, from the first batch: wrongly from images of less than 46 pixels.
    pool.scales, pool.map_levels = [2.0**-stage for stage in (2, 3, 4, 5)], LevelMapper(2, 5)
    steps = (-1, 0, 1) if config.scale_jitter else ()
    jittered = [round(config.size * (1 + step * config.scale_jitter)) for step in steps]
    sizes = (*jittered, config.size)  # evaluation takes the last one
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        box_roi_pool=pool,
        box_head=TwoMLPHead(config.channels * pool.output_size[0] ** 2, config.box_head_dim),
        box_predictor=FastRCNNPredictor(config.box_head_dim, len(config.classes) + 1),
        min_size=sizes,
        max_size=config.max_size,
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_train=2 * config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        rpn_batch_size_per_image=min(256, 2 * config.rois_per_image),
        box_batch_size_per_image=config.rois_per_image,
        box_score_thresh=0.001,  # AP needs the weak ones too
    )


def freeze_backbone(body: nn.Module) -> None:
    """Put normalisation into evaluation mode, and stop gradients of it and of the stem and the first stage."""
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    for name, child in body.named_children():
        if name in ("conv1", "layer1"):
            child.requires_grad_(False)


def read_frozen(folder: Path) -> bool:
    """Return whether the backbone of a checkpoint is frozen, which earlier versions called "held"."""
    state = checkpoint.read_state(folder)
    return bool(state.get("frozen", state.get("held", False)))


class BackboneWeights(NamedTuple):
    """What a backbone starts from.

    Attributes:
        pretrained: The weights are not random.
        note: Where they come from, in one line for the user.
    """

    pretrained: bool
    note: str


def load_backbone(net: FasterRCNN, backbone: str, weights: str) -> BackboneWeights:
    """Load weights into the backbone, and say which.

    ImageNet's weights that cannot be downloaded leave random ones, and the note says so.

    Args:
        net: The network whose backbone gets them.
        backbone: Its name, as in `FasterRCNNConfig`.
        weights: "none"; "imagenet", torchvision's own, from its cache or the network; or a file of them (.pth or
            .safetensors).

    Raises:
        UserError: The file is missing or does not fit.
    """
    if weights == "none":
        return BackboneWeights(False, "backbone from random weights")
    if weights == "imagenet":
        if backbone == "resnet10":
            return BackboneWeights(False, "backbone from random weights: there are none of ImageNet's for resnet10")
        # The first ones: the later ones, of a longer training, are not what published detectors start from.
        weights_of = get_model_weights(backbone)["IMAGENET1K_V1"]
        try:
            state = weights_of.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # no network, another checksum, a damaged cache: torchvision documents no type
            return BackboneWeights(
                False,
                f"backbone from random weights: ImageNet's could not be had ({type(error).__name__}); it will need "
                "more epochs. Give a file of torchvision's weights, or run where they can be downloaded",
            )
    else:
        state = _read_weights(Path(weights))
    # Weights from before torch 0.4.1, ImageNet's among them, lack the counters of the normalisation; nothing uses them.
    body = net.backbone.body.state_dict()
    wanted = {key: value for key, value in body.items() if not key.endswith(".num_batches_tracked")}
    unfit = [key for key, value in wanted.items() if getattr(state.get(key), "shape", None) != value.shape]
    if unfit:
        raise UserError(f"{weights}: not weights of a {backbone}: {unfit[0]} is missing or of another shape.")
    net.backbone.body.load_state_dict(body | {key: state[key] for key in wanted})
    return BackboneWeights(True, f"backbone from {weights} weights")


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file by name. UserError: there are none."""
    if path.suffix == ".safetensors":
        return checkpoint.read_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises exceptions of any type
        raise UserError(f"{path}: no weights can be read from it ({type(error).__name__}).") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: it holds a {type(state).__name__}, not weights by name.")
    return state


def to_tensor(image: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return a uint8 image, H W 3 (RGB) or H W, as float (3, H, W) in [0, 1]; grey is repeated."""
    image = to_rgb(image)
    copy = np.array(image, order="C")  # torch takes neither flipped nor read-only images
    return torch.from_numpy(copy).to(device).permute(2, 0, 1).float() / 255


def to_target(truth: Truth, device: torch.device | str = "cpu") -> Target:
    """Return the boxes (n, 4) that are not to be ignored, and their labels (n,), which count from 1 in torchvision."""
    keep = ~truth.ignore
    boxes, labels = torch.from_numpy(truth.boxes[keep]), torch.from_numpy(truth.classes[keep]) + 1
    return {"boxes": boxes.to(device), "labels": labels.to(device)}


@torch.inference_mode()
def detect(model: Detector, images: Sequence[np.ndarray], indices: Sequence[int] | None = None) -> list[Detections]:
    """Return what the detector finds in each image, at most 100 boxes.

    Args:
        model: The detector, in evaluation mode.
        images: uint8, H W 3 (RGB) or H W, of any sizes.
        indices: The index that each of its classes has in another class list; -1 for classes that are not in it.
    """
    device = next(model.parameters()).device
    class_index = np.arange(len(model.config.classes)) if indices is None else np.asarray(indices)
    detections: list[Detections] = []
    for start in range(0, len(images), BATCH_SIZE):
        for output in model([to_tensor(image, device) for image in images[start : start + BATCH_SIZE]]):
            boxes, scores, labels = (output[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
            classes = class_index[labels - 1]
            keep = classes >= 0
            detections.append(Detections(boxes[keep], scores[keep], classes[keep]))
    return detections


DETECTORS: dict[str, Model] = {
    "faster-rcnn": Model("Faster R-CNN", FasterRCNNConfig, Detector, "Ren et al., NeurIPS 2015; torchvision"),
}
