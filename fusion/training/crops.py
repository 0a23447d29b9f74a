"""From corpus rows to training batches: several crops from an image while it is in memory, then shuffled.

Every draw is named by (seed, epoch, key, degradation), so a sample's crops do not depend on the worker that makes them.

Shapes: B batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from fusion.data.class_names import standard_name
from fusion.data.corpus import Sample
from fusion.images.colour import luma
from fusion.seeds import make_rng
from fusion.training.configs import CropConfig
from fusion.training.stages import STAGES
from fusion.training.tone import change_tone

# Luma in [0, 1], (B, 1, H, W), but "colour": RGB (B, 3, H, W). "mask", "attention": 1 inside boxes. "boxes":
# (B, most, 5), x1 y1 x2 y2 in pixels and a place in `CropConfig.classes`, or -1 in rows that are no box.
Batch = dict[str, Tensor]
MIN_VISIBLE_FRACTION = 0.3  # of a box's area must lie in a crop
MIN_BOX_PIXELS = 2.0  # width and height of a box in a crop


def crops(sample: Sample, stage: str, config: CropConfig, seed: int, epoch: int) -> list[dict[str, np.ndarray]]:
    """Cut `per_image` aligned crops of the images the stage takes, flipped together: float32 luma, size x size.

    With `config.resize` the whole image is scaled to that height and width instead. Images smaller than a crop are
    padded by reflection (by their edge where they are very small). `epoch` counts passes over the samples.
    """
    rng = make_rng(seed, "crops", epoch, sample.key, sample.degradation, sample.level)
    if config.resize != (0, 0):
        sample = resized(sample, *config.resize)
    height, width = sample.infrared.shape
    high, wide = config.shape
    image_of = _image_getter(sample, config.classes)
    crops_of_sample = []
    for _ in range(config.per_image):
        roles = STAGES[stage].inputs(sample, rng, config.identity_probability) | _attention(config.box_attention)
        top = int(rng.integers(max(height - high, 0) + 1))
        left = int(rng.integers(max(width - wide, 0) + 1))
        down, across = (rng.random(2) < 0.5) & config.flips
        crop = {}
        for role, name in roles.items():
            if role == "boxes":
                crop[role] = crop_boxes(image_of(name), top, left, (high, wide), down, across)
                continue
            piece = _pad(_to_float(image_of(name)[top : top + high, left : left + wide], role), high, wide)
            crop[role] = np.ascontiguousarray(piece[..., :: -1 if down else 1, :: -1 if across else 1])
        if config.tone:
            change_tone(crop, rng, config.tone)
        crops_of_sample.append(crop)
    return crops_of_sample


def resized(sample: Sample, height: int, width: int) -> Sample:
    """Return the sample scaled to height x width, whatever its shape, by bilinear interpolation; boxes go along."""
    high, wide = sample.infrared.shape
    scaled = {
        item.name: cv2.resize(getattr(sample, item.name), (width, height), interpolation=cv2.INTER_LINEAR)
        for item in fields(sample)
        if item.name != "boxes" and isinstance(getattr(sample, item.name), np.ndarray)
    }
    factors = np.array([width / wide, height / high] * 2, np.float32)
    return replace(sample, **scaled, boxes=sample.boxes * factors)


def crop_boxes(
    boxes_n5: np.ndarray, top: int, left: int, size: tuple[int, int], down: bool, across: bool
) -> np.ndarray:
    """Return boxes (n, 5), x1 y1 x2 y2 class, as they lie in a crop that was flipped; slivers are dropped."""
    high, wide = size
    moved_n4 = boxes_n5[:, :4] - np.array([left, top, left, top], np.float32)
    inside_n4 = moved_n4.clip(0, [wide, high, wide, high])
    sides_n2 = inside_n4[:, 2:] - inside_n4[:, :2]
    whole_n = (boxes_n5[:, 2:4] - boxes_n5[:, :2]).prod(1)
    keep_n = (sides_n2 >= MIN_BOX_PIXELS).all(1) & (sides_n2.prod(1) >= MIN_VISIBLE_FRACTION * whole_n)
    x1, y1, x2, y2 = inside_n4[keep_n].T
    if across:
        x1, x2 = wide - x2, wide - x1
    if down:
        y1, y2 = high - y2, high - y1
    return np.stack([x1, y1, x2, y2, boxes_n5[keep_n, 4]], 1)


def _image_getter(sample: Sample, classes: tuple[str, ...] = ()) -> Callable[[str], np.ndarray]:
    """Return a function name -> image of the sample, uint8.

    "boxes" is an image, white inside them, drawn once; "boxes_n5" are their numbers, float32 (n, 5).
    """

    @cache
    def image_of(name: str) -> np.ndarray:
        if name == "boxes_n5":
            index = {name: number for number, name in enumerate(classes)}
            class_n = np.array([index.get(standard_name(name), -1) for name in sample.classes], np.float32)
            return np.concatenate([sample.boxes, class_n[:, None]], 1)[class_n >= 0]
        if name != "boxes":
            image: np.ndarray = getattr(sample, "visible" if name == "colour" else name)
            return image
        mask = box_mask([torch.from_numpy(sample.boxes)], sample.infrared.shape)
        return (mask[0, 0] * 255).to(torch.uint8).numpy()

    return image_of


def _to_float(image: np.ndarray, role: str) -> np.ndarray:
    """Return an image in [0, 1]: "colour" as (3, H, W), all else as luma (H, W)."""
    return (image.transpose(2, 0, 1) / np.float32(255)) if role == "colour" else luma(image)


def _pad(piece: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Pad (..., H, W) right and below to (..., high, wide)."""
    height, width = piece.shape[-2:]
    down, right = high - height, wide - width
    if not (down or right):
        return piece
    pads = [(0, 0)] * (piece.ndim - 2) + [(0, down), (0, right)]
    padded: np.ndarray = np.pad(piece, pads, mode="reflect" if down < height and right < width else "edge")
    return padded


def training_batches(
    samples: Iterable[Sample], stage: str, config: CropConfig, batch_size: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """Yield full batches of shuffled crops; what is left over at the end is dropped."""
    rng = make_rng(seed, "shuffle", epoch)
    buffer: list[dict[str, np.ndarray]] = []
    ready: list[dict[str, np.ndarray]] = []
    for sample in samples:
        for crop in crops(sample, stage, config, seed, epoch):
            buffer.append(crop)
            if len(buffer) > config.shuffle_buffer:
                ready.append(_pop_random(buffer, rng))
            if len(ready) == batch_size:
                yield _collate(ready)
                ready = []
    while buffer:
        ready.append(_pop_random(buffer, rng))
        if len(ready) == batch_size:
            yield _collate(ready)
            ready = []


def _attention(box_attention: bool) -> dict[str, str]:
    return {"attention": "boxes"} if box_attention else {}


def validation_batches(
    samples: Iterable[Sample], stage: str, size: int, box_attention: bool = False
) -> Iterator[Batch]:
    """Yield a centre crop per sample, at most `size` on a side and a multiple of 8 where the image allows it.

    `box_attention`: as in `CropConfig`.
    """
    for sample in samples:
        height, width = sample.infrared.shape
        high, wide = (min(n, size) // 8 * 8 or min(n, size) for n in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        window = (slice(top, top + high), slice(left, left + wide))
        roles = STAGES[stage].inputs(sample, None, 0.0) | _attention(box_attention)
        image_of = _image_getter(sample)
        yield _collate(
            [{role: _to_float(image_of(name)[window], role) for role, name in roles.items() if role != "boxes"}]
        )


def _pop_random(buffer: list[dict[str, np.ndarray]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Take out a random one, in constant time: the last one takes its place."""
    i = int(rng.integers(len(buffer)))
    buffer[i], buffer[-1] = buffer[-1], buffer[i]
    return buffer.pop()


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
    """Return 1 on every pixel that a box touches, else 0: per image (n, 4), x1 y1 x2 y2 -> (B, 1, H, W) float32.

    The coordinates are pixels and continuous: the pixel of row r and column c lies between (c, r) and (c + 1, r + 1).
    What reaches over the border is cut off; boxes without an area and images without a box mark nothing.
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
