"""MoE-Fusion together with its detectors: one step of each on every batch, with gradients that never meet.

The detectors learn from their own losses; the attention they give to the fusion network is detached, so fusion teaches
them nothing, and they have an optimiser of their own. A checkpoint holds both: the fusion model as always, and in the
folder `detectors` the two Faster R-CNN.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detection.faster_rcnn.model import Target, load_backbone, read_frozen, to_tensor
from detection.moefusion.attention import MODALITIES, DetectorOutputs, DualDetector
from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint
from fusion.errors import UserError
from fusion.images.colour import luma
from fusion.training.crops import Batch
from fusion.training.engine import Engine, adam, optimizer_step
from fusion.training.losses import Terms

(FOLDER,) = checkpoint.PARTS


class JointEngine(Engine):
    """`Engine` for a JointRecipe: also trains `detectors`, with `detectors_optimiser`."""

    recipe: JointRecipe

    def __post_init__(self) -> None:
        super().__post_init__()
        self.detectors = DualDetector(self.recipe.detectors)
        backbone = self.recipe.detectors.detector.backbone
        for name in MODALITIES:
            network = self.detectors.detector(name)
            self.detectors.frozen, note = load_backbone(network, backbone, self.recipe.weights)
        self.notes = (f"detectors: {note}",)
        self.detectors = self.detectors.to(self.device)
        self.detectors_optimiser = adam(self.detectors, self.recipe.detectors_optim)
        self._wrapped: nn.Module | None = None

    @property
    def stage(self) -> str:
        """The name of the stage, in which fusion gets the detectors' attention."""
        return "moefusion-joint"

    def set_learning_rate(self, progress: float) -> None:
        """Set both learning rates for `progress`, 0..1, of the run."""
        super().set_learning_rate(progress)
        self._set_rate(self.detectors_optimiser, self.recipe.detectors_optim, progress)

    def step(self, batch: Batch) -> Terms:
        """Take a step of the detectors, then one of fusion with their attention. Return the terms of both losses.

        Raises:
            UserError: A loss is not finite.
        """
        self.detectors.train()
        if self._wrapped is None:  # after freezing: DistributedDataParallel would wait for gradients of frozen weights
            self._wrapped = self.wrap(self.detectors)
        output: DetectorOutputs = self._wrapped(batch["colour"], batch["infrared"], targets(batch["boxes"]))
        loss = functools.reduce(torch.add, output.losses.values())
        if not torch.isfinite(loss):
            shown = ", ".join(f"{name} {value.item():.4g}" for name, value in output.losses.items())
            raise UserError(f"the detectors' loss is not finite ({shown}). Lower detectors_optim.lr.")
        optimizer_step(loss, self.detectors, self.detectors_optimiser, self.recipe.detectors_optim)
        latest = super().step(batch | {"attention": output.attention.detach()})
        return latest | {"detectors": loss} | {f"detectors_{name}": value for name, value in output.losses.items()}

    def add_attention(self, batch: Batch) -> Batch:
        """Return the batch with the detectors' attention."""
        self.detectors.eval()
        return batch | {"attention": self.detectors(batch["colour"], batch["infrared"]).attention}

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Save a checkpoint: the detectors first, since the fusion model's state.json makes the folder a checkpoint."""
        inner = folder / FOLDER
        (folder / "state.json").unlink(missing_ok=True)
        frozen = {"frozen": self.detectors.frozen}
        checkpoint.save(inner, FOLDER, self.detectors, recipe={}, state=frozen, optimiser=self.detectors_optimiser)
        super().save(folder, state)

    def resume(self, folder: Path) -> None:
        """Continue both networks from a checkpoint of this run."""
        super().resume(folder)
        checkpoint.load_weights(self.detectors, folder / FOLDER)
        self.detectors.frozen = read_frozen(folder / FOLDER)
        checkpoint.load_optimiser(self.detectors, self.detectors_optimiser, folder / FOLDER)


def targets(boxes_Bn5: Tensor) -> list[Target]:
    """Return torchvision's targets, whose labels count from 1, of a batch's boxes.

    Args:
        boxes_Bn5: x1, y1, x2, y2 in pixels and class; rows of class -1 are padding.
    """
    objects = [boxes_n5[boxes_n5[:, 4] >= 0] for boxes_n5 in boxes_Bn5]
    return [{"boxes": boxes[:, :4], "labels": boxes[:, 4].long() + 1} for boxes in objects]


@torch.inference_mode()
def attention_maps(detectors: DualDetector, visible: np.ndarray, infrared: np.ndarray) -> Tensor:
    """Return the attention maps of a pair, (1, 2, H, W) in [0, 1], visible first.

    Args:
        detectors: In evaluation mode.
        visible: uint8, H W 3 (RGB) or H W.
        infrared: uint8, H W.
    """
    device = next(detectors.parameters()).device
    grey = torch.from_numpy(luma(infrared))[None, None].to(device)
    output: DetectorOutputs = detectors(to_tensor(visible, device)[None], grey)
    return output.attention
