"""Training one Faster R-CNN on labelled images: batches, and the engine of `fusion` with a detector's steps.

Shapes: H height, W width, n boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

from detection.boxes import Truth
from detection.faster_rcnn.model import Detector, Target, load_backbone, read_frozen, to_target, to_tensor
from detection.faster_rcnn.recipes import DetectorRecipe
from fusion import checkpoint
from fusion.errors import UserError
from fusion.seeds import make_rng
from fusion.training.configs import worker_batch_size
from fusion.training.engine import Engine, optimizer_step
from fusion.training.losses import Terms

Reference = TypeVar("Reference")


class Example(NamedTuple):
    """A labelled image: its key, uint8 pixels H W 3 (RGB) or H W, and its boxes."""

    key: str
    image: np.ndarray
    truth: Truth


class DetectorBatch(TypedDict):
    """Images (3, H, W) in [0, 1] of any sizes, and torchvision's targets of each."""

    images: list[Tensor]
    targets: list[Target]


def batches(
    references: Sequence[Reference],
    read: Callable[[Reference], Example],
    recipe: DetectorRecipe,
    epoch: int,
    rank: int = 0,
    size: int = 1,
) -> Iterator[DetectorBatch]:
    """Yield a worker's batches of an epoch, in an order drawn for the epoch; an incomplete last one is dropped.

    Args:
        references: What `read` finds each example by.
        read: Returns an example.
        recipe: Its batch size is shared by the workers, see `fusion.training.configs.worker_batch_size`.
        epoch: From 0.
        rank: The worker's number.
        size: The number of workers.

    Raises:
        UserError: There are fewer examples than a batch has.
    """
    count = len(references)
    per_worker = worker_batch_size(recipe.batch_size, size)
    batch = per_worker * size
    if count < batch:
        raise UserError(f"{count} images to learn from are less than a batch of {batch}. Lower it.")
    order = make_rng(recipe.seed, "order", epoch).permutation(count)
    for start in range(0, count - batch + 1, batch):
        chosen = order[start + rank * per_worker : start + (rank + 1) * per_worker]
        yield collate([augment(read(references[i]), recipe, epoch) for i in chosen])


def augment(example: Example, recipe: DetectorRecipe, epoch: int) -> Example:
    """Return the example with brightness and contrast changed and perhaps mirrored left to right.

    The draws depend on seed, epoch and key alone.
    """
    key, image, truth = example
    rng = make_rng(recipe.seed, "augment", epoch, key)
    flip, jitter = rng.random() < 0.5, recipe.brightness_jitter
    gain, shift = 1 + jitter * rng.uniform(-1, 1), jitter * rng.uniform(-1, 1)
    image = np.rint(np.clip(image.astype(np.float32) * gain + 128 * shift, 0, 255)).astype(np.uint8)
    if flip and recipe.flips:
        image = image[:, ::-1]
        x1, y1, x2, y2 = truth.boxes.T
        truth = replace(truth, boxes=np.stack([truth.width - x2, y1, truth.width - x1, y2], 1))
    return Example(key, image, truth)


def collate(examples: Sequence[Example]) -> DetectorBatch:
    """Return the examples as a batch for the network."""
    return {
        "images": [to_tensor(example.image) for example in examples],
        "targets": [to_target(example.truth) for example in examples],
    }


class DetectorEngine(Engine):
    """`Engine` for a DetectorRecipe: the same epochs, learning rates and checkpoints; torchvision's losses."""

    recipe: DetectorRecipe  # type: ignore[assignment]  # it has all that Engine reads of a Recipe
    model: Detector

    def build(self) -> Detector:
        """Return the network, with what its backbone starts from."""
        model = Detector(self.recipe.model)
        model.frozen, note = load_backbone(model.net, self.recipe.model.backbone, self.recipe.weights)
        self.notes = (note,)
        return model

    def step(self, batch: DetectorBatch) -> Terms:  # type: ignore[override]  # Engine only hands batches on
        """Take one step of the optimiser. Return the loss terms, "loss" first.

        Raises:
            UserError: The loss is not finite.
        """
        # Not under autocast: boxes would be of the type of the features, and bfloat16 rounds them to up to 4 pixels.
        losses = self.network(batch["images"], batch["targets"])
        terms = {name.removeprefix("loss_"): value for name, value in losses.items()}
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise UserError(f"the detector's loss is not finite ({shown}). Lower optim.lr.")
        optimizer_step(loss, self.model, self.optimiser, self.recipe.optim)
        return {"loss": loss} | terms

    def validate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Refuse: a detector is scored by `detection.protocol`."""
        raise NotImplementedError("a detector is scored by detection.protocol")

    def start_from(self, folder: Path) -> None:
        """Take all weights of a trained detector with the same classes, and whether its backbone is frozen."""
        checkpoint.load_weights(self.model, folder)
        self.model.frozen = read_frozen(folder)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Save a checkpoint of this moment; `state` joins what its state.json has."""
        super().save(folder, state | {"frozen": self.model.frozen})

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of this run."""
        super().resume(folder)
        self.model.frozen = read_frozen(folder)

    def _move(self, batch: DetectorBatch) -> DetectorBatch:  # type: ignore[override]  # as in `step`
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        targets = [{name: move(value) for name, value in target.items()} for target in batch["targets"]]
        return {"images": [move(image) for image in batch["images"]], "targets": targets}
