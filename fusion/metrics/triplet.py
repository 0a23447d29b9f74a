"""A fused image beside its two sources, and a memory for what several metrics need of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class Triplet:
    """`fused`, `visible`, `infrared`: float64, B x 1 x H x W, grey on the 0..255 scale, the same shape.

    `source_BSHW` stacks the sources, visible first (S = 2).
    """

    def __init__(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> None:
        self.fused, self.visible, self.infrared = fused, visible, infrared
        self._known: dict[tuple[Any, ...], Any] = {}

    @cached_property
    def source_BSHW(self) -> Tensor:
        """Both sources (S = 2), visible first."""
        return torch.cat([self.visible, self.infrared], dim=1)

    @cached_property
    def image_BTHW(self) -> Tensor:
        """All three (T = 3), the fused image last."""
        return torch.cat([self.visible, self.infrared, self.fused], dim=1)

    @property
    def height(self) -> int:
        """Rows of an image."""
        return self.fused.shape[-2]

    @property
    def width(self) -> int:
        """Columns of an image."""
        return self.fused.shape[-1]

    @property
    def short_side(self) -> int:
        """Pixels of the shorter side."""
        return min(self.height, self.width)

    def get(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return `work(self, *arguments)`, computed once however many metrics ask. The result must not be changed."""
        key = (work, *arguments)
        if key not in self._known:
            self._known[key] = work(self, *arguments)
        result: T = self._known[key]
        return result

    def nan(self) -> Tensor:
        """Return B times NaN, the value of a metric on images that are too small for it."""
        return self.fused.new_full((self.fused.shape[0],), torch.nan)

    def map(self, change: Callable[[Tensor], Tensor]) -> Triplet:
        """Return the three images after `change`, with nothing remembered."""
        return Triplet(change(self.fused), change(self.visible), change(self.infrared))


def to_batch(image: np.ndarray) -> Tensor:
    """Return an image, (H, W) or (H, W, C), as a batch of one: (1, C, H, W), of the same dtype."""
    return torch.tensor(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None]
