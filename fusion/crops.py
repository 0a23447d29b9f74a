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

from fusion.colour import luma
from fusion.corpus import Sample
from fusion.errors import UserError
from fusion.losses import box_mask
from fusion.seeds import generator

Batch = dict[str, Tensor]  # luma in [0, 1], each (B, 1, H, W); "mask": 1 inside boxes


@dataclass(frozen=True)
class CropConfig:
    """`identity_share`: how often stage 1 sees the modality that is not degraded, to learn to leave it alone.

    `shuffle`: crops held back to mix images and degradations within a batch.
    """

    size: int = 128
    per_image: int = 4
    flips: bool = True
    identity_share: float = 0.2
    shuffle: int = 512

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
    if stage == "moefusion":
        return {"visible": "visible", "infrared": "infrared", "mask": "boxes"}
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
    planes = _planes(sample)
    made = []
    for _ in range(config.per_image):
        roles = inputs(stage, sample, rng, config.identity_share)
        top = int(rng.integers(max(height - size, 0) + 1))
        left = int(rng.integers(max(width - size, 0) + 1))
        down, across = (rng.random(2) < 0.5) & config.flips
        crop = {}
        for role, name in roles.items():
            piece = luma(planes(name)[top : top + size, left : left + size])
            piece = _grow(piece, size)[:: -1 if down else 1, :: -1 if across else 1]
            crop[role] = np.ascontiguousarray(piece)
        made.append(crop)
    return made


def _planes(sample: Sample) -> Callable[[str], np.ndarray]:
    """Images of a sample by name, uint8; "boxes" as a picture, white inside, drawn once."""

    @cache
    def plane(name: str) -> np.ndarray:
        if name != "boxes":
            return getattr(sample, name)
        mask = box_mask([torch.from_numpy(sample.boxes)], sample.infrared.shape)
        return (mask[0, 0] * 255).to(torch.uint8).numpy()

    return plane


def _grow(piece: np.ndarray, size: int) -> np.ndarray:
    down, right = size - piece.shape[0], size - piece.shape[1]
    if not (down or right):
        return piece
    mode = "reflect" if down < piece.shape[0] and right < piece.shape[1] else "edge"
    return np.pad(piece, ((0, down), (0, right)), mode=mode)


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
        yield _stack([{role: luma(planes(name)[window]) for role, name in roles.items()}])


def _take(held: list, rng: np.random.Generator):
    """A random one, in constant time: the last one takes its place."""
    i = int(rng.integers(len(held)))
    held[i], held[-1] = held[-1], held[i]
    return held.pop()


def _stack(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {role: torch.from_numpy(np.stack([row[role] for row in rows])[:, None]) for role in rows[0]}
