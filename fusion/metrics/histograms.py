"""Histograms of 8-bit images, a whole batch in one count, and their entropies.

Shapes: B images, K planes of an image, H height, W width, N bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256


def levels(image_BKHW: Tensor) -> Tensor:
    """8-bit levels as int64: rounded, clamped to 0..255, NaN as 0 (`score` turns such an image's values into NaN)."""
    return image_BKHW.nan_to_num(0.0).round().clamp(0, LEVELS - 1).long()


def entropy(index_BKHW: Tensor, bins: int) -> Tensor:
    """H = - sum p log2 p of the histogram of each plane, in bits, B x K. `index_BKHW`: int64 in 0..bins-1."""
    batch, planes, height, width = index_BKHW.shape
    offset_BK11 = torch.arange(batch * planes, device=index_BKHW.device).view(batch, planes, 1, 1) * bins
    count_N = torch.bincount((index_BKHW + offset_BK11).flatten(), minlength=batch * planes * bins)
    share_BKN = count_N.view(batch, planes, bins).double() / (height * width)
    # xlogy: an empty bin counts 0 log inf = 0
    return torch.xlogy(share_BKN, 1 / share_BKN).sum(dim=-1) / math.log(2)
