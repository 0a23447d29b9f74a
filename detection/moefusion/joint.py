"""MoE-Fusion together with its detectors: one step of each on every batch, with gradients that never meet.

The detectors learn from their own losses; the attention they give to the fusion network is detached, so fusion teaches
them nothing, and they have an optimiser of their own. A checkpoint holds both: the fusion model as always, and in the
folder `detectors` the two Faster R-CNN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detection.faster_rcnn.model import load_backbone, to_tensor
from detection.moefusion.attention import MODALITIES, Twin
from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint
from fusion.errors import UserError
from fusion.images.colour import luma
from fusion.training.crops import Batch
from fusion.training.engine import Engine, adam, learning_rate, optimizer_step
from fusion.training.losses import Terms

(FOLDER,) = checkpoint.PARTS


class JointEngine(Engine):
    """`Engine` for a JointRecipe: `twin` are the detectors, `twin_optimiser` is theirs."""

    recipe: JointRecipe

    def __post_init__(self) -> None:
        super().__post_init__()
        self.twin = Twin(self.recipe.detectors)
        backbone = self.recipe.detectors.detector.backbone
        for name in MODALITIES:
            self.twin.held, note = load_backbone(getattr(self.twin, name), backbone, self.recipe.weights)
        self.notes = (f"detectors: {note}",)
        self.twin = self.twin.to(self.device)
        self.twin_optimiser = adam(self.twin, self.recipe.detectors_optim)
        self._wrapped: nn.Module | None = None

    @property
    def stage(self) -> str:
        return "moefusion-joint"

    def set_learning_rate(self, progress: float) -> None:
        super().set_learning_rate(progress)
        for group in self.twin_optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe.detectors_optim, progress, self.recipe.epochs)

    def step(self, batch: Batch) -> Terms:
        """A step of the detectors, then one of fusion under the attention they gave."""
        self.twin.train()
        if self._wrapped is None:  # after what is held is held: no gradients of it are waited for
            self._wrapped = self.wrap(self.twin)
        found = self._wrapped(batch["colour"], batch["infrared"], targets(batch["boxes"]))
        loss = sum(found.losses.values())
        if not torch.isfinite(loss):
            shown = ", ".join(f"{name} {value.item():.4g}" for name, value in found.losses.items())
            raise UserError(f"the detectors' loss is not finite ({shown}). Lower detectors_optim.lr.")
        optimizer_step(loss, self.twin, self.twin_optimiser, self.recipe.detectors_optim)
        latest = super().step(batch | {"attention": found.attention.detach()})
        return latest | {"detectors": loss} | {f"detectors_{name}": value for name, value in found.losses.items()}

    def add_attention(self, batch: Batch) -> Batch:
        self.twin.eval()
        return batch | {"attention": self.twin(batch["colour"], batch["infrared"]).attention}

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """The detectors first: a folder without the fusion model's state.json is not a checkpoint."""
        inner = folder / FOLDER
        (folder / "state.json").unlink(missing_ok=True)
        held = {"held": self.twin.held}
        checkpoint.save(inner, FOLDER, self.twin, recipe={}, state=held, optimiser=self.twin_optimiser)
        super().save(folder, state)

    def resume(self, folder: Path) -> None:
        super().resume(folder)
        checkpoint.load_weights(self.twin, folder / FOLDER)
        self.twin.held = checkpoint.read_state(folder / FOLDER)["held"]
        checkpoint.load_optimiser(self.twin, self.twin_optimiser, folder / FOLDER)


def targets(boxes_Bn5: Tensor) -> list[dict[str, Tensor]]:
    """A batch's padded boxes -> torchvision's targets, whose labels count from 1."""
    kept = [boxes_n5[boxes_n5[:, 4] >= 0] for boxes_n5 in boxes_Bn5]
    return [{"boxes": boxes[:, :4], "labels": boxes[:, 4].long() + 1} for boxes in kept]


@torch.inference_mode()
def attend(twin: Twin, visible: np.ndarray, infrared: np.ndarray) -> Tensor:
    """Attention maps (1, 2, H, W), visible first, of a pair: uint8 H W 3 (or H W) and uint8 H W."""
    device = next(twin.parameters()).device
    grey = torch.from_numpy(luma(infrared))[None, None].to(device)
    return twin(to_tensor(visible, device)[None], grey).attention
