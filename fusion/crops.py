"""From corpus rows to training batches: several crops from an image while it is in memory, then shuffled.

Every draw is named by (seed, epoch, key, degradation), so a sample's crops do not depend on the worker that makes them.

Shapes: B batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fusion.class_names import standard_name
from fusion.colour import luma
from fusion.corpus import Sample
from fusion.errors import UserError
from fusion.losses import box_mask
from fusion.seeds import generator

# Luma in [0, 1], (B, 1, H, W), but "colour": RGB (B, 3, H, W). "mask": 1 inside boxes. "boxes": (B, most, 5), x1 y1
# x2 y2 in pixels and a place in `CropConfig.classes`, or -1 in rows that are no box.
Batch = dict[str, Tensor]
PART_OF_BOX = 0.3  # of its area must lie in a crop
MIN_BOX = 2.0  # pixels


@dataclass(frozen=True)
class CropConfig:
    """`identity_share`: how often stage 1 sees the modality that is not degraded, to learn to leave it alone.

    `shuffle`: crops held back to mix images and degradations within a batch. `classes`: which boxes detectors learn.
    """

    size: int = 128
    per_image: int = 4
    flips: bool = True
    identity_share: float = 0.2
    shuffle: int = 512
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 8:
            raise UserError(f"crops.size is {self.size}; it must be a positive multiple of 8")
        if self.per_image < 1 or self.shuffle < 1:
            raise UserError("crops.per_image and crops.shuffle must be at least 1")
        if not 0 <= self.identity_share <= 1:
            raise UserError(f"crops.identity_share is {self.identity_share}; it must be in 0..1")


def inputs(stage: str, sample: Sample, rng: np.random.Generator | None, identity_share: float = 0.0) -> dict[str, str]:
    """Which images a stage takes from a sample, by role; without `rng` (validation) the degraded modality."""
    if stage == "fuse":
        return {name: name for name in ("visible", "infrared", "degraded_visible", "degraded_infrared")}
    if stage == "aenet":  # labels come from an evolution
        return {name: name for name in ("visible", "infrared", "label") if hasattr(sample, name)}
    if stage == "moefusion":
        return {"visible": "visible", "infrared": "infrared", "mask": "boxes"}
    if stage == "moefusion-joint":
        return inputs("moefusion", sample, rng) | {"colour": "colour", "boxes": "boxes_n5"}
    degraded = sample.degraded_modalities or ("visible", "infrared")
    others = tuple(name for name in ("visible", "infrared") if name not in degraded)
    pool = others if rng is not None and others and rng.random() < identity_share else degraded
    name = pool[0] if rng is None else pool[rng.integers(len(pool))]
    return {"clean": name, "degraded": f"degraded_{name}"}


def crops(sample: Sample, stage: str, config: CropConfig, seed: int, epoch: int) -> list[dict[str, np.ndarray]]:
    """`per_image` aligned crops of the images the stage takes, flipped together: float32 luma, size x size.

    Images smaller than a crop are padded by reflection (by their edge where they are very small).
    """
    rng = generator(seed, "crops", epoch, sample.key, sample.degradation, sample.level)
    height, width = sample.infrared.shape
    size = config.size
    planes = _planes(sample, config.classes)
    made = []
    for _ in range(config.per_image):
        roles = inputs(stage, sample, rng, config.identity_share)
        top = int(rng.integers(max(height - size, 0) + 1))
        left = int(rng.integers(max(width - size, 0) + 1))
        down, across = (rng.random(2) < 0.5) & config.flips
        crop = {}
        for role, name in roles.items():
            if role == "boxes":
                crop[role] = crop_boxes(planes(name), top, left, size, down, across)
                continue
            piece = _grow(_floats(planes(name)[top : top + size, left : left + size], role), size)
            crop[role] = np.ascontiguousarray(piece[..., :: -1 if down else 1, :: -1 if across else 1])
        made.append(crop)
    return made


def crop_boxes(boxes_n5: np.ndarray, top: int, left: int, size: int, down: bool, across: bool) -> np.ndarray:
    """Boxes (x1, y1, x2, y2, class) as they lie in a square crop that was flipped; slivers are dropped."""
    moved_n4 = boxes_n5[:, :4] - np.array([left, top, left, top], np.float32)
    inside_n4 = moved_n4.clip(0, size)
    sides_n2 = inside_n4[:, 2:] - inside_n4[:, :2]
    whole_n = (boxes_n5[:, 2:4] - boxes_n5[:, :2]).prod(1)
    keep_n = (sides_n2 >= MIN_BOX).all(1) & (sides_n2.prod(1) >= PART_OF_BOX * whole_n)
    x1, y1, x2, y2 = inside_n4[keep_n].T
    if across:
        x1, x2 = size - x2, size - x1
    if down:
        y1, y2 = size - y2, size - y1
    return np.stack([x1, y1, x2, y2, boxes_n5[keep_n, 4]], 1)


def _planes(sample: Sample, classes: tuple[str, ...] = ()) -> Callable[[str], np.ndarray]:
    """Images of a sample by name, uint8. "boxes": a picture, white inside, drawn once. "boxes_n5": as numbers."""

    @cache
    def plane(name: str) -> np.ndarray:
        if name == "boxes_n5":
            places = {name: place for place, name in enumerate(classes)}
            found = np.array([places.get(standard_name(name), -1) for name in sample.classes], np.float32)
            return np.concatenate([sample.boxes, found[:, None]], 1)[found >= 0]
        if name != "boxes":
            return getattr(sample, "visible" if name == "colour" else name)
        mask = box_mask([torch.from_numpy(sample.boxes)], sample.infrared.shape)
        return (mask[0, 0] * 255).to(torch.uint8).numpy()

    return plane


def _floats(image: np.ndarray, role: str) -> np.ndarray:
    """In [0, 1]: colour as (3, H, W), all else as luma (H, W)."""
    return (image.transpose(2, 0, 1) / np.float32(255)) if role == "colour" else luma(image)


def _grow(piece: np.ndarray, size: int) -> np.ndarray:
    height, width = piece.shape[-2:]
    down, right = size - height, size - width
    if not (down or right):
        return piece
    mode = "reflect" if down < height and right < width else "edge"
    return np.pad(piece, (*[(0, 0)] * (piece.ndim - 2), (0, down), (0, right)), mode=mode)


def training_batches(
    samples: Iterable[Sample], stage: str, config: CropConfig, batch_size: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """Full batches of shuffled crops; what is left over at the end is dropped."""
    rng = generator(seed, "shuffle", epoch)
    held: list[dict[str, np.ndarray]] = []
    ready: list[dict[str, np.ndarray]] = []
    for sample in samples:
        for crop in crops(sample, stage, config, seed, epoch):
            held.append(crop)
            if len(held) > config.shuffle:
                ready.append(_take(held, rng))
            if len(ready) == batch_size:
                yield _stack(ready)
                ready = []
    while held:
        ready.append(_take(held, rng))
        if len(ready) == batch_size:
            yield _stack(ready)
            ready = []


def validation_batches(samples: Iterable[Sample], stage: str, size: int) -> Iterator[Batch]:
    """One centre crop a sample, at most `size` on a side and a multiple of 8 where the image allows it."""
    for sample in samples:
        height, width = sample.infrared.shape
        high, wide = (min(n, size) // 8 * 8 or min(n, size) for n in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        window = (slice(top, top + high), slice(left, left + wide))
        roles = inputs(stage, sample, None)
        planes = _planes(sample)
        yield _stack([{role: _floats(planes(name)[window], role) for role, name in roles.items() if role != "boxes"}])


def _take(held: list, rng: np.random.Generator):
    """A random one, in constant time: the last one takes its place."""
    i = int(rng.integers(len(held)))
    held[i], held[-1] = held[-1], held[i]
    return held.pop()


def _stack(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {role: torch.from_numpy(_together([row[role] for row in rows], role)) for role in rows[0]}


def _together(arrays: list[np.ndarray], role: str) -> np.ndarray:
    if role == "boxes":
        padded = np.full((len(arrays), max(map(len, arrays)), 5), -1, np.float32)
        for row, boxes in zip(padded, arrays, strict=True):
            row[: len(boxes)] = boxes
        return padded
    stacked = np.stack(arrays)
    return stacked if role == "colour" else stacked[:, None]
