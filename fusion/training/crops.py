"""From corpus rows to training batches: several crops from an image while it is in memory, then shuffled.

Every draw is named by (seed, epoch, key, degradation), so a sample's crops do not depend on the worker that makes them.

Shapes: B batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fusion.data.class_names import standard_name
from fusion.data.corpus import Sample
from fusion.images.colour import luma
from fusion.seeds import make_rng
from fusion.training.configs import CropConfig
from fusion.training.stages import STAGES

# Luma in [0, 1], (B, 1, H, W), but "colour": RGB (B, 3, H, W). "mask": 1 inside boxes. "boxes": (B, most, 5), x1 y1
# x2 y2 in pixels and a place in `CropConfig.classes`, or -1 in rows that are no box.
Batch = dict[str, Tensor]
PART_OF_BOX = 0.3  # of its area must lie in a crop
MIN_BOX = 2.0  # pixels


def crops(sample: Sample, stage: str, config: CropConfig, seed: int, epoch: int) -> list[dict[str, np.ndarray]]:
    """`per_image` aligned crops of the images the stage takes, flipped together: float32 luma, size x size.

    Images smaller than a crop are padded by reflection (by their edge where they are very small).
    """
    rng = make_rng(seed, "crops", epoch, sample.key, sample.degradation, sample.level)
    height, width = sample.infrared.shape
    size = config.size
    planes = _image_getter(sample, config.classes)
    made = []
    for _ in range(config.per_image):
        roles = STAGES[stage].inputs(sample, rng, config.identity_probability)
        top = int(rng.integers(max(height - size, 0) + 1))
        left = int(rng.integers(max(width - size, 0) + 1))
        down, across = (rng.random(2) < 0.5) & config.flips
        crop = {}
        for role, name in roles.items():
            if role == "boxes":
                crop[role] = crop_boxes(planes(name), top, left, size, down, across)
                continue
            piece = _pad(_to_float(planes(name)[top : top + size, left : left + size], role), size)
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


def _image_getter(sample: Sample, classes: tuple[str, ...] = ()) -> Callable[[str], np.ndarray]:
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


def _to_float(image: np.ndarray, role: str) -> np.ndarray:
    """In [0, 1]: colour as (3, H, W), all else as luma (H, W)."""
    return (image.transpose(2, 0, 1) / np.float32(255)) if role == "colour" else luma(image)


def _pad(piece: np.ndarray, size: int) -> np.ndarray:
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
    rng = make_rng(seed, "shuffle", epoch)
    held: list[dict[str, np.ndarray]] = []
    ready: list[dict[str, np.ndarray]] = []
    for sample in samples:
        for crop in crops(sample, stage, config, seed, epoch):
            held.append(crop)
            if len(held) > config.shuffle_buffer:
                ready.append(_pop_random(held, rng))
            if len(ready) == batch_size:
                yield _collate(ready)
                ready = []
    while held:
        ready.append(_pop_random(held, rng))
        if len(ready) == batch_size:
            yield _collate(ready)
            ready = []


def validation_batches(samples: Iterable[Sample], stage: str, size: int) -> Iterator[Batch]:
    """One centre crop a sample, at most `size` on a side and a multiple of 8 where the image allows it."""
    for sample in samples:
        height, width = sample.infrared.shape
        high, wide = (min(n, size) // 8 * 8 or min(n, size) for n in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        window = (slice(top, top + high), slice(left, left + wide))
        roles = STAGES[stage].inputs(sample, None, 0.0)
        planes = _image_getter(sample)
        yield _collate(
            [{role: _to_float(planes(name)[window], role) for role, name in roles.items() if role != "boxes"}]
        )


def _pop_random(held: list, rng: np.random.Generator):
    """A random one, in constant time: the last one takes its place."""
    i = int(rng.integers(len(held)))
    held[i], held[-1] = held[-1], held[i]
    return held.pop()


def _collate(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {role: torch.from_numpy(_stack_arrays([row[role] for row in rows], role)) for role in rows[0]}


def _stack_arrays(arrays: list[np.ndarray], role: str) -> np.ndarray:
    if role == "boxes":
        padded = np.full((len(arrays), max(map(len, arrays)), 5), -1, np.float32)
        for row, boxes in zip(padded, arrays, strict=True):
            row[: len(boxes)] = boxes
        return padded
    stacked = np.stack(arrays)
    return stacked if role == "colour" else stacked[:, None]


def box_mask(boxes: Sequence[Tensor], size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """1 on every pixel that a box touches, else 0: per image (n, 4) x1 y1 x2 y2 in pixels -> (B, 1, H, W) float.

    The coordinates are continuous: the pixel of row r and column c lies between (c, r) and (c + 1, r + 1). What
    reaches over the border is cut off; boxes without an area and images without a box mark nothing.
    """
    rows_H, columns_W = (torch.arange(n, device=device, dtype=torch.float32) for n in size)
    masks = []
    for boxes_n4 in boxes:
        x1, y1, x2, y2 = boxes_n4.to(device, torch.float32).reshape(-1, 4)[:, :, None].unbind(1)
        sound = (x2 > x1) & (y2 > y1)
        down_nH = (rows_H + 1 > y1) & (rows_H < y2) & sound
        across_nW = (columns_W + 1 > x1) & (columns_W < x2)
        masks.append((down_nH.float().T @ across_nW.float() > 0).float())
    return torch.stack(masks)[:, None]
