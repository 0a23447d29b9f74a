"""Training one Faster R-CNN on labelled images: recipes, batches, and the engine of `fusion` with its steps.

Shapes: H height, W width, n boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detection.boxes import Truth
from detection.faster_rcnn.model import Detector, load_backbone, to_target, to_tensor
from detection.faster_rcnn.recipes import DetectorRecipe
from fusion import checkpoint
from fusion.errors import UserError
from fusion.seeds import make_rng
from fusion.training.engine import Engine, optimizer_step
from fusion.training.losses import Terms

Example = tuple[str, np.ndarray, Truth]  # a key, a uint8 image H W 3 or H W, what is in it
Batch = dict[str, list]  # "images": tensors, "targets": torchvision's


def batches(
    examples: Sequence[str],
    read: Callable[[str], Example],
    recipe: DetectorRecipe,
    epoch: int,
    rank: int = 0,
    size: int = 1,
) -> Iterator[Batch]:
    """A worker's batches of an epoch; what is left over at the end is dropped. `read` gives an example by its name.

    UserError: fewer examples than a batch has.
    """
    if len(examples) < recipe.batch_size:
        raise UserError(f"{len(examples)} images to learn from are less than a batch of {recipe.batch_size}. Lower it.")
    order = make_rng(recipe.seed, "order", epoch).permutation(len(examples))
    each = recipe.batch_size // size
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        mine = order[start + rank * each : start + (rank + 1) * each]
        yield collate([augment(read(examples[i]), recipe, epoch) for i in mine])


def augment(example: Example, recipe: DetectorRecipe, epoch: int) -> Example:
    """Flipped left to right or not, a little brighter or darker, with more or less contrast; named draws."""
    key, image, truth = example
    rng = make_rng(recipe.seed, "augment", epoch, key)
    flip, gain, shift = rng.random() < 0.5, 1 + recipe.light * rng.uniform(-1, 1), recipe.light * rng.uniform(-1, 1)
    light = np.clip(image.astype(np.float32) * gain + 128 * shift, 0, 255)
    image = np.rint(light).astype(np.uint8)
    if flip and recipe.flips:
        image = image[:, ::-1]
        x1, y1, x2, y2 = truth.boxes.T
        truth = replace(truth, boxes=np.stack([truth.width - x2, y1, truth.width - x1, y2], 1))
    return key, image, truth


def collate(examples: Sequence[Example]) -> Batch:
    return {
        "images": [to_tensor(image) for _, image, _ in examples],
        "targets": [to_target(truth) for _, _, truth in examples],
    }


class DetectorEngine(Engine):
    """`Engine` for a DetectorRecipe: the same epochs, rates, checkpoints; the network's own losses."""

    recipe: DetectorRecipe

    def build(self) -> nn.Module:
        model = Detector(self.recipe.model)
        model.held, note = load_backbone(model.net, self.recipe.model.backbone, self.recipe.weights)
        self.notes = (note,)
        return model

    def step(self, batch: Batch) -> Terms:
        # Not under autocast: boxes would be of the type of the features, and bfloat16 rounds them to up to 4 pixels.
        losses = self.network(batch["images"], batch["targets"])
        terms = {name.removeprefix("loss_"): value for name, value in losses.items()}
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise UserError(f"the detector's loss is not finite ({shown}). Lower optim.lr.")
        optimizer_step(loss, self.model, self.optimiser, self.recipe.optim)
        return {"loss": loss} | terms

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        raise NotImplementedError("a detector is scored by detection.protocol")

    def start_from(self, folder: Path) -> None:
        """All weights of a trained detector with the same classes, held as they were held there."""
        checkpoint.load_weights(self.model, folder)
        self.model.held = checkpoint.read_state(folder).get("held", False)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        super().save(folder, state | {"held": self.model.held})

    def resume(self, folder: Path) -> None:
        super().resume(folder)
        self.model.held = checkpoint.read_state(folder)["held"]

    def _move(self, batch: Batch) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        targets = [{name: move(value) for name, value in target.items()} for target in batch["targets"]]
        return {"images": [move(image) for image in batch["images"]], "targets": targets}
